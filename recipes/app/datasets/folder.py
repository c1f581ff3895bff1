"""A user's own folder of images and labels: read, checked and split.

The layouts are described in masks.py and coco.py.
"""

import hashlib
import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app import photos
from app.cli import InputError, listed
from app.datasets import Contents, Dataset, LabeledImage, Scene, coco, decode_by, masks, pets, regions, with_threads
from common import data
from common.scores import TRIMAP

import numpy as np
import tensorflow as tf

THREADS = 8
BLOCK = 64  # label maps that are converted at a time


def load(
    path: pathlib.Path, seed: int, image_size: int | None, findings: dict[str, Any] | None, for_instances: bool
) -> Dataset:
    """The data set in a folder; splits that it does not declare are drawn by the seed, a tenth each.

    Args:
      image_size: at which photos are kept in memory while they are checked; None: none are kept.
      findings: those of an earlier check, which is not repeated.
      for_instances: whether instances are needed.
    Raises:
      InputError: if the folder has problems, has changed since the earlier check, or has no instances to train with.
    """
    contents = read(path)
    fingerprint = _fingerprint(path, contents)
    arrays = None
    if not findings:
        contents, arrays = scan(path, contents, seed, image_size)
        problems = contents.problems
        if problems:
            first = "; ".join(problems[:3])
            raise InputError(f"--data {path}: problems: {len(problems)} ({first}); --check-data lists all of them")
        if contents.warnings:
            count = f"{len(contents.warnings)} ({contents.warnings[0]})"
            print(f"--data {path}: warnings: {count}; --check-data lists all of them")
    elif findings["fingerprint"] == fingerprint:
        class_names = tuple(findings["class_names"])
        ids = np.array(findings["ids"], np.uint8)
        contents = contents._replace(class_names=class_names, ids=ids, left_out=findings["left_out"])
    else:
        raise InputError(f"--resume: the data in {path} changed since the interruption; start again without --resume")
    findings = {
        "fingerprint": fingerprint,
        "class_names": contents.class_names,
        "ids": contents.ids.tolist(),
        "left_out": contents.left_out,
    }
    examples = contents.examples

    def read_pair(place):
        return photos.read(examples[place].image), contents.ids[examples[place].read_label()]

    places = split(contents, seed)
    splits = {name: tf.data.Dataset.from_tensor_slices(np.array(part, np.int64)) for name, part in places.items()}
    if "validation" not in splits:
        train, test = len(places["train"]), len(places["test"])
        fraction = 0.1 if "test" in contents.splits else (train + test) / 10 / train
        splits["train"], splits["validation"] = data.split(splits["train"], fraction, seed)
    dataset = Dataset(contents.class_names, splits, decode_by(read_pair), arrays=arrays, findings=findings)
    if not for_instances:
        return dataset
    categories, to_scene = instances(path, contents, places["train"])
    return dataset._replace(
        categories=categories,
        read_scene=lambda place: to_scene(examples[place]),
        max_instances=max(1, *(len(examples[place].annotations) for part in places.values() for place in part)),
    )


def read(path: pathlib.Path) -> Contents:
    """What the files of a folder say, before its images are read.

    Raises:
      InputError: if it has none of the layouts, or a file with the names of classes or images is not valid.
    """
    labels = masks.find(path)
    annotations = coco.find(path)
    if labels and (path / "images").is_dir():
        contents = masks.read(path, labels)
        choice = f"not read, the masks in {labels.name}/ are taken; to train on annotations, remove {labels.name}/"
        unused = [f"{file}: {choice}" for file in annotations]
    elif annotations:
        contents = coco.read(path, annotations)
        unused = [f"{labels}: not used, there is no images/ beside it; the annotations are taken"] if labels else []
    else:
        raise InputError(
            f"--data {path}: it has to hold images/ and masks/, images/ and annotations/trimaps/, or images/ and COCO "
            "annotations (annotations.json; train.json, valid.json, test.json; or train/_annotations.coco.json)"
        )
    return contents._replace(warnings=[*unused, *contents.warnings])


