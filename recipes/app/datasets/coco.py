"""Folders of photos with COCO annotations, as CVAT, Label Studio, Roboflow and labelme export them.

    DIR/images/NAME.*   DIR/annotations.json                     any name will do if there is only one file
    DIR/images/NAME.*   DIR/train.json, valid.json, test.json    or instances_train2017.json and the like
    DIR/train/NAME.*    DIR/train/_annotations.coco.json         Roboflow's; valid/ and test/ too

The JSON files may lie in DIR/annotations/ too, and photos in subfolders of images/. Source of the format:
https://cocodataset.org/#format-data. pycocotools.coco.COCO reads it too, but without any check.
"""

import collections
import contextlib
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from app import photos
from app.cli import InputError, listed, one_line
from app.datasets import BACKGROUND_NAME, Contents, LabeledImage, names, regions
from app.datasets.masks import IGNORED, MOST_CLASSES

from pycocotools import mask as coco_masks

ROBOFLOW = "_annotations.coco.json"
FIELDS = {  # what the entries of each list have to have
    "images": {"id": (int, str), "file_name": str, "width": (int, float), "height": (int, float)},
    "categories": {"id": (int, str), "name": str},
    "annotations": {"image_id": (int, str), "category_id": (int, str)},
}
NO_PHOTOS = {".json", ".txt"}
MOST_ID = 2**24  # detectors return ids as float32
MOST_PIXELS = 2**31  # in a photo


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """The annotation files in a folder; those that are called instances, if some are and others are not."""
    patterns = (f"*/{ROBOFLOW}", "*.json", "annotations/*.json")
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")]
    return [path for path in paths if path.name.startswith("instances")] or paths


def read(folder: pathlib.Path, paths: list[pathlib.Path]) -> Contents:
    """Reads the annotation files of a folder.

    Raises:
      InputError: if one of them cannot be used, or it is not clear which split it is.
    """
    files = _splits(folder, paths)
    lists_of = {split: _read_json(path) for split, path in files.items()}
    names_of = {split: _names(lists) for split, lists in lists_of.items()}
    all_names = [name for names_of_file in names_of.values() for name in names_of_file.values()]
    class_names = tuple(dict.fromkeys([BACKGROUND_NAME, *(name for name in all_names if not names.is_ignored(name))]))
    if len(class_names) > MOST_CLASSES:
        count = f"{len(class_names)} classes with the background"
        raise InputError(f"--data {folder}: {count}; {MOST_CLASSES} are possible")
    categories = _label_map_ids(class_names[1:], list(names_of.values()))
    contents = Contents("photos", folder, paths, {}, categories, True, [], [], class_names)
    split_of = {}
    places = {split: _images(folder, path, split if len(files) > 1 else None) for split, path in files.items()}
    for split, path in files.items():
        located = _locate(contents, path, lists_of[split]["images"], places[split])
        class_ids = {
            number: IGNORED if names.is_ignored(name) else class_names.index(name)
            for number, name in names_of[split].items()
        }
        contents.splits[split] = _examples(contents, path, lists_of[split], located, class_ids)
        for image in sorted({image for image in located if image}):
            other = split_of.setdefault(image.resolve(), split)
            if other != split:
                contents.problems.append(f"{path}: {image.name} is in {files[other].name} too; keep one of the two")
    contents.warnings.extend(_mostly_crowds(contents))
    if any(map(names.is_ignored, all_names)):
        ignored = listed(sorted(set(filter(names.is_ignored, all_names))))
        contents.warnings.append(
            f"{folder}: annotations of the category {ignored} are ignored by the loss and the scores"
        )
    for place in dict.fromkeys(places.values()):
        for path in names.files_below(place):
            if path.suffix.lower() not in NO_PHOTOS and path.resolve() not in split_of:
                contents.warnings.append(f"{path}: not used, it is in no annotation file")
    return contents


def _splits(folder: pathlib.Path, paths: list[pathlib.Path]) -> dict[str, pathlib.Path]:
    """The annotation file of each split, by their names; a single one is that of "train"."""
    if len(paths) == 1:
        return {"train": paths[0]}
    files = {}
    for path in paths:
        split = names.of_split(path.parent.name if path.name == ROBOFLOW else path.stem)
        if split is None or split in files:
            _read_json(paths[0])  # which says so if they are no COCO files
            all_of_them = listed([str(path.relative_to(folder)) for path in paths])
            advice = "keep one, or name them train.json, valid.json and test.json"
            raise InputError(f"--data {folder}: {all_of_them}: {advice}")
        files[split] = path
    if "train" not in files:
        raise InputError(f"--data {folder}: there is no train.json beside {paths[0].relative_to(folder)}")
    return {split: files[split] for split in names.SPLITS.values() if split in files}


