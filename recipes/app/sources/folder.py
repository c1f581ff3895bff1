"""A person's own images and masks: paired by name, checked before training, and read.

    DIR/images/NAME.*   DIR/masks/NAME.png                   and optionally DIR/classes.txt
    DIR/images/NAME.*   DIR/annotations/trimaps/NAME.png     Oxford's layout; trainval.txt and test.txt beside trimaps/

A mask is an 8-bit grey or palette PNG. Its values are class ids from 0 or from 1, or 0 and 255 for two classes.
classes.txt names one class per line; with the line "255 ignore" pixels of the value 255 are ignored.
"""

import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from app.cli import InputError
from app.photos import photos
from app.sources import Source, labels
from common.scores import TRIMAP

import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

THREADS = 8
ORIENTATION = 0x0112  # EXIF


class Pair(NamedTuple):
    """An image and its mask."""

    image: pathlib.Path
    mask: pathlib.Path


class Survey(NamedTuple):
    """What a folder holds."""

    class_names: tuple[str, ...]
    ids: np.ndarray  # uint8 [256]: from mask value to class id or labels.IGNORED
    train: list[Pair]  # train and validation
    test: list[Pair]
    validation_share: float  # of train
    pixels: np.ndarray  # int64 [classes], in all masks
    sizes: list[tuple[int, int]]  # width, height of each usable image
    problems: list[str]  # what would fail, or silently train wrong
    remarks: list[str]  # harmless oddities


class Facts(NamedTuple):
    """What the survey needs to know of a pair."""

    size: tuple[int, int]  # width, height
    values: np.ndarray  # int64 [256], pixels of each mask value
    is_turned: bool  # by the image's EXIF data


def source(folder: pathlib.Path, seed: int) -> Source:
    """The data set in a folder; without lists of the splits it is split 80 / 10 / 10 %.

    Raises:
      InputError: if the folder has problems.
    """
    found = checked(folder, seed)

    def listed(pairs):
        images, masks = ([str(path) for path in paths] for paths in zip(*pairs, strict=True))
        return tf.data.Dataset.from_tensor_slices({"image": images, "mask": masks})

    def read(image, mask):
        return read_pair(pathlib.Path(image.decode()), pathlib.Path(mask.decode()), found.ids)

    def decode(element):
        image, label = tf.numpy_function(read, [element["image"], element["mask"]], [tf.uint8, tf.uint8])
        return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(label, (None, None, 1))

    return Source(found.class_names, listed(found.train), listed(found.test), decode, found.validation_share)


def survey(folder: pathlib.Path, seed: int = 0) -> Survey:
    """Reads every image and every mask of a folder once.

    Without lists of the splits, a seeded tenth of the pairs is the test split.

    Raises:
      InputError: if the folder is not laid out as described above, or classes.txt is wrong.
    """
    masks = folder / "masks"
    is_oxford = not masks.is_dir()
    if is_oxford:
        masks = folder / "annotations" / "trimaps"
    if not (folder / "images").is_dir() or not masks.is_dir():
        raise InputError(f"--data {folder}: it has to hold images/ and masks/, or images/ and annotations/trimaps/")
    names, ignore = labels.read_class_names(folder / "classes.txt")
    if names is None and is_oxford:
        names = TRIMAP

    pairs, problems, remarks = _pair(folder, masks)
    bar = tqdm(total=len(pairs), desc="checking", unit="pair", disable=None, file=sys.stdout)
    readable = {}
    with bar, ThreadPoolExecutor(THREADS) as pool:
        for pair, facts in zip(pairs, pool.map(_examine, pairs), strict=True):
            if isinstance(facts, str):
                problems.append(facts)
            else:
                readable[pair] = facts
            bar.update()

    class_names, ids, allowed, doubts = labels.interpret(names, [facts.values for facts in readable.values()], ignore)
    problems += [f"{masks}: {doubt}" for doubt in doubts]
    good, pixels = [], np.zeros(len(class_names), np.int64)
    for pair, facts in readable.items():
        values = np.flatnonzero(facts.values)
        strange = sorted(set(values.tolist()) - allowed)
        if strange:
            listed = ", ".join(map(str, strange[:6])) + (", ..." if len(strange) > 6 else "")
            hint = '; if 255 is to be ignored, give a classes.txt with the line "255 ignore"' if 255 in values else ""
            problems.append(f"{pair.mask}: values outside the {len(class_names)} classes: {listed}{hint}")
            continue
        known = values[ids[values] != labels.IGNORED]
        if len(known) < 2:
            only = class_names[ids[known[0]]] if len(known) else "all of it ignored, left out"
            remarks.append(f"{pair.mask}: all one class ({only})")
        if facts.is_turned:
            remarks.append(f"{pair.image}: turned upright by its EXIF data; its mask has to be upright too")
        if len(known):
            good.append(pair)
            np.add.at(pixels, ids[known], facts.values[known])

    if good and np.count_nonzero(pixels) < 2:
        problems.append(f"{masks}: one class alone in all masks; there is nothing to learn")
    if good:
        remarks += [f"class {name} is in no mask" for name, count in zip(class_names, pixels, strict=True) if not count]
    train, test, share = _split(good, masks.parent if is_oxford else None, seed, remarks)
    if len(train) < 2 or not test:
        counts = f"{len(train)} of {len(pairs)} pairs are left to train with, {len(test)} to test"
        problems.append(f"{folder}: too few pairs, {counts}; train, validation and test need one each")
    sizes = [readable[pair].size for pair in good]
    return Survey(class_names, ids, train, test, share, pixels, sizes, problems, remarks)


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


