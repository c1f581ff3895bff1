"""The segmentations in COCO annotations: polygons and run lengths, checked, as masks, label maps and scenes."""

import json
from typing import Any, NamedTuple

from app.datasets import LabeledImage, Masks, Scene
from app.datasets.masks import IGNORED

import numpy as np
from pycocotools import mask as coco_masks

TOLERANCE = 1.0  # pixels by which a polygon may leave its photo
ROWS = "its runs go along the rows, COCO's go down the columns, as pycocotools writes them"


class Annotation(NamedTuple):
    """An instance, or a crowd: several instances that are not told apart."""

    class_id: int
    region: dict[str, Any]  # compressed run lengths, as pycocotools takes them
    is_crowd: bool

    def mask(self) -> np.ndarray:
        """Bool [H, W], of the whole photo."""
        return coco_masks.decode(self.region).view(bool)


def label_map(size: tuple[int, int], annotations: list[Annotation]) -> np.ndarray:
    """The class of each pixel, uint8 [H, W]: that of the smallest annotation there, IGNORED in a crowd, otherwise 0."""
    label = np.zeros(size[::-1], np.uint8)
    for annotation in sorted(annotations, key=lambda one: coco_masks.area(one.region), reverse=True):
        x, y, width, height = coco_masks.toBbox(annotation.region).astype(int)
        window = slice(y, y + height), slice(x, x + width)  # a mask of a large photo is mostly empty
        label[window][annotation.mask()[window]] = IGNORED if annotation.is_crowd else annotation.class_id
    return label


def scene(example: LabeledImage, class_ids: list[int]) -> Scene:
    """A photo with its instances; the scene's classes 1, 2, ... are `class_ids`, others are left out."""
    image = example.read_image()
    annotations = [annotation for annotation in example.annotations if annotation.class_id in (*class_ids, IGNORED)]
    instances = [annotation for annotation in annotations if not annotation.is_crowd]
    crowds = [annotation.region for annotation in annotations if annotation.is_crowd]
    classes = np.array([1 + class_ids.index(annotation.class_id) for annotation in instances], np.int32)
    masks = Masks([annotation.region for annotation in instances], image.shape[:2])
    return Scene(image, classes, masks, coco_masks.decode(coco_masks.merge(crowds)).view(bool) if crowds else None)


def read(outline: Any, width: int, height: int) -> dict[str, Any]:
    """The "segmentation" of an annotation as compressed run lengths; raises ValueError if it does not fit the image."""
    if isinstance(outline, dict):
        if outline.get("size") != [height, width]:
            raise ValueError(f"its mask has another size than the image, {height} x {width}")
        runs = _runs(outline)
        if sum(runs) != width * height:
            raise ValueError("its mask has another number of pixels than the image")
        return coco_masks.frPyObjects({"counts": runs, "size": [height, width]}, height, width)
    if not outline or not isinstance(outline, list):
        raise ValueError("it has neither a polygon nor a mask")
    for polygon in outline:
        is_list = isinstance(polygon, list) and all(isinstance(value, int | float) for value in polygon)
        if not is_list or len(polygon) == 2:  # a pair is a point
            wanted = "a polygon has to be a list of numbers, in a list of polygons: [[x1, y1, x2, y2, x3, y3, ...]]"
            raise ValueError(f"{wanted}; the segmentation is {json.dumps(outline)[:40]}...")
        if len(polygon) % 2 or len(polygon) < 6:
            raise ValueError(f"a polygon of {len(polygon) / 2:g} points; it needs three or more")
        for values, limit in ((polygon[::2], width), (polygon[1::2], height)):
            wrong = [value for value in values if not -TOLERANCE <= value <= limit + TOLERANCE]
            if wrong:
                raise ValueError(f"a polygon outside of the image: {str(wrong[0])[:20]} is not in 0 to {limit}")
    return coco_masks.merge(coco_masks.frPyObjects(outline, height, width))