def _images(folder: pathlib.Path, path: pathlib.Path, split: str | None) -> pathlib.Path:
    """The folder of a file's photos: Roboflow's, a subfolder that is called like the split, or images/."""
    if path.name == ROBOFLOW and path.parent != folder:
        return path.parent
    images = folder / "images" if (folder / "images").is_dir() else folder
    own = [
        place for place in sorted(images.iterdir()) if split and place.is_dir() and names.of_split(place.name) == split
    ]
    return own[0] if own else images


def refuse_labelme(paths: list[pathlib.Path]) -> None:
    """Raises InputError if one of these files is labelme's own, which has the outlines of one photo."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            _check_tool(path, json.loads(path.read_bytes()))


def _check_tool(path: pathlib.Path, content: Any) -> None:
    """Raises InputError for the content of a file of labelme."""
    if isinstance(content, dict) and "shapes" in content and "imagePath" in content:
        advice = "convert all of them to one COCO file, for instance with labelme's labelme2coco.py"
        raise InputError(f"{path}: labelme's own format, one file for each photo; {advice}")


def _read_json(path: pathlib.Path) -> dict[str, list[dict]]:
    """The lists of an annotation file, with FIELDS in each entry."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # of the encoding, or of JSON
        raise InputError(f"{path}: not JSON ({one_line(error)}); export the annotations as COCO again") from error
    _check_tool(path, content)
    for name, fields in FIELDS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{path}: not a COCO file, it has no list of {name}; export the annotations as COCO")
        for number, entry in enumerate(entries):
            for field, kinds in fields.items():
                value = entry.get(field) if isinstance(entry, dict) else None
                if not isinstance(value, kinds):
                    text = json.dumps(value)[:40]
                    raise InputError(f"{path}: not a valid COCO file, {field} of {name}[{number}] is {text}")
    if not content["categories"]:
        raise InputError(f"{path}: its list of categories is empty; it has to name one or more")
    for number, entry in enumerate(content["images"]):
        width, height = entry["width"], entry["height"]
        if not (1 <= width < MOST_PIXELS and 1 <= height < MOST_PIXELS and width * height < MOST_PIXELS):
            raise InputError(f"{path}: not a valid COCO file, images[{number}] has an impossible size")
    return content


def _names(lists: dict[str, list[dict]]) -> dict[int | str, str]:
    """The name of the class for each id of a category."""
    above = [category.get("supercategory") for category in lists["categories"]]
    used = {annotation["category_id"] for annotation in lists["annotations"]}
    found = {}
    for category in lists["categories"]:
        number = category["id"]
        # Roboflow's name of the whole project is no class.
        if not (number == 0 and number not in used and category["name"] in above):
            found[number] = names.of_class(category["name"])
    return found


def _label_map_ids(class_names: Sequence[str], files: list[dict[int | str, str]]) -> dict[int, str]:
    """The classes by their ids in a detector's label map: those of the files or, if not valid there, 1, 2, ..."""
    ids = {name: number for categories in reversed(files) for number, name in categories.items()}
    numbers = [ids[name] for name in class_names]
    if len(set(numbers)) < len(numbers) or not all(isinstance(one, int) and 0 < one < MOST_ID for one in numbers):
        numbers = range(1, len(class_names) + 1)
    return dict(zip(numbers, class_names, strict=True))


def _locate(
    contents: Contents, path: pathlib.Path, entries: list[dict], images: pathlib.Path
) -> list[pathlib.Path | None]:
    """The image of each entry, None if there is none.

    A name is that of a file in the folder; if it is not there, that of the only file of this name in a subfolder.
    """
    by_path = {}
    by_name = collections.defaultdict(list)
    for file in names.files_below(images):
        by_path.setdefault(pathlib.PurePosixPath(names.composed(file.relative_to(images).as_posix())).parts, file)
        by_name[names.composed(file.name)].append(file)
    wanted = [pathlib.PurePosixPath(names.composed(entry["file_name"].replace("\\", "/"))) for entry in entries]
    located = []
    for name in wanted:
        below = name.parts[1:] if name.parts[:1] == (images.name,) else ()
        located.append(by_path.get(name.parts) or by_path.get(below))
    claimed = set(located)
    owners = {}
    for index, name in enumerate(wanted):
        if located[index] is None:
            candidates = [image for image in by_name[name.name] if image not in claimed]
            if len(candidates) > 1:
                contents.problems.append(
                    f"{path}: {name} may be {' or '.join(map(str, candidates))}; rename one of them"
                )
                continue
            if not candidates:
                contents.warnings.append(f"{path}: {name} is not in {images}, left out")
                continue
            located[index] = candidates[0]
        owner = owners.setdefault(located[index].resolve(), name)
        if owner is not name:
            both = "two images are named" if owner == name else "two images are the same file,"
            contents.problems.append(f"{path}: {both} {name}; keep one")
    if not wanted:
        raise InputError(f"{path}: it has no images")
    if not any(located):
        raise InputError(f"{path}: none of its {len(wanted)} images is in {images}, not even {wanted[0]}")
    return located