def scan(
    path: pathlib.Path, contents: Contents, seed: int = 0, image_size: int | None = None
) -> tuple[Contents, tuple[tf.Variable, tf.Variable] | None]:
    """Reads every image and its labels once, and checks them.

    Returns:
      The completed contents; and, if an image size is given, the images and class ids of training and validation.
    """
    examples = contents.examples
    facts = [None] * len(examples)

    def examine(place):
        facts[place], *pair = _examine(examples[place])
        return pair

    kept = 0
    arrays = None
    if image_size:
        kept = sum(len(contents.splits.get(name, ())) for name in ("train", "validation"))  # they come first
        pairs = tf.data.Dataset.range(kept).map(decode_by(examine), num_parallel_calls=tf.data.AUTOTUNE)
        arrays = data.read(with_threads(data.resized(pairs, image_size)), "checking")
    others = range(kept, len(examples))
    with ThreadPoolExecutor(THREADS) as pool, data.progress_bar(len(others) or None, "checking") as bar:
        for _ in pool.map(lambda place: examine(place) is None, others):  # keeps no photo
            bar.update()
    contents = _interpret(contents, facts)
    if arrays:
        _to_class_ids(arrays[1], contents.ids)
    counts = {name: len(part) for name, part in split(contents, seed).items()}
    has_validation = counts["validation"] > 0 if "validation" in counts else counts["train"] > 1
    if not (counts["train"] and has_validation and counts["test"]):
        left = f"{counts['train']} of {len(examples)} {contents.kind} are left to train with, {counts['test']} to test"
        contents.problems.append(f"{path}: too few {contents.kind}, {left}; train, validation and test need one each")
    return contents, arrays


def _examine(example: LabeledImage) -> tuple[tuple | str, np.ndarray, np.ndarray]:
    """Reads an example.

    Returns:
      The image's width and height, the number of pixels of each value in the labels, and whether EXIF data turn the
      image; or what is wrong. Then the image, uint8 [H, W, 3], and its labels, uint8 [H, W].
    """
    nothing = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)
    try:
        image = photos.read(example.image)
        label = example.read_label()
    except InputError as error:
        return str(error), *nothing
    is_turned = photos.is_turned(example.image)
    height, width = image.shape[:2]
    rows, columns = label.shape
    if (rows, columns) != (height, width):
        hint = ", which its EXIF data turn" if is_turned else ""
        sizes = f"{columns} x {rows} and the image{hint} {width} x {height}"
        return f"{example.where}: sizes differ, {sizes}", *nothing
    counts = np.bincount(label.ravel(), minlength=256)
    pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return ((width, height), pixels, is_turned), image, label


def _interpret(contents: Contents, facts: list[tuple | str]) -> Contents:
    """Completes the contents of a folder by what `_examine` found out about each example."""
    problems = contents.problems + [fact for fact in facts if isinstance(fact, str)]
    warnings = contents.warnings.copy()
    class_names, ids, allowed = contents.class_names, contents.ids, range(256)
    if contents.kind == "pairs":  # otherwise the labels are class ids
        values = [fact[1].keys() for fact in facts if not isinstance(fact, str)]
        class_names, ids, allowed, doubt = masks.interpret(class_names, values, contents.ignores_255)
        problems += [f"{contents.place}: {doubt}"] if doubt else []
    left_out = []
    sizes = []
    pixels = np.zeros(len(class_names), np.int64)
    for place, (example, fact) in enumerate(zip(contents.examples, facts, strict=True)):
        if isinstance(fact, str):
            left_out.append(place)
            continue
        size, counts, is_turned = fact
        strange = [value for value in counts if value not in allowed]
        if strange:
            hint = '; if 255 is to be ignored, give a classes.txt with the line "255 ignore"' if 255 in counts else ""
            problems.append(f"{example.where}: values outside the {len(class_names)} classes: {listed(strange)}{hint}")
            left_out.append(place)
            continue
        known = [value for value in counts if ids[value] != masks.IGNORED]
        if len(known) < 2:
            only = class_names[ids[known[0]]] if known else "all of it ignored, left out"
            warnings.append(f"{example.where}: all one class ({only})")
        if is_turned:
            warnings.append(f"{example.image}: turned upright by its EXIF data; its labels have to be upright too")
        if known:
            sizes.append(size)
            pixels[ids[known]] += [counts[value] for value in known]
        else:
            left_out.append(place)
    if sizes and np.count_nonzero(pixels) < 2:
        problems.append(f"{contents.place}: one class alone in all labels; there is nothing to learn")
    absent = [name for name, count in zip(class_names, pixels, strict=True) if not count]
    if sizes and absent:
        warnings.append(f"classes without a pixel: {listed(absent)}")
    lists = {"problems": problems, "warnings": warnings, "left_out": left_out, "sizes": sizes}
    return contents._replace(class_names=class_names, ids=ids, pixels=pixels, **lists)


