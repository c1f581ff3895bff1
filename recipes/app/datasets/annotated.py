"""Folders of photos with COCO annotations, as CVAT, Label Studio, Roboflow and labelme export them.

    DIR/images/NAME.*   DIR/annotations.json                     any name will do if there is only one file
    DIR/images/NAME.*   DIR/train.json, valid.json, test.json    or instances_train2017.json and the like
    DIR/train/NAME.*    DIR/train/_annotations.coco.json         Roboflow's; valid/ and test/ too

The JSON files may lie in DIR/annotations/ too, and photos in subfolders of images/.
"""

import collections
import functools
import pathlib
import re
from collections.abc import Sequence

from app.cli import InputError
from app.datasets import Example, Layout, coco, labels

ROBOFLOW = "_annotations.coco.json"
SPLIT = re.compile(r"(?:.*[\W_])?(train|val|test)(?:id|idation)?\d*", re.IGNORECASE)
SPLITS = {"train": "train", "val": "validation", "test": "test"}
BACKGROUND = "background"  # class 0, the pixels of nobody
MOST_ID = 2**24  # detectors give ids as float32
NO_PHOTOS = {".json", ".txt"}


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """The annotation files in a folder; those that are called instances, if some are and others are not."""
    patterns = (f"*/{ROBOFLOW}", "*.json", "annotations/*.json")
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")]
    return [path for path in paths if path.name.startswith("instances")] or paths


def read(folder: pathlib.Path, paths: list[pathlib.Path]) -> Layout:
    """Reads the annotation files of a folder.

    Raises:
      InputError: if one of them cannot be used, or it is not clear which split it is.
    """
    splits = _splits(folder, paths)
    places = {split: _images(folder, path, split if len(splits) > 1 else None) for split, path in splits.items()}
    files = {split: coco.read(path, places[split]) for split, path in splits.items()}
    names = dict.fromkeys(name for file in files.values() for name in file.categories.values())
    class_names = (BACKGROUND, *(name for name in names if not _is_background(name)))
    if len(class_names) > labels.MOST_CLASSES:
        count = f"{len(class_names)} classes with the background"
        raise InputError(f"--data {folder}: {count}; {labels.MOST_CLASSES} are possible")
    class_ids = {name: 0 if _is_background(name) else class_names.index(name) for name in names}

    examples, problems, remarks, split_of = {}, [], [], {}
    instances, crowds = collections.Counter(), collections.Counter()
    for split, file in files.items():
        problems += file.problems
        remarks += file.remarks
        examples[split] = []
        for photo in file.photos:
            for annotation in photo.annotations:
                (crowds if annotation.is_crowd else instances)[class_names[class_ids[annotation.name]]] += 1
            where = f"{splits[split]}: {photo.image.name}"
            read_labels = functools.partial(photo.label_map, class_ids)
            examples[split].append(Example(photo.image, where, read_labels, photo.annotations))
        for image in sorted(file.named):
            other = split_of.setdefault(image.resolve(), split)
            if other != split:
                problems.append(f"{splits[split]}: {image.name} is in {splits[other].name} too; keep one of the two")
    for name, count in crowds.items():
        if count > instances[name]:
            crowd = f"{count} of {count + instances[name]} annotations of {name} are crowds, which are ignored"
            remarks.append(f'{folder}: {crowd}; masks painted in CVAT are exported so: write "iscrowd": 0')
    for place in dict.fromkeys(places.values()):
        for path in sorted(place.rglob("*")):
            is_other = path.is_dir() or path.name.startswith(".") or path.suffix.lower() in NO_PHOTOS
            if not is_other and path.resolve() not in split_of:
                remarks.append(f"{path}: not used, it is in no annotation file")
    categories = _categories(class_names[1:], list(files.values()))
    return Layout("photos", examples, folder, class_names, True, problems, remarks, instances, categories)


def _splits(folder: pathlib.Path, paths: list[pathlib.Path]) -> dict[str, pathlib.Path]:
    """The annotation file of each split, by their names; a single one is that of "train"."""
    if len(paths) == 1:
        return {"train": paths[0]}
    found = {}
    for path in paths:
        split = _split(path.parent.name if path.name == ROBOFLOW else path.stem)
        if split is None or split in found:
            names = ", ".join(str(path.relative_to(folder)) for path in paths[:4]) + (", ..." if len(paths) > 4 else "")
            raise InputError(f"--data {folder}: {names}: keep one, or name them train.json, valid.json and test.json")
        found[split] = path
    if "train" not in found:
        raise InputError(f"--data {folder}: there is no train.json beside {paths[0].relative_to(folder)}")
    return {split: found[split] for split in SPLITS.values() if split in found}


def _split(name: str) -> str | None:
    match = SPLIT.fullmatch(name)
    return SPLITS[match[1].lower()] if match else None


def _images(folder: pathlib.Path, path: pathlib.Path, split: str | None) -> pathlib.Path:
    """The folder of a file's photos: Roboflow's, a subfolder that is called like the split, or images/."""
    if path.name == ROBOFLOW and path.parent != folder:
        return path.parent
    images = folder / "images" if (folder / "images").is_dir() else folder
    own = [place for place in sorted(images.iterdir()) if split and place.is_dir() and _split(place.name) == split]
    return own[0] if own else images


def _categories(names: Sequence[str], files: list[coco.File]) -> dict[int, str]:
    """The ids and names of the categories; ids from 1 on if those of the files are none for a label map."""
    ids = {name: number for file in reversed(files) for number, name in file.categories.items()}
    numbers = [ids[name] for name in names]
    if len(set(numbers)) < len(numbers) or not all(isinstance(one, int) and 0 < one < MOST_ID for one in numbers):
        numbers = range(1, len(names) + 1)
    return dict(zip(numbers, names, strict=True))


def _is_background(name: str) -> bool:
    """Whether a category is what nobody is; labelme's script calls it _background_."""
    return name.strip("_").lower() == BACKGROUND