def contradiction(entry: dict[str, Any], region: dict[str, Any]) -> str:
    """How the "bbox" of an annotation, or the "area" of its run lengths, contradicts its mask; "" if they agree.

    Boxes may be drawn by hand, or rounded, and areas be those of the boxes. Without a box, run lengths may show by
    themselves that they go along the rows.
    """
    height, width = region["size"]
    box, area, attributes = (entry.get(name) for name in ("bbox", "area", "attributes"))
    has_box = _is_box(box) and min(box[2:]) > 0
    is_rotated = isinstance(attributes, dict) and attributes.get("rotation")  # CVAT's boxes are those before
    found = coco_masks.toBbox(region).tolist()
    runs = _runs(entry["segmentation"]) if isinstance(entry["segmentation"], dict) else None
    if has_box and not is_outside(box, width, height) and not is_rotated and not _agree(box, found):
        advice = 'correct the wrong one, or remove "bbox"'
        if runs and _agree(box, coco_masks.toBbox(_by_rows(runs, width, height)).tolist()):
            advice = ROWS
        return f"its bbox is {box}, but that of its mask {found}; {advice}"
    if not runs and any(max(polygon) <= 1 and any(value % 1 for value in polygon) for polygon in entry["segmentation"]):
        return "its polygon lies within the first pixel: its coordinates are fractions, COCO's are pixels"
    if runs and not has_box and _edge(region) > 3 * _edge(_by_rows(runs, width, height)):
        return f"its mask is in shreds; {ROWS}; if they do, add its bbox"
    pixels = int(coco_masks.area(region))
    if runs and isinstance(area, int | float) and area > 0:
        of_box = box[2] * box[3] if has_box else 0
        if not any(one <= 2 * other + 16 and other <= 2 * one + 16 for one, other in ((area, pixels), (area, of_box))):
            return f'its area is {area:g}, but its mask has {pixels} pixels; correct the wrong one, or remove "area"'
    return ""


def _by_rows(runs: list[int], width: int, height: int) -> dict[str, Any]:
    """The region of run lengths if they go along the rows of an image."""
    turned = coco_masks.frPyObjects({"counts": runs, "size": [width, height]}, width, height)
    return coco_masks.encode(np.asfortranarray(coco_masks.decode(turned).T))


def _edge(region: dict[str, Any]) -> int:
    """The length of the outlines in a region, in pixels."""
    mask = coco_masks.decode(region)
    return np.count_nonzero(mask[1:] != mask[:-1]) + np.count_nonzero(mask[:, 1:] != mask[:, :-1])


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)


def _agree(box: list[float], other: list[float]) -> bool:
    """Whether two boxes, [x, y, width, height], are about the same: within 3 pixels, or with an IoU of 0.5."""
    corners, others = (np.array([x, y, x + w, y + h]) for x, y, w, h in (box, other))
    sides = np.minimum(corners, others)[2:] - np.maximum(corners, others)[:2]
    overlap = np.prod(sides.clip(0))
    union = box[2] * box[3] + other[2] * other[3] - overlap
    return bool(np.abs(corners - others).max() <= 3 or overlap >= 0.5 * union)


def is_outside(box: Any, width: int, height: int) -> bool:
    """Whether a "bbox" leaves its image."""
    if not _is_box(box):
        return False
    x, y, w, h = box
    return min(x, y) < -TOLERANCE or x + w > width + TOLERANCE or y + h > height + TOLERANCE


def _runs(outline: dict[str, Any]) -> list[int]:
    """The run lengths of a mask, compressed or not; raises ValueError."""
    counts = outline.get("counts")
    runs = _run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError("its mask is damaged")
    return runs


def _run_lengths(encoded: str) -> list[int]:
    """Decodes compressed run lengths, which pycocotools would read without any check; raises ValueError.

    A character holds six bits: five of a number, the lowest first, and whether the number goes on. From the fourth
    number on they are differences to the last but one. Source: rleToString in pycocotools' maskApi.c.
    """
    runs = []
    value = 0
    bits = 0
    for character in encoded:
        code = ord(character) - ord("0")
        if not 0 <= code < 64:
            raise ValueError("its mask is damaged")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            signed = value - (1 << bits) if code & 16 else value
            runs.append(signed + (runs[-2] if len(runs) > 2 else 0))
            value = 0
            bits = 0
    if bits:
        raise ValueError("its mask is damaged")
    return runs
