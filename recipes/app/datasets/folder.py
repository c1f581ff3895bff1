"""A person's own folder of images and labels: checked before training, split and read.

The layouts are described in masked.py and annotated.py.
"""

import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from app import photos
from app.cli import InputError, listed
from app.datasets import Example, Layout, Source, annotated, labels, pairs

import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

THREADS = 8


class Survey(NamedTuple):
    """What a folder holds."""

    layout: Layout
    class_names: tuple[str, ...]
    ids: np.ndarray  # uint8 [256]: from the value of a label to class id or labels.IGNORED
    train: list[Example]  # and, without a validation split, validation
    validation: list[Example]
    test: list[Example]
    validation_share: float  # of train
    pixels: np.ndarray  # int64 [classes], in all labels
    sizes: list[tuple[int, int]]  # width, height of each usable image
    problems: list[str]  # what would fail, or silently train wrong
    remarks: list[str]  # harmless oddities

    def read(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """An image, uint8 [H, W, 3], and its class ids, uint8 [H, W]."""
        return photos.read(example.image), self.ids[example.read_labels()]


class Facts(NamedTuple):
    """What the survey needs to know of an example."""

    size: tuple[int, int]  # width, height
    values: np.ndarray  # int64 [256], pixels of each label
    is_turned: bool  # by the image's EXIF data


def source(folder: pathlib.Path, seed: int) -> Source:
    """The data set in a folder; splits that it does not name are drawn, a tenth each.

    Raises:
      InputError: if the folder has problems.
    """
    found = checked(folder, seed)
    examples = [*found.train, *found.validation, *found.test]

    def numbered(first, count):
        return tf.data.Dataset.range(first, first + count)

    def read(number):
        image, label = found.read(examples[number])
        return image, label[..., np.newaxis]

    def decode(number):
        image, label = tf.numpy_function(read, [number], [tf.uint8, tf.uint8])
        return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(label, (None, None, 1))

    sizes = len(found.train), len(found.validation), len(found.test)
    train, validation, test = (numbered(sum(sizes[:index]), count) for index, count in enumerate(sizes))
    own = {"validation": validation} if found.validation else {"validation_share": found.validation_share}
    return Source(found.class_names, train, test, decode, **own)


def survey(folder: pathlib.Path, seed: int = 0) -> Survey:
    """Reads every image and its labels once.

    Raises:
      InputError: if the folder has none of the layouts, or a file with the names of classes or images is wrong.
    """
    layout = _layout(folder)
    place, problems, remarks = layout.place, layout.problems.copy(), layout.remarks.copy()
    examples = [(split, example) for split, part in layout.splits.items() for example in part]
    bar = tqdm(total=len(examples), desc="checking", unit="image", disable=None, file=sys.stdout)
    readable = []
    with bar, ThreadPoolExecutor(THREADS) as pool:
        every = pool.map(_examine, (example for _, example in examples))
        for (split, example), facts in zip(examples, every, strict=True):
            if isinstance(facts, str):
                problems.append(facts)
            else:
                readable.append((split, example, facts))
            bar.update()

    if layout.instances is None:
        counts = [facts.values for *_, facts in readable]
        class_names, ids, allowed, doubts = labels.interpret(layout.class_names, counts, layout.ignores)
        problems += [f"{place}: {doubt}" for doubt in doubts]
    else:  # the labels are class ids already
        class_names, ids, allowed = layout.class_names, np.arange(256, dtype=np.uint8), set(range(256))
    usable = {split: [] for split in layout.splits}
    sizes, pixels = [], np.zeros(len(class_names), np.int64)
    for split, example, facts in readable:
        values = np.flatnonzero(facts.values)
        strange = sorted(set(values.tolist()) - allowed)
        if strange:
            hint = '; if 255 is to be ignored, give a classes.txt with the line "255 ignore"' if 255 in values else ""
            problems.append(f"{example.where}: values outside the {len(class_names)} classes: {listed(strange)}{hint}")
            continue
        known = values[ids[values] != labels.IGNORED]
        if len(known) < 2:
            only = class_names[ids[known[0]]] if len(known) else "all of it ignored, left out"
            remarks.append(f"{example.where}: all one class ({only})")
        if facts.is_turned:
            remarks.append(f"{example.image}: turned upright by its EXIF data; its labels have to be upright too")
        if len(known):
            usable[split].append(example)
            sizes.append(facts.size)
            np.add.at(pixels, ids[known], facts.values[known])

    if sizes and np.count_nonzero(pixels) < 2:
        problems.append(f"{place}: one class alone in all labels; there is nothing to learn")
    absent = [name for name, count in zip(class_names, pixels, strict=True) if not count]
    if sizes and absent:
        remarks.append(f"classes without a pixel: {listed(absent)}")
    train, validation, test, share = _draw(usable, seed)
    is_validated = bool(validation) if "validation" in usable else len(train) > 1
    if not (train and is_validated and test):
        counts = f"{len(train)} of {len(examples)} {layout.kind} are left to train with, {len(test)} to test"
        problems.append(f"{folder}: too few {layout.kind}, {counts}; train, validation and test need one each")
    return Survey(layout, class_names, ids, train, validation, test, share, pixels, sizes, problems, remarks)


def checked(folder: pathlib.Path, seed: int = 0) -> Survey:
    """The survey of a folder without problems.

    Raises:
      InputError: if it has any.
    """
    found = survey(folder, seed)
    if found.problems:
        first = "; ".join(found.problems[:3])
        raise InputError(f"--data {folder}: problems: {len(found.problems)} ({first}); --check-data lists all of them")
    if found.remarks:
        print(f"--data {folder}: remarks: {len(found.remarks)} ({found.remarks[0]}); --check-data lists all of them")
    return found


def _layout(folder: pathlib.Path) -> Layout:
    masks, annotations = pairs.find(folder), annotated.find(folder)
    if masks and (folder / "images").is_dir():
        layout = pairs.read(folder, masks)
        choice = f"not read, the masks in {masks.name}/ are taken; to train on annotations, remove {masks.name}/"
        return layout._replace(remarks=[*(f"{path}: {choice}" for path in annotations), *layout.remarks])
    if annotations:
        layout = annotated.read(folder, annotations)
        unused = [f"{masks}: not used, there is no images/ beside it; the annotations are taken"] if masks else []
        return layout._replace(remarks=[*unused, *layout.remarks])
    raise InputError(
        f"--data {folder}: it has to hold images/ and masks/, images/ and annotations/trimaps/, or images/ and COCO "
        "annotations (annotations.json; train.json, valid.json, test.json; or train/_annotations.coco.json)"
    )


def _examine(example: Example) -> Facts | str:
    """Reads an example; returns the facts, or what is wrong."""
    try:
        height, width = photos.read(example.image).shape[:2]
        label = example.read_labels()
    except InputError as error:
        return str(error)
    with Image.open(example.image) as image:
        is_turned = image.getexif().get(photos.ORIENTATION, 1) not in (0, 1)
    rows, columns = label.shape
    if (rows, columns) != (height, width):
        hint = ", which its EXIF data turn" if is_turned else ""
        return f"{example.where}: sizes differ, {columns} x {rows} and the image{hint} {width} x {height}"
    return Facts((width, height), np.bincount(label.ravel(), minlength=256), is_turned)


def _draw(splits: dict[str, list[Example]], seed: int) -> tuple[list[Example], list[Example], list[Example], float]:
    """The examples to train with, to validate and to test, and the share of the first to validate, if none are there.

    Without a test split, a seeded tenth of the first are tested; without a validation split, another tenth validates.
    """
    train, validation, test = splits["train"], splits.get("validation", []), splits.get("test")
    if test is not None:
        return train, validation, test, 0.1
    order = np.random.default_rng(seed).permutation(len(train))
    tested = set(order[: max(1, round(len(train) / 10))].tolist())
    rest = [example for index, example in enumerate(train) if index not in tested]
    return rest, validation, [train[index] for index in sorted(tested) if train], len(train) / 10 / max(1, len(rest))
