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

from app.cli import InputError
from app.sources import Example, Layout, coco, labels

ROBOFLOW = "_annotations.coco.json"
SPLIT = re.compile(r"(?:.*[\W_])?(train|val|test)(?:id|idation)?\d*", re.IGNORECASE)
SPLITS = {"train": "train", "val": "validation", "test": "test"}
BACKGROUND = "background"  # class 0, the pixels of nobody
NO_PHOTOS = {".json", ".txt"}


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """The annotation files in a folder."""
    exported = sorted(folder.glob(f"*/{ROBOFLOW}"))
    return exported or [path for place in (folder, folder / "annotations") for path in sorted(place.glob("*.json"))]


def read(folder: pathlib.Path, paths: list[pathlib.Path]) -> Layout:
    """Reads the annotation files of a folder.

    Raises:
      InputError: if one of them cannot be used, or it is not clear which split it is.
    """
    images = folder / "images" if (folder / "images").is_dir() else folder
    splits = _splits(folder, paths)
    places = {split: path.parent if path.name == ROBOFLOW else images for split, path in splits.items()}
    files = {split: coco.read(path, places[split]) for split, path in splits.items()}
    names = [name for file in files.values() for name in file.categories.values()]
    class_names = tuple(dict.fromkeys([BACKGROUND, *names]))
    if len(class_names) > labels.MOST_CLASSES:
        count = f"{len(class_names)} classes with the background"
        raise InputError(f"--data {folder}: {count}; {labels.MOST_CLASSES} are possible")
    class_ids = {name: number for number, name in enumerate(class_names)}

    examples, problems, remarks, instances, split_of = {}, [], [], collections.Counter(), {}
    for split, file in files.items():
        problems += file.problems
        remarks += file.remarks
        examples[split] = []
        for photo in file.photos:
            instances.update(annotation.name for annotation in photo.annotations if not annotation.is_crowd)
            where = f"{splits[split]}: {photo.image.name}"
            examples[split].append(Example(photo.image, where, functools.partial(photo.label_map, class_ids)))
            other = split_of.setdefault(photo.image, split)
            if other != split:
                problems.append(f"{where}: it is in {splits[other].relative_to(folder)} too; keep one of the two")
    for place in dict.fromkeys(places.values()):
        for path in sorted(place.rglob("*")):
            is_other = path.is_dir() or path.name.startswith(".") or path.suffix.lower() in NO_PHOTOS
            if not is_other and path not in split_of:
                remarks.append(f"{path}: not used, it is in no annotation file")
    return Layout("photos", examples, folder, class_names, True, problems, remarks, instances)


def _splits(folder: pathlib.Path, paths: list[pathlib.Path]) -> dict[str, pathlib.Path]:
    """The annotation file of each split, by their names; a single one is that of "train"."""
    if len(paths) == 1:
        return {"train": paths[0]}
    found = {}
    for path in paths:
        match = SPLIT.fullmatch(path.parent.name if path.name == ROBOFLOW else path.stem)
        split = SPLITS[match[1].lower()] if match else None
        if split is None or split in found:
            names = ", ".join(str(path.relative_to(folder)) for path in paths)
            raise InputError(f"--data {folder}: {names}: keep one, or name them train.json, valid.json and test.json")
        found[split] = path
    if "train" not in found:
        raise InputError(f"--data {folder}: there is no train.json beside {paths[0].relative_to(folder)}")
    return {split: found[split] for split in SPLITS.values() if split in found}