def read_pair(image: pathlib.Path, mask: pathlib.Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image, uint8 [H, W, 3], and its mask as class ids, uint8 [H, W, 1]."""
    return photos.read(image), ids[labels.read_mask(mask)][..., np.newaxis]


def _pair(folder: pathlib.Path, masks: pathlib.Path) -> tuple[list[Pair], list[str], list[str]]:
    """Pairs images and masks of the same name; returns the pairs, the problems and the remarks."""

    def files(place):
        return sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.is_file())

    by_name = {path.stem: path for path in files(masks) if path.suffix.lower() == ".png"}
    pairs, problems, remarks, used = [], [], [], {}
    for image in files(folder / "images"):
        if image.stem not in by_name:
            remarks.append(f"{image}: no partner, there is no {masks.name}/{image.stem}.png")
        elif image.stem in used:
            problems.append(f"{image}: {used[image.stem].name} has the same mask; keep one of the two")
        else:
            pairs.append(Pair(image, by_name[image.stem]))
            used[image.stem] = image
    remarks += [
        f"{path}: no partner, there is no images/{name}.*" for name, path in by_name.items() if name not in used
    ]
    remarks += [f"{path}: not read, a mask has to be a PNG" for path in files(masks) if path.suffix.lower() != ".png"]
    return pairs, problems, remarks


def _examine(pair: Pair) -> Facts | str:
    """Reads a pair; returns the facts, or what is wrong."""
    try:
        height, width = photos.read(pair.image).shape[:2]
        mask = labels.read_mask(pair.mask)
    except InputError as error:
        return str(error)
    with Image.open(pair.image) as image:
        is_turned = image.getexif().get(ORIENTATION, 1) not in (0, 1)
    rows, columns = mask.shape
    if (rows, columns) != (height, width):
        hint = ", which its EXIF data turn" if is_turned else ""
        return f"{pair.mask}: sizes differ, {columns} x {rows} and the image{hint} {width} x {height}"
    return Facts((width, height), np.bincount(mask.ravel(), minlength=256), is_turned)


def _split(
    pairs: list[Pair], lists: pathlib.Path | None, seed: int, remarks: list[str]
) -> tuple[list[Pair], list[Pair], float]:
    """The pairs to train with, those to test, and the validation share of the first: by the lists, or by chance."""
    paths = [lists / name for name in ("trainval.txt", "test.txt")] if lists else []
    if not (paths and all(path.exists() for path in paths)):
        remarks += [f"{path}: not used, the other list is missing" for path in paths if path.exists()]
        order = np.random.default_rng(seed).permutation(len(pairs))
        tested = set(order[: max(1, round(len(pairs) / 10))].tolist())
        train = [pair for index, pair in enumerate(pairs) if index not in tested]
        return train, [pairs[index] for index in sorted(tested) if pairs], len(pairs) / 10 / max(1, len(train))
    by_name = {pair.image.stem: pair for pair in pairs}
    splits = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as text in UTF-8") from error
        # A name stands alone or, as in Oxford's lists, before numbers.
        names = [[line.strip(), line.split()[0]] for line in lines if line.strip() and not line.startswith("#")]
        names = [[*own, *(pathlib.PurePath(name).stem for name in own)] for own in names]
        found = [next((name for name in own if name in by_name), None) for own in names]
        missing = [own[0] for own, name in zip(names, found, strict=True) if name is None]
        if missing:
            remarks.append(f"{path}: names without a pair that can be used: {len(missing)} ({missing[0]}, ...)")
        splits.append(dict.fromkeys(name for name in found if name))
    both = splits[0].keys() & splits[1].keys()
    if both:
        raise InputError(
            f"{paths[1]}: {len(both)} names are in {paths[0].name} too, like {min(both)}; an image can be in one only"
        )
    train, test = ([by_name[name] for name in split] for split in splits)
    return train, test, 0.1