def _to_class_ids(labels: tf.Variable, ids: np.ndarray) -> None:
    """Turns the values of masks into class ids, in place."""
    count = labels.shape[0]
    for start in range(0, count, BLOCK):
        places = tf.range(start, min(start + BLOCK, count))
        values = tf.gather(labels, places).numpy()
        labels.scatter_update(tf.IndexedSlices(ids[values], places))


def split(contents: Contents, seed: int) -> dict[str, list[int]]:
    """The places of the usable examples to train with, to test and, if they are declared, to validate.

    Without a declared test split, it is a seeded tenth of those to train with.
    """
    left_out = set(contents.left_out)
    places = {}
    first = 0
    for name, part in contents.splits.items():
        places[name] = [place for place in range(first, first + len(part)) if place not in left_out]
        first += len(part)
    places.pop("unused", None)
    if "test" not in places:
        train = places["train"]
        order = np.random.default_rng(seed).permutation(len(train))
        tested = set(order[: max(1, round(len(train) / 10))].tolist())
        places["train"] = [place for index, place in enumerate(train) if index not in tested]
        places["test"] = [place for index, place in enumerate(train) if index in tested]
    return places


def instances(
    path: pathlib.Path, contents: Contents, train: list[int]
) -> tuple[dict[int, str], Callable[[LabeledImage], Scene]]:
    """The categories to train with, and a function that reads the scene of an example; prints what is left out.

    Raises:
      InputError: if there are no instances at the places `train`.
    """
    if contents.kind == "photos":
        examples = contents.examples
        annotations = [one for place in train for one in examples[place].annotations]
        class_ids = sorted({one.class_id for one in annotations if not one.is_crowd} - {0})
        names = [contents.class_names[class_id] for class_id in class_ids]
        empty = [name for name in contents.categories.values() if name not in names]
        if not names:
            raise InputError(f"--data {path}: no category has an instance to train with ({listed(empty)})")
        if empty:
            print(f"--data {path}: categories without an instance to train with, left out: {listed(empty)}")
        categories = {number: name for number, name in contents.categories.items() if name in names}
        return categories, lambda example: regions.scene(example, class_ids)
    if contents.class_names != TRIMAP:
        raise InputError(f"--data {path}: masks do not separate instances; annotate these, and export them as COCO")
    print(f"--data {path}: photos whose names begin with a capital letter are cats, as in Oxford-IIIT Pet")

    def read_scene(example):
        trimap = contents.ids[example.read_label()]
        return pets.scene(photos.read(example.image), trimap, is_cat=example.image.stem[0].isupper())

    return pets.CATEGORIES, read_scene


def _fingerprint(path: pathlib.Path, contents: Contents) -> str:
    """Changes with the name or the size of a file that is read; not with its time, which copies do not keep."""
    files = set(contents.files)
    for example in contents.examples:
        files |= {example.image, example.label_file}
    digest = hashlib.sha256()
    for file in sorted(files):
        line = f"{file.relative_to(path)} {file.stat().st_size}\n"
        digest.update(line.encode(errors="backslashreplace"))
    return digest.hexdigest()
