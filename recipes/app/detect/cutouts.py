"""A cutout of each object in a photo, with soft edges like those of --predict."""

import collections
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from app.detect import scenes
from app.detect.instances import Instance
from app.predict import cutout, matting, png

import cv2
import numpy as np

LEAST_VISIBLE = 0.5  # of its mask; what others hide further is, as a rule, one of them, detected twice
SURROUNDINGS = 0.15  # of an object's longer side: room for hair, and the background that its colours are freed from
MARGIN = 0.02  # of its longer side: transparent pixels around it
FILE_NAME = re.compile(r"(.+)_[1-9][0-9]*_cutout\.png", re.DOTALL)  # the name of the photo, the number of the object


class ObjectCutout(NamedTuple):
    """An object on transparency."""

    picture: np.ndarray  # RGBA, uint8 [h, w, 4]; transparent pixels are black
    top: int  # of the picture in the photo, pixels
    left: int


def write(
    folder: pathlib.Path,
    name: str,
    photo: np.ndarray,
    numbers: np.ndarray,
    instances: Sequence[Instance],
    min_score: float,
    transparent: np.ndarray | None = None,
) -> dict[int, dict]:
    """Writes NAME_K_cutout.png for each instance with a score of `min_score` or more, unless others hide most of it.

    Takes a photo, uint8 [H, W, 3], its instance map, uint16 [H, W], and its own colours and alpha, uint8 [H, W, 4], if
    parts of it are transparent.

    Returns:
      For each number K the "cutout" of detections.json: "file_name" in the folder, and "bbox", its left, top, width and
      height in the photo, pixels.
    """
    written = {}
    for number, instance in enumerate(instances, 1):
        made = cut_out(photo, numbers, number, instance, transparent) if instance.score >= min_score else None
        if made:
            file_name = f"{name}_{number}_cutout.png"
            png.write(folder / file_name, made.picture)
            height, width = made.picture.shape[:2]
            written[number] = {"file_name": file_name, "bbox": [made.left, made.top, width, height]}
    return written


def of_earlier_runs(folder: pathlib.Path, names: Iterable[str]) -> dict[str, set[str]]:
    """The file names of the cutouts in an output folder, by the name of their photo."""
    found = collections.defaultdict(set)
    for parent in {pathlib.Path(name).parent for name in names}:
        for path in (folder / parent).glob("*_cutout.png"):
            match = FILE_NAME.fullmatch(path.name)
            if match:
                found[str(parent / match[1])].add(str(parent / path.name))
    return found


def remove(folder: pathlib.Path, file_names: Iterable[str], kept: Mapping[int, dict]) -> None:
    """Removes cutouts of an earlier run from an output folder, except for `kept`, those that `write` has written."""
    for file_name in set(file_names) - {one["file_name"] for one in kept.values()}:
        (folder / file_name).unlink(missing_ok=True)


def cut_out(
    photo: np.ndarray, numbers: np.ndarray, number: int, instance: Instance, transparent: np.ndarray | None = None
) -> ObjectCutout | None:
    """Cuts an object out of a photo, uint8 [H, W, 3]; None if others hide most of it, or it is transparent.

    `numbers` is the photo's instance map, uint16 [H, W], `number` the object's in it. Pixels that the map gives to
    other objects are transparent, and so is what is transparent in the photo, see cutout.cut_out.
    """
    window = _surroundings(instance, numbers.shape)
    numbers = numbers[window]
    own = numbers == number
    if own.sum() < max(1, LEAST_VISIBLE * instance.mask.sum()):
        return None
    top, left = (span.start for span in window)
    opacity = _fit(photo[window], instance, top, left)
    opacity = cv2.multiply(opacity, _clear_of(np.uint8((numbers > 0) & ~own)), scale=1 / 255)
    if (opacity[own] > 127).mean() < 0.5:  # too small, too thin or too unsure to be fitted
        opacity = np.uint8(own) * 255
    picture = cutout.on_transparency(photo[window], opacity, None if transparent is None else transparent[window])
    if not picture[..., 3].any():
        return None
    bounds = scenes.bounds(picture[..., 3] > 0)
    margin = max(1, round(MARGIN * max(bounds[2] - bounds[0], bounds[3] - bounds[1])))
    first_row, first_column = (max(0, begin - margin) for begin in bounds[:2])
    picture = picture[first_row : bounds[2] + margin, first_column : bounds[3] + margin]
    return ObjectCutout(picture, top + first_row, left + first_column)


def _surroundings(instance: Instance, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The part of the photo that an object and its surroundings cover."""
    top, left, bottom, right = scenes.bounds(instance.mask)
    margin = 2 + round(SURROUNDINGS * max(bottom - top, right - left))
    top, bottom, left, right = instance.top + top, instance.top + bottom, instance.left + left, instance.left + right
    rows = slice(max(0, top - margin), min(shape[0], bottom + margin))
    return rows, slice(max(0, left - margin), min(shape[1], right + margin))


def _fit(part: np.ndarray, instance: Instance, top: int, left: int) -> np.ndarray:
    """The opacity of an object in a part of the photo, which begins at `top` and `left`; uint8 0..255."""
    coarse = np.float32(instance.mask) if instance.probabilities is None else instance.probabilities
    size = part.shape[1::-1]
    down, right = instance.top - top, instance.left - left  # from the part's corner to the mask's; may be negative
    inside = cv2.resize(coarse, instance.mask.shape[::-1])[max(0, -down) :, max(0, -right) :]
    inside = inside[: size[1] - max(0, down), : size[0] - max(0, right)]
    probabilities = np.zeros(part.shape[:2], np.float32)
    probabilities[max(0, down) :, max(0, right) :][: inside.shape[0], : inside.shape[1]] = inside
    if min(size) == 1:  # no windows to fit in
        return np.uint8(probabilities > 0.5) * 255
    scale = max(1, -(-matting.SIDE // max(size)))  # in a smaller picture the windows would be too large for the object
    guide = matting.Guide(cv2.resize(part, None, fx=scale, fy=scale))
    interpolation = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return cv2.resize(cutout.alpha(guide.fit(probabilities)), size, interpolation=interpolation)


def _clear_of(others: np.ndarray) -> np.ndarray:
    """255, 0 on other objects, uint8 0 or 1 [H, W], and 128 or more beside them, so that the edge has no steps."""
    beside = np.uint8(255) - cv2.blur(others * 255, (3, 3))
    softened = cv2.addWeighted(beside, 2, beside, 0, -255)
    return np.maximum(softened, 128) * (1 - others)
