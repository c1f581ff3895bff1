"""Instances in a photo: drawn over it, as a map, and in COCO's results format."""

import collections
import colorsys
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from app.detect import scenes
from common import masks

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_masks

OPACITY = 0.45  # of the tint


class Instance(NamedTuple):
    """One object in a photo."""

    category_id: int
    name: str
    score: float | None  # 0..1; None for a true instance
    box: tuple[float, float, float, float]  # ymin, xmin, ymax, xmax, fractions of the photo's height and width
    mask: np.ndarray  # bool [h, w], the part of the photo around the object
    top: int  # of that part in the photo, pixels
    left: int
    probabilities: np.ndarray | None = None  # float32 [h', w'], 0..1, of the same part at a lower resolution

    @property
    def window(self) -> tuple[slice, slice]:
        """Where `mask` lies: photo[instance.window] has its size."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def of_mask(mask: np.ndarray, name: str) -> Instance:
    """A true instance, of a mask [H, W] of the whole photo."""
    height, width = mask.shape
    top, left, bottom, right = scenes.bounds(mask)
    return Instance(0, name, None, (top / height, left / width, bottom / height, right / width), mask, 0, 0)


def cropped(instance: Instance) -> Instance:
    """The same instance, which keeps no more of its mask than the part with the object."""
    top, left, bottom, right = scenes.bounds(instance.mask)
    part = instance.mask[top:bottom, left:right].copy()
    return instance._replace(mask=part, top=instance.top + top, left=instance.left + left)


def instance_map(shape: tuple[int, int], instances: Sequence[Instance]) -> np.ndarray:
    """The number of the instance at each pixel: uint16 [H, W], 0 = none, k = the k-th; the first one is on top."""
    numbers = np.zeros(shape, np.uint16)
    for number, instance in reversed(list(enumerate(instances, 1))):
        numbers[instance.window][instance.mask] = number
    return numbers


def summary(instances: Sequence[Instance]) -> str:
    """How many of which class, the most frequent ones first: "3 cat, 1 dog, 4 more kinds"."""
    names = (masks.one_line(instance.name) or f"class {instance.category_id}" for instance in instances)
    counts = collections.Counter(names).most_common()
    parts = [f"{count} {name}" for name, count in counts[:4]]
    if len(counts) > 4:
        parts.append(f"{len(counts) - 4} more kinds")
    return ", ".join(parts) or "nothing"


def overlay(photo: np.ndarray, instances: Sequence[Instance]) -> np.ndarray:
    """Draws instances over a photo, uint8 [H, W, 3]: tint, outline, box, name and score, each in its color.

    The first instance is on top. Lines and letters scale with the photo.
    """
    picture = photo.copy()
    height, width = photo.shape[:2]
    numbers = instance_map((height, width), instances)
    colors = [_color(number) for number in range(1, len(instances) + 1)]
    covered = numbers > 0
    tints = np.float32(OPACITY) * np.float32([(0, 0, 0), *colors])
    picture[covered] = (picture[covered] * np.float32(1 - OPACITY) + tints[numbers[covered]]).astype(np.uint8)
    line = max(2, round(min(height, width) / 250))
    last = np.array((height, width, height, width)) - 1 - line // 2
    for instance, color in reversed(list(zip(instances, colors, strict=True))):
        outline, _ = cv2.findContours(instance.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        box = np.multiply(instance.box, (height, width, height, width))
        top, left, bottom, right = np.clip(np.rint(box), line // 2, last).astype(int).tolist()  # not half outside
        for thickness, ink in ((line + 1 + line // 4, (0, 0, 0)), (line, color)):  # a dark rim, for light photos
            cv2.drawContours(picture, outline, -1, ink, thickness, cv2.LINE_AA, offset=(instance.left, instance.top))
            cv2.rectangle(picture, (left, top), (right, bottom), ink, thickness)
    return _label(picture, instances, colors)


def _color(number: int) -> tuple[int, int, int]:
    """A bright colour; steps of the golden ratio keep neighbours apart."""
    saturation = (0.75, 0.45)[(number - 1) // 8 % 2]
    red, green, blue = colorsys.hsv_to_rgb(0.462 + number * 0.618034, saturation, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _label(picture: np.ndarray, instances: Sequence[Instance], colors: Sequence[tuple]) -> np.ndarray:
    """Writes names and scores on plates at the boxes: inside the photo and, if possible, clear of other plates."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(12, round(min(image.size) / 36))
    ascent, descent = ImageFont.truetype(masks.FONT, size).getmetrics()
    margin = size // 5
    height = size + 2 * margin
    taken = np.zeros(picture.shape[:2], bool)
    for instance, color in zip(instances, colors, strict=True):
        parts = _lettering(instance, size)
        lengths = [draw.textlength(text, font) for text, font in parts]
        width = round(sum(lengths)) + 2 * margin
        top, left, bottom, _ = np.multiply(instance.box, (image.height, image.width, image.height, image.width))
        x = max(0, min(round(left), image.width - width))
        places = (top - height, top, bottom, top - 2 * height, bottom - height)  # above, inside, below, ...
        ys = [max(0, min(round(y), image.height - height)) for y in places]
        y = next((y for y in ys if not taken[y : y + height, x : x + width].any()), ys[0])
        taken[y : y + height, x : x + width] = True
        draw.rectangle((x, y, x + width, y + height), fill=color)
        ink = "black" if np.dot(color, (0.299, 0.587, 0.114)) > 110 else "white"
        baseline = y + (height + ascent - descent) / 2
        for (text, font), begin in zip(parts, itertools.accumulate(lengths, initial=x + margin), strict=False):
            draw.text((begin, baseline), text, fill=ink, font=font, anchor="ls")
    return np.asarray(image)


def _lettering(instance: Instance, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The name and score of an instance in parts, each with a font that has its letters."""
    name, other = masks.lettering(instance.name, f"class {instance.category_id}")
    text = name if instance.score is None else f"{name} {instance.score:.0%}"
    missing = masks.lacking(text)
    parts = itertools.groupby(text, key=missing.__contains__)
    fonts = (masks.FONT, other)
    return [("".join(letters), ImageFont.truetype(fonts[is_missing], size)) for is_missing, letters in parts]


def coco_results(
    size: tuple[int, int],
    instances: Iterable[Instance],
    image_id: int,
    file_name: str,
    cutouts: Mapping[int, dict] | None = None,
) -> list[dict]:
    """The instances of a photo of size (H, W) in COCO's results format: https://cocodataset.org/#format-results.

    "file_name" and "instance", the number in the instance map, are added, and "cutout" to those in `cutouts`.
    """
    height, width = size
    results = []
    for number, instance in enumerate(instances, 1):
        frame = np.zeros((height, width), np.uint8, order="F")
        frame[instance.window] = instance.mask
        ymin, xmin, ymax, xmax = np.clip(instance.box, 0, 1).tolist()
        box = (xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height)
        segmentation = coco_masks.encode(frame)
        result = {
            "image_id": image_id,
            "category_id": instance.category_id,
            "bbox": [round(value, 2) for value in box],
            "score": round(instance.score, 5),
            "segmentation": {"size": [height, width], "counts": segmentation["counts"].decode("ascii")},
            "file_name": file_name,
            "instance": number,
        }
        if cutouts and number in cutouts:
            result["cutout"] = cutouts[number]
        results.append(result)
    return results
