"""Objects that are too small for the size of a training: counted in photos and their labels."""

from collections.abc import Sequence
from typing import NamedTuple

from app.cli import percent
from app.datasets import names
from app.datasets.regions import Annotation

import cv2
import numpy as np
from pycocotools import mask as coco_masks

SPECK = 4  # pixels: what is smaller is no object in a mask, and hardly one that a network can learn
BLOCK = 2**24  # pixels of a mask that are searched at a time, to save memory
SURE = 16  # resized pixels: an annotation of more, and at least two both ways, is not lost
MOST = 0.1  # of the objects or pixels of a class may vanish without a word


class Objects(NamedTuple):
    """The objects of a class, and those that are lost: resized to nothing, or to a speck of less than a quarter."""

    count: int = 0
    lost: int = 0
    lost_pixels: int = 0  # at the photo's own size

    def plus(self, other: "Objects") -> "Objects":
        return Objects(*map(sum, zip(self, other, strict=True)))


def sampled(shape: tuple[int, int], image_size: int) -> list[np.ndarray]:
    """The rows and the columns that data.resize takes of labels [H, W]."""
    return [((np.arange(image_size) + 0.5) * side / image_size).astype(int) for side in shape]


def in_mask(label: np.ndarray, values: Sequence[int], image_size: int) -> dict[int, Objects]:
    """Counts the regions of these values in a mask, uint8 [H, W], and those that are lost at `image_size`."""
    objects = dict.fromkeys(values, Objects())
    rows, columns = sampled(label.shape, image_size)
    block = max(1, BLOCK // label.shape[1])
    for top in range(0, len(label), block):
        part = label[top : top + block]
        places = np.ix_(rows[(rows >= top) & (rows < top + block)] - top, columns)
        for value in values:
            is_value = cv2.inRange(part, value, value)
            _, regions, facts, _ = cv2.connectedComponentsWithStats(is_value, connectivity=8)
            areas = facts[:, cv2.CC_STAT_AREA]
            is_object = areas >= SPECK
            is_object[0] = False  # what is around the regions
            is_lost = is_object & _is_lost(areas, np.bincount(regions[places].ravel(), minlength=len(areas)))
            found = Objects(int(is_object.sum()), int(is_lost.sum()), int(areas[is_lost].sum()))
            objects[value] = objects[value].plus(found)
    return objects


def in_annotations(annotations: Sequence[Annotation], image_size: int) -> dict[int, Objects]:
    """Counts the annotations of a photo but for crowds, by class id, and those that are lost at `image_size`."""
    objects = {}
    for annotation in annotations:
        if annotation.is_crowd:
            continue
        shape = annotation.region["size"]
        strides = np.divide(shape, image_size)
        area = int(coco_masks.area(annotation.region))
        sides = coco_masks.toBbox(annotation.region)[:1:-1]  # height, width
        is_large = (sides >= 2 * strides).all() and area > SURE * strides.prod()
        is_lost = not is_large and _is_lost(area, annotation.mask()[np.ix_(*sampled(shape, image_size))].sum())
        found = Objects(1, int(is_lost), area * is_lost)
        objects[annotation.class_id] = objects.get(annotation.class_id, Objects()).plus(found)
    return objects


def _is_lost(area, left):
    """Whether objects of these areas are lost with these pixels left; numbers or arrays."""
    return (left == 0) | ((left < SPECK) & (4 * left < area))


def describe(
    class_names: Sequence[str], ids: np.ndarray, pixels: np.ndarray, facts: Sequence, image_size: int
) -> list[str]:
    """A text for each class of which too much is lost at `image_size`.

    Args:
      ids: from a value of the labels to a class id.
      pixels: of each class.
      facts: folder.Facts of each photo.
    """
    texts = []
    for number, name in enumerate(class_names):
        if name.strip("_").lower() in names.NO_OBJECT:
            continue
        with_it, left = (
            sum(number in ids[list(values)] for values in kind)
            for kind in ([fact.pixels for fact in facts], [fact.left for fact in facts])
        )
        objects = Objects()
        for fact in facts:
            for value, found in fact.objects.items():
                objects = objects.plus(found) if ids[value] == number else objects
        if left < with_it / 2:
            photos = f"{with_it - left} of the {with_it} masks or photos with it"
            texts.append(f"{name}: no pixel of it is left at {image_size} px in {photos}")
        elif objects.lost > MOST * objects.count or objects.lost_pixels > MOST * pixels[number]:
            share = percent(objects.lost_pixels / pixels[number], 0)
            lost = f"{objects.lost} of its {objects.count} objects, {share} of its pixels"
            texts.append(f"{name}: {lost}, vanish or shrink to fewer than {SPECK} pixels at {image_size} px")
    return texts
