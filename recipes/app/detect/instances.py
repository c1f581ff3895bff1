"""Instances that a detector found in a photo: drawn over it, as a map, and in COCO's results format."""

import collections
import colorsys
import itertools
import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from app.detect import scenes

import cv2
import matplotlib
import numpy as np
from official.vision.utils.object_detection import visualization_utils
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_masks

KINDS = 4  # in a summary
OPACITY = 0.45  # of the tint
FONT = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # Latin, Greek, Cyrillic


class Instance(NamedTuple):
    """One object in a photo."""

    category_id: int
    name: str
    score: float | None  # 0..1; None for a true instance
    box: tuple[float, float, float, float]  # ymin, xmin, ymax, xmax, fractions of the photo's height and width
    mask: np.ndarray  # bool [h, w], the part of the photo around the object
    top: int  # of that part in the photo, pixels
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Where `mask` lies: photo[instance.window] has its size."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def of_mask(mask: np.ndarray, name: str) -> Instance:
    """A true instance, of a mask [H, W] of the whole photo."""
    (height, width), (top, left, bottom, right) = mask.shape, scenes.bounds(mask)
    return Instance(0, name, None, (top / height, left / width, bottom / height, right / width), mask, 0, 0)


def instance_map(shape: tuple[int, int], instances: Sequence[Instance]) -> np.ndarray:
    """The number of the instance at each pixel: uint16 [H, W], 0 = none, k = the k-th; the first one is on top."""
    numbers = np.zeros(shape, np.uint16)
    for number, instance in reversed(list(enumerate(instances, 1))):
        numbers[instance.window][instance.mask] = number
    return numbers


def summary(instances: Sequence[Instance]) -> str:
    """How many of which kind, the most frequent ones first: "3 cat, 1 dog, 4 more kinds"."""
    counts = [f"{count} {name}" for name, count in collections.Counter(one.name for one in instances).most_common()]
    shown = counts[:KINDS]
    rest = [f"{len(counts) - KINDS} more kinds"] if len(counts) > KINDS else []
    return ", ".join(textwrap.shorten(kind, 30, placeholder="...") for kind in shown + rest) or "nothing"


def overlay(photo: np.ndarray, instances: Sequence[Instance]) -> np.ndarray:
    """Draws instances over a photo: tint, outline, box, name and score, in one colour each.

    Args and returns: RGB, uint8 [H, W, 3]. Lines and letters scale with the photo.
    """
    picture = photo.copy()
    numbers = instance_map(photo.shape[:2], instances)
    line = max(2, round(min(photo.shape[:2]) / 250))
    edge = line + 1 + line // 4  # a dark rim around each line, for light photos
    colored = [(number, instance, _color(number)) for number, instance in enumerate(instances, 1)]
    for number, instance, color in colored:
        part, visible = picture[instance.window], numbers[instance.window] == number
        part[visible] = (part[visible] * np.float32(1 - OPACITY) + np.float32(OPACITY) * np.float32(color)).astype(
            np.uint8
        )
    for _, instance, color in reversed(colored):  # the highest score comes last, on top
        outlines, _ = cv2.findContours(instance.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        part = picture[instance.window]
        for thickness, ink in ((edge, (0, 0, 0)), (line, color)):
            cv2.drawContours(part, outlines, -1, ink, thickness, cv2.LINE_AA)

    image = Image.fromarray(picture)
    for _, instance, color in reversed(colored):
        for thickness, ink in ((edge, (0, 0, 0)), (line, color)):
            visualization_utils.draw_bounding_box_on_image(image, *instance.box, color=ink, thickness=thickness)
    font = ImageFont.truetype(FONT, max(12, round(min(photo.shape[:2]) / 36)))
    plates = []
    for _, instance, color in colored:
        plates.append(_label(image, instance, color, font, plates))
    return np.asarray(image)


def _color(index: int) -> tuple[int, int, int]:
    """Bright colours; steps of the golden ratio keep neighbours apart."""
    red, green, blue = colorsys.hsv_to_rgb(0.462 + index * 0.618034, (0.75, 0.45)[(index - 1) // 8 % 2], 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _label(
    image: Image.Image, instance: Instance, color: tuple, font: ImageFont.FreeTypeFont, plates: Sequence[tuple]
) -> tuple[int, int, int, int]:
    """Writes name and score on a plate at the box, clear of the other `plates` if possible; returns its place.

    visualization_utils always writes them 10 pixels high, and outside the picture for a box at its top.
    """
    draw = ImageDraw.Draw(image)
    text = instance.name if instance.score is None else f"{instance.name} {instance.score:.0%}"
    margin = font.size // 5
    width, height = round(draw.textlength(text, font)) + 2 * margin, font.size + 2 * margin
    box = np.array(instance.box) * (image.height, image.width, image.height, image.width)
    places = []
    for top in (box[0] - height, box[0], box[2], box[0] - 2 * height, box[2] - height):  # above, inside, below, ...
        top = max(0, min(round(top), image.height - height))
        left = max(0, min(round(box[1]), image.width - width))
        places.append((left, top, left + width, top + height))
    place = next((place for place in places if not any(_overlap(place, plate) for plate in plates)), places[0])
    draw.rectangle(place, fill=color)
    ink = "black" if np.dot(color, (0.299, 0.587, 0.114)) > 110 else "white"
    draw.text((place[0] + margin, place[1] + height / 2), text, fill=ink, font=font, anchor="lm")
    return place


def _overlap(one: tuple, other: tuple) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def image_ids(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, int]:
    """An image id for each photo, as COCO's formats need it: its name, if that is a number, else an unused one."""
    named = {path: int(path.stem) for path in paths if path.stem.isdecimal()}
    free = itertools.filterfalse(set(named.values()).__contains__, itertools.count(1))
    ids, used = {}, set()
    for path in paths:
        number = named.get(path)
        ids[path] = next(free) if number is None or number in used else number
        used.add(number)
    return ids


def coco_results(size: tuple[int, int], instances: Sequence[Instance], image_id: int, file_name: str) -> list[dict]:
    """The instances of a photo of size (H, W) in COCO's results format, as pycocotools' `COCO.loadRes` reads it.

    Source of the format: https://cocodataset.org/#format-results. "file_name" and "instance", the number in the
    instance map, are added. With nothing found in any photo the list is empty, which `loadRes` refuses.
    """
    height, width = size
    results = []
    frame = np.zeros((height, width), np.uint8, order="F")  # by columns, as the encoding goes
    for number, instance in enumerate(instances, 1):
        frame[instance.window] = instance.mask
        encoded = coco_masks.encode(frame)
        frame[instance.window] = 0
        ymin, xmin, ymax, xmax = (min(max(edge, 0.0), 1.0) for edge in instance.box)
        box = (xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height)
        results.append(
            {
                "image_id": image_id,
                "category_id": instance.category_id,
                "bbox": [round(value, 2) for value in box],
                "score": round(instance.score, 5),
                "segmentation": {"size": [height, width], "counts": encoded["counts"].decode("ascii")},
                "file_name": file_name,
                "instance": number,
            }
        )
    return results
