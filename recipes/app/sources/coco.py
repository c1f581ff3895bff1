"""COCO's annotation files: the instances in each photo, as boxes, masks and label maps.

Source of the format: https://cocodataset.org/#format-data.
"""

import collections
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from app.cli import InputError, one_line
from app.photos import photos
from app.sources import labels

import numpy as np
from pycocotools import mask as coco_masks

FIELDS = {  # what the entries of each list have to have
    "images": {"id": (int, str), "file_name": str, "width": (int, float), "height": (int, float)},
    "categories": {"id": (int, str), "name": str},
    "annotations": {"image_id": (int, str), "category_id": (int, str)},
}
MOST_PIXELS = 2**31  # in a photo
TOLERANCE = 1.0  # pixels by which a polygon may leave its photo


class Annotation(NamedTuple):
    """One instance, or a crowd: several instances that are not told apart."""

    category_id: int | str
    name: str  # of the category
    box: tuple[float, float, float, float]  # left, top, width, height in pixels
    region: dict[str, Any]  # compressed run lengths, as pycocotools takes them
    is_crowd: bool

    def mask(self) -> np.ndarray:
        """Bool [H, W], of the whole photo."""
        return coco_masks.decode(self.region).view(bool)


class Photo(NamedTuple):
    """A photo and what is annotated in it."""

    image: pathlib.Path
    size: tuple[int, int]  # width, height as the annotation file tells them
    annotations: list[Annotation]

    def label_map(self, class_ids: dict[str, int]) -> np.ndarray:
        """The class of each pixel, uint8 [H, W]: 0 without an annotation, else that of the smallest one there.

        Args:
          class_ids: for each category's name; a crowd is 255 instead, to be ignored.
        """
        width, height = self.size
        label = np.zeros((height, width), np.uint8)
        for annotation in sorted(self.annotations, key=lambda one: coco_masks.area(one.region), reverse=True):
            label[annotation.mask()] = labels.IGNORED if annotation.is_crowd else class_ids[annotation.name]
        return label


class File(NamedTuple):
    """An annotation file."""

    photos: list[Photo]  # those that can be used
    categories: dict[int | str, str]  # names by id
    problems: list[str]  # each with the file and what it is about
    remarks: list[str]  # harmless oddities


def read(path: pathlib.Path, images: pathlib.Path) -> File:
    """Reads an annotation file whose images lie in a folder, or in subfolders of it.

    Raises:
      InputError: if it is no COCO file, has no categories, or none of its images exists.
    """
    content = _content(path)
    categories = {category["id"]: category["name"] for category in content["categories"]}
    if not categories:
        raise InputError(f"{path}: its list of categories is empty; it has to name one or more")
    by_id, problems, remarks = _photos(path, content["images"], images)
    spoilt = set()
    for number, entry in enumerate(content["annotations"], 1):
        where, image_id, category_id = f"annotation {entry.get('id', number)}", entry["image_id"], entry["category_id"]
        if image_id not in by_id:
            problems.append(f"{path}: {where}: there is no image with the id {image_id}")
        photo = by_id.get(image_id)
        if photo is None:
            continue
        try:
            if category_id not in categories:
                raise ValueError(f"there is no category with the id {category_id}")
            region = _region(entry.get("segmentation"), *photo.size)
        except ValueError as error:
            problems.append(f"{path}: {where} of {photo.image.name}: {error}")
            spoilt.add(image_id)
            continue
        box = tuple(entry["bbox"] if _is_box(entry.get("bbox")) else coco_masks.toBbox(region).tolist())
        is_crowd = bool(entry.get("iscrowd"))
        photo.annotations.append(Annotation(category_id, categories[category_id], box, region, is_crowd))

    # Roboflow adds the name of the project as a category above the others.
    used = {entry["category_id"] for entry in content["annotations"]}
    above = {str(one.get("supercategory")) for one in content["categories"] if one.get("supercategory") != one["name"]}
    categories = {number: name for number, name in categories.items() if number in used or name not in above}
    usable = [photo for number, photo in by_id.items() if photo and number not in spoilt]
    return File(usable, categories, problems, remarks)