def _examples(
    contents: Contents,
    path: pathlib.Path,
    lists: dict[str, list[dict]],
    located: list[pathlib.Path | None],
    class_ids: dict[int | str, int],  # of the categories, by their ids
) -> list[LabeledImage]:
    """The photos of an annotation file that can be used."""
    problems = contents.problems
    for name in ("images", "categories"):
        counts = collections.Counter(entry["id"] for entry in lists[name])
        problems += [f"{path}: two {name} have the id {number!r}; keep one" for number, n in counts.items() if n > 1]
    annotations_of = {entry["id"]: [] for entry in lists["images"]}
    for position, entry in enumerate(lists["annotations"], 1):
        entry = {"id": position, **entry}
        if entry["image_id"] in annotations_of:
            annotations_of[entry["image_id"]].append(entry)
        else:
            missing = f"there is no image with the id {entry['image_id']!r}"
            problems.append(f"{path}: annotation {entry['id']}: {missing}")

    examples = []
    for entry, image in zip(lists["images"], located, strict=True):
        if image is None:
            continue
        size = int(entry["width"]), int(entry["height"])
        actual = photos.size(image)
        if actual not in (None, size):  # None: it cannot be read, which the scan reports
            turned = " when turned by its EXIF data" if actual == size[::-1] else ""
            sizes = f"{actual[0]} x {actual[1]} pixels{turned}, not {size[0]} x {size[1]}"
            problems.append(f"{path}: {entry['file_name']} has {sizes}; annotate it anew")
            continue
        annotations = []
        errors = []
        for one in annotations_of[entry["id"]]:
            where = f"{path}: annotation {one['id']} of {image.name}"
            try:
                found = _annotation(where, one, size, class_ids, contents.warnings)
            except ValueError as error:
                errors.append(f"{where}: {error}")
                continue
            if found and found[0] in annotations:
                contents.warnings.append(f"{where}: the same instance as an earlier one, left out")
            else:
                annotations += found
        problems += errors
        if not errors:
            read_label = functools.partial(regions.label_map, size, annotations)
            examples.append(LabeledImage(image, path, f"{path}: {image.name}", read_label, annotations))
    return examples


def _annotation(
    where: str, entry: dict, size: tuple[int, int], class_ids: dict[int | str, int], warnings: list[str]
) -> list[regions.Annotation]:
    """The annotation of an entry, none if it has no pixel; raises ValueError if it is not valid."""
    if entry["category_id"] not in class_ids:
        raise ValueError(f"there is no category with the id {entry['category_id']!r}")
    region = regions.read(entry.get("segmentation"), *size)
    contradiction = regions.contradiction(entry, region)
    if contradiction:
        raise ValueError(contradiction)
    if regions.is_outside(entry.get("bbox"), *size):
        box = f"{str(entry['bbox'])[:60]} in {size[0]} x {size[1]}"
        warnings.append(f"{where}: a box outside of the image, {box}; its outline is taken instead")
    if not coco_masks.area(region):
        warnings.append(f"{where}: it has no pixel, left out")
        return []
    class_id = class_ids[entry["category_id"]]
    is_crowd = class_id == IGNORED or any(entry.get(name) in (1, "1") for name in ("iscrowd", "ignore"))
    return [regions.Annotation(class_id, region, is_crowd)]


def _mostly_crowds(contents: Contents) -> list[str]:
    """A warning for each class of which most annotations are crowds."""
    annotations = [annotation for example in contents.examples for annotation in example.annotations]
    counts = collections.Counter(annotation.class_id for annotation in annotations)
    crowds = collections.Counter(annotation.class_id for annotation in annotations if annotation.is_crowd)
    hint = 'are crowds, which are ignored; masks painted in CVAT are exported so: write "iscrowd": 0'
    return [
        f"{contents.place}: {count} of {counts[number]} annotations of {contents.class_names[number]} {hint}"
        for number, count in crowds.items()
        if 2 * count > counts[number] and number != IGNORED
    ]
