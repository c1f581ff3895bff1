"""COCO's annotation files: the instances in each photo, as boxes, masks and label maps.

Source of the format: https://cocodataset.org/#format-data.
"""

import collections
import json
import os
import pathlib
from typing import Any, NamedTuple

from app import photos
from app.cli import InputError, one_line
from app.datasets import labels

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
    region: dict[str, Any]  # compressed run lengths, as pycocotools takes them
    is_crowd: bool

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of the mask, in pixels."""
        return tuple(coco_masks.toBbox(self.region).tolist())

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
    named: set[pathlib.Path]  # the images that it names, usable or not
    problems: list[str]  # each with the file and what it is about
    remarks: list[str]  # harmless oddities


def read(path: pathlib.Path, images: pathlib.Path) -> File:
    """Reads an annotation file whose images lie in a folder, or in subfolders of it.

    Raises:
      InputError: if it is not a valid COCO file, has no categories, or none of its images exists.
    """
    content = _content(path)
    located, problems, remarks = _locate(path, content["images"], images)
    categories = {}
    for category in content["categories"]:
        if category["id"] in categories:
            problems.append(f"{path}: two categories have the id {category['id']!r}; keep one")
        categories[category["id"]] = " ".join(category["name"].split())
    by_id, spoilt = {}, set()
    for entry, image in zip(content["images"], located, strict=True):
        name, told, size = entry["file_name"], (int(entry["width"]), int(entry["height"])), image and photos.size(image)
        if entry["id"] in by_id:
            problems.append(f"{path}: two images have the id {entry['id']!r}, {name} and another one; keep one")
        by_id[entry["id"]] = Photo(image, told, [])
        if size and size != told:
            turned = " when turned by its EXIF data" if size == told[::-1] else ""
            problems.append(
                f"{path}: {name} has {size[0]} x {size[1]} pixels{turned}, not {told[0]} x {told[1]}; annotate it anew"
            )
        if not image or (size and size != told):
            spoilt.add(entry["id"])

    incomplete = set()
    for number, entry in enumerate(content["annotations"], 1):
        where, image_id, category_id = f"annotation {entry.get('id', number)}", entry["image_id"], entry["category_id"]
        if image_id not in by_id:
            problems.append(f"{path}: {where}: there is no image with the id {image_id!r}")
        if image_id not in by_id or image_id in spoilt:
            continue
        photo = by_id[image_id]
        try:
            if category_id not in categories:
                raise ValueError(f"there is no category with the id {category_id!r}")
            region = _region(entry.get("segmentation"), *photo.size)
        except ValueError as error:
            problems.append(f"{path}: {where} of {photo.image.name}: {error}")
            incomplete.add(image_id)
            continue
        if _is_outside(entry.get("bbox"), *photo.size):
            size = f"{photo.size[0]} x {photo.size[1]}"
            box = f"a box outside of the image, {str(entry['bbox'])[:60]} in {size}; its outline is taken instead"
            remarks.append(f"{path}: {where} of {photo.image.name}: {box}")
        if coco_masks.area(region):
            is_crowd = entry.get("iscrowd") in (1, "1")
            photo.annotations.append(Annotation(category_id, categories[category_id], region, is_crowd))
        else:
            remarks.append(f"{path}: {where} of {photo.image.name}: it has no pixel, left out")

    # Roboflow adds the name of the project as category 0, above the others.
    above = [category.get("supercategory") for category in content["categories"]]
    used = {entry["category_id"] for entry in content["annotations"]}
    categories = {number: name for number, name in categories.items() if number or number in used or name not in above}
    usable = [photo for number, photo in by_id.items() if number not in spoilt | incomplete]
    return File(usable, categories, set(filter(None, located)), problems, remarks)


def _content(path: pathlib.Path) -> dict[str, list[dict]]:
    """The lists of an annotation file, with FIELDS in each entry."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # of the encoding, or of JSON
        raise InputError(f"{path}: not JSON ({one_line(error)}); export the annotations as COCO again") from error
    for name, fields in FIELDS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{path}: not a COCO file, it has no list of {name}; export the annotations as COCO")
        for number, entry in enumerate(entries):
            for field, kinds in fields.items():
                value = entry.get(field) if isinstance(entry, dict) else None
                if not isinstance(value, kinds):
                    found = json.dumps(value)[:40]
                    raise InputError(f"{path}: not a valid COCO file, {field} of {name}[{number}] is {found}")
    if not content["categories"]:
        raise InputError(f"{path}: its list of categories is empty; it has to name one or more")
    for number, entry in enumerate(content["images"]):
        width, height = entry["width"], entry["height"]
        if not (1 <= width < MOST_PIXELS and 1 <= height < MOST_PIXELS and width * height < MOST_PIXELS):
            raise InputError(f"{path}: not a valid COCO file, images[{number}] has a size that cannot be")
    return content


def _locate(
    path: pathlib.Path, entries: list[dict], images: pathlib.Path
) -> tuple[list[pathlib.Path | None], list[str], list[str]]:
    """The image of each entry, None if there is none; the problems and the remarks.

    A name is that of a file in the folder; if it is not there, that of the only file of this name in a subfolder.
    """
    by_path, by_name = {}, collections.defaultdict(list)
    for place, _, files in os.walk(images, followlinks=True):
        for file in map(pathlib.Path(place).joinpath, sorted(files)):
            by_path[file.relative_to(images).parts] = file
            by_name[file.name].append(file)
    names = [pathlib.PurePosixPath(entry["file_name"].replace("\\", "/")) for entry in entries]
    problems, remarks, owners = [], [], {}
    located = [
        by_path.get(name.parts) or (by_path.get(name.parts[1:]) if name.parts[:1] == (images.name,) else None)
        for name in names
    ]
    claimed = {image for image in located if image}
    for index, name in enumerate(names):
        found = [image for image in by_name[name.name] if image not in claimed]
        if located[index] is None and len(found) > 1:
            problems.append(f"{path}: {name} may be {' or '.join(map(str, found))}; rename one of them")
        elif located[index] is None and found:
            (located[index],) = found
        image = located[index]
        if image is None and len(found) < 2:
            remarks.append(f"{path}: {name} is not in {images}, left out")
        elif image and owners.setdefault(image.resolve(), index) != index:
            both = "two images are named" if names[owners[image.resolve()]] == name else "two images are the same file,"
            problems.append(f"{path}: {both} {name}; keep one")
    if not any(located):
        missing = (
            f"none of its {len(names)} images is in {images}, not even {names[0]}" if names else "it has no images"
        )
        raise InputError(f"{path}: {missing}")
    return located, problems, remarks


def _region(outline: Any, width: int, height: int) -> dict[str, Any]:
    """The "segmentation" of an annotation as compressed run lengths; raises ValueError if it does not fit the image."""
    if isinstance(outline, dict):
        counts, size = outline.get("counts"), outline.get("size")
        if size != [height, width]:
            raise ValueError(f"its mask has another size than the image, {height} x {width}")
        runs = _run_lengths(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
            raise ValueError("its mask is damaged")
        if sum(runs) != width * height:
            raise ValueError("its mask has another number of pixels than the image")
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
                raise ValueError(f"a polygon outside of the image: {str(wrong[0])[:20]} is not in 0 to {limit}")
    return coco_masks.merge(coco_masks.frPyObjects(outline, height, width))


def _is_outside(box: Any, width: int, height: int) -> bool:
    """Whether a "bbox" leaves its image."""
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)):
        return False
    x, y, w, h = box
    return min(x, y) < -TOLERANCE or x + w > width + TOLERANCE or y + h > height + TOLERANCE


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