def _content(path: pathlib.Path) -> dict[str, list[dict]]:
    """The lists of an annotation file, with FIELDS in each entry."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # of the encoding, or of JSON
        raise InputError(f"{path}: no JSON ({one_line(error)}); export the annotations as COCO again") from error
    for name, fields in FIELDS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{path}: no COCO file, it has no list of {name}; export the annotations as COCO")
        for number, entry in enumerate(entries):
            for field, kinds in fields.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(field), kinds):
                    raise InputError(f"{path}: no COCO file, {name}[{number}] has no {field}, or a wrong one")
    for number, entry in enumerate(content["images"]):
        width, height = entry["width"], entry["height"]
        if not (width >= 1 and height >= 1 and width * height < MOST_PIXELS):
            raise InputError(f"{path}: no COCO file, images[{number}] has a wrong size, {width} x {height}")
    return content


def _photos(
    path: pathlib.Path, entries: list[dict], images: pathlib.Path
) -> tuple[dict[int | str, Photo | None], list[str], list[str]]:
    """The photos by id, still without annotations, None for those that do not exist; the problems and the remarks."""
    by_id, problems, remarks, used = {}, [], [], set()
    candidates = _finder(images)
    for entry in entries:
        name = entry["file_name"].replace("\\", "/")
        found = candidates(name)
        if len(found) > 1:
            problems.append(f"{path}: {name} may be {' or '.join(map(str, found))}; rename one of them")
        if not found:
            remarks.append(f"{path}: {name} is not in {images}, left out")
        if name in used:
            problems.append(f"{path}: two images are named {name}; keep one")
        if entry["id"] in by_id:
            problems.append(f"{path}: two images have the id {entry['id']}, {name} and another one; keep one")
        used.add(name)
        told = int(entry["width"]), int(entry["height"])
        size = photos.size(found[0]) if found else None
        if size and size != told:
            turned = ", turned by its EXIF data" if size == told[::-1] else ""
            pixels = f"{size[0]} x {size[1]} pixels{turned}, not {told[0]} x {told[1]}"
            problems.append(f"{path}: {name} has {pixels}")
            found = []
        by_id[entry["id"]] = Photo(found[0], told, []) if found else None
    if len(remarks) == len(entries):
        first = f", not even {entries[0]['file_name']}" if entries else ""
        raise InputError(f"{path}: none of its {len(entries)} images is in {images}{first}")
    return by_id, problems, remarks


def _finder(images: pathlib.Path) -> Callable[[str], list[pathlib.Path]]:
    """A function from the name of an image in an annotation file to the files it may be."""
    by_name = collections.defaultdict(list)
    for path in sorted(images.rglob("*")):
        by_name[path.name].append(path)

    def candidates(name):
        exact = [place / name for place in (images, images.parent) if (place / name).is_file()]
        return exact[:1] or by_name[pathlib.PurePosixPath(name).name]

    return candidates


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)


def _region(outline: Any, width: int, height: int) -> dict[str, Any]:
    """The "segmentation" of an annotation as compressed run lengths; raises ValueError if it does not fit the image."""
    if isinstance(outline, dict):
        counts, size = outline.get("counts"), outline.get("size")
        if size != [height, width]:
            raise ValueError(f"its mask has the size {size}, the image {[height, width]}")
        runs = _run_lengths(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
            raise ValueError("its mask is damaged")
        if sum(runs) != width * height:
            raise ValueError(f"its mask has {sum(runs)} pixels, the image {width * height}")
        return coco_masks.frPyObjects({"counts": runs, "size": size}, height, width)
    if not outline or not isinstance(outline, list):
        raise ValueError("it has neither a polygon nor a mask")
    for polygon in outline:
        if not isinstance(polygon, list) or not all(isinstance(value, int | float) for value in polygon):
            raise ValueError("a polygon has to be a list of numbers")
        if len(polygon) % 2 or len(polygon) < 6:
            raise ValueError(f"a polygon of {len(polygon) / 2:g} points; it needs three or more")
        for values, limit in ((polygon[::2], width), (polygon[1::2], height)):
            wrong = [value for value in values if not -TOLERANCE <= value <= limit + TOLERANCE]
            if wrong:
                raise ValueError(f"a polygon outside of the image: {wrong[0]:g} is not in 0 to {limit}")
    return coco_masks.merge(coco_masks.frPyObjects(outline, height, width))


def _run_lengths(encoded: str) -> list[int]:
    """Decodes compressed run lengths, which pycocotools would read without any check; raises ValueError.

    A character holds six bits: five of a number, the lowest first, and whether the number goes on. From the fourth
    number on they are differences to the last but one. Source: rleToString in pycocotools' maskApi.c.
    """
    runs, value, bits = [], 0, 0
    for character in encoded:
        code = ord(character) - ord("0")
        if not 0 <= code < 64:
            raise ValueError("its mask is damaged")
        value, bits = value | (code & 31) << bits, bits + 5
        if not code & 32:
            signed = value - (1 << bits) if code & 16 else value
            runs.append(signed + (runs[-2] if len(runs) > 2 else 0))
            value, bits = 0, 0
    if bits:
        raise ValueError("its mask is damaged")
    return runs
