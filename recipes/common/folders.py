"""A person's own pictures and masks: paired by name, checked before anything trains on them, and read.

    DIR/images/NAME.*   DIR/masks/NAME.png                   and, if wanted, DIR/classes.txt
    DIR/images/NAME.*   DIR/annotations/trimaps/NAME.png     Oxford's layout; trainval.txt and test.txt beside trimaps/

A mask is an 8-bit grey or palette PNG whose values are class ids from 0 or from 1, or 0 and 255 for two classes.
classes.txt names a class a line; the line "255 ignore" says that pixels of the value 255 are of no known class.
"""

import pathlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from common import photos, synthetic
from common.files import InputError, print_table

import numpy as np
from PIL import Image
from tqdm import tqdm

IGNORED = 255  # the label of pixels that count neither in the loss nor in a score
MOST_CLASSES = 255
THREADS = 8
IGNORE_LINE = re.compile(r"(255\W+)?ignored?(\W+255)?", re.IGNORECASE)


class Pair(NamedTuple):
    """A picture and its mask."""

    image: pathlib.Path
    mask: pathlib.Path


class Survey(NamedTuple):
    """What a folder holds, as far as it can be used."""

    class_names: tuple[str, ...]
    ids: np.ndarray  # uint8 [256]: mask value to class id, or IGNORED
    train: list[Pair]  # train and validation
    test: list[Pair]
    validation_share: float  # of train
    pixels: np.ndarray  # int64 [classes], over all masks
    sizes: list[tuple[int, int]]  # width, height of each picture
    problems: list[str]  # what would fail, or train wrong without a word
    remarks: list[str]  # what does no harm


def survey(folder: pathlib.Path, seed: int = 0) -> Survey:
    """Reads every picture and every mask of a folder once.

    Without lists of the splits a seeded tenth of the pairs is for the test.

    Raises:
      InputError: where the folder is not laid out as described above, or classes.txt is wrong.
    """
    masks, lists = folder / "masks", []
    if not masks.is_dir():
        masks = folder / "annotations" / "trimaps"
        lists = [masks.parent / name for name in ("trainval.txt", "test.txt")]
    if not (folder / "images").is_dir() or not masks.is_dir():
        raise InputError(f"--data {folder}: it has to hold images/ and masks/, or images/ and annotations/trimaps/")
    pairs, remarks = _pair(folder, masks)
    names, ignore = _class_names(folder / "classes.txt")
    if names is None and lists:
        names = synthetic.CLASS_NAMES  # a trimap's

    with ThreadPoolExecutor(THREADS) as pool:
        bar = tqdm(total=len(pairs), desc="checking", unit="pair", disable=None, file=sys.stdout)
        with bar:
            facts = []
            for fact in pool.map(_read_pair, pairs):
                facts.append(fact)
                bar.update()

    problems = [fact for fact in facts if isinstance(fact, str)]
    readable = [(pair, *fact) for pair, fact in zip(pairs, facts, strict=True) if not isinstance(fact, str)]
    class_names, ids, allowed = _classes(names, [counts for *_, counts in readable], ignore)
    good, sizes, pixels = [], [], np.zeros(len(class_names), np.int64)
    for pair, size, counts in readable:
        values = np.flatnonzero(counts)
        strange = sorted(set(values.tolist()) - allowed)
        if strange:
            hint = "; if 255 means ignore, say so in classes.txt" if strange == [255] else ""
            shown = ", ".join(map(str, strange[:6])) + (", ..." if len(strange) > 6 else "")
            problems.append(f"{pair.mask}: values outside the {len(class_names)} classes: {shown}{hint}")
            continue
        if len(set(ids[values].tolist()) - {IGNORED}) < 2:
            remarks.append(f"{pair.mask}: all one class ({', '.join(_called(class_names, ids[values]))})")
        good.append(pair)
        sizes.append(size)
        np.add.at(pixels, ids[values[ids[values] != IGNORED]], counts[values[ids[values] != IGNORED]])

    if good and np.count_nonzero(pixels) < 2:
        problems.append(f"{masks}: one class alone in all masks; there is nothing to tell apart")
    remarks += [f"class {name} is in no mask" for name, count in zip(class_names, pixels, strict=True) if not count]
    train, test = _split(good, lists, seed, problems)
    share = len(good) / 10 / max(1, len(train))
    return Survey(class_names, ids, train, test, share if not lists else 0.1, pixels, sizes, problems, remarks)


def checked(folder: pathlib.Path, seed: int = 0) -> Survey:
    """The survey of a folder that can be trained on.

    Raises:
      InputError: where it cannot, or would train wrong.
    """
    found = survey(folder, seed)
    if found.problems:
        first = "; ".join(found.problems[:3])
        raise InputError(f"--data {folder}: {len(found.problems)} problems ({first}); --check-data lists all of them")
    return found


def report(folder: str) -> None:
    """Prints what a folder holds and every problem.

    Raises:
      InputError: where training could not start.
    """
    found = survey(pathlib.Path(folder))
    print(
        f"{folder}: {len(found.sizes)} pairs can be used, {len(found.train)} to train with, {len(found.test)} to test"
    )
    if found.sizes:
        smallest, largest = (pick(found.sizes, key=np.prod) for pick in (min, max))
        print("sizes: {} x {} to {} x {} pixels".format(*smallest, *largest))
    shares = found.pixels / max(1, found.pixels.sum())
    values = [", ".join(map(str, np.flatnonzero(found.ids == index))) for index in range(len(shares))]
    rows = zip(
        found.class_names, map(str, range(len(shares))), values, (f"{share:.2%}" for share in shares), strict=True
    )
    print_table([("class", "id", "value in the masks", "share of pixels"), *rows])
    for title, lines in (("remarks", found.remarks), ("problems", found.problems)):
        print(f"{title}: {len(lines) or 'none'}")
        for line in lines:
            print(f"  {line}")
    if found.problems:
        raise InputError(
            f"--data {folder}: not fit to train on, for {len(found.problems)} problems; mend them or move them away"
        )


def read_pair(image: pathlib.Path, mask: pathlib.Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads a picture, uint8 [H, W, 3], and its mask as class ids, uint8 [H, W, 1]."""
    return photos.read(image), ids[read_mask(mask)][..., np.newaxis]


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads the values of a mask: uint8 [H, W]; of a palette picture the indices, not the colours.

    Raises:
      InputError: for what is no 8-bit grey or palette picture.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise InputError(f"{path}: a mask has to be an 8-bit grey or palette PNG; this one is {image.mode}")
            return np.array(image, np.uint8)
    except InputError:
        raise
    except Exception as error:  # each format of Pillow has its own ways to fail
        raise InputError(f"{path}: unreadable mask ({' '.join(str(error).split())})") from error


def _pair(folder: pathlib.Path, masks: pathlib.Path) -> tuple[list[Pair], list[str]]:
    """Pairs pictures and masks of one name; the remarks say what has no partner."""
    hidden = lambda path: path.name.startswith(".") or path.is_dir()  # noqa: E731
    by_name = {path.stem: path for path in sorted(masks.glob("*.png")) if not hidden(path)}
    pairs, remarks, used = [], [], set()
    for image in sorted(path for path in (folder / "images").iterdir() if not hidden(path)):
        if image.stem not in by_name:
            remarks.append(f"{image}: no partner, there is no {masks.name}/{image.stem}.png")
        elif image.stem in used:
            remarks.append(f"{image}: no partner, another picture of this name has the mask")
        else:
            pairs.append(Pair(image, by_name[image.stem]))
            used.add(image.stem)
    remarks += [
        f"{path}: no partner, there is no images/{name}.*" for name, path in by_name.items() if name not in used
    ]
    return pairs, remarks


def _class_names(path: pathlib.Path) -> tuple[tuple[str, ...] | None, bool]:
    """The names in classes.txt, None without it, and whether it says that 255 is to be ignored."""
    if not path.exists():
        return None, False
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text in UTF-8") from error
    names = tuple(line for line in lines if not IGNORE_LINE.fullmatch(line))
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
        raise InputError(f"{path}: it has to name 2 to {MOST_CLASSES} classes, a line each and none twice")
    return names, len(names) < len(lines)


def _read_pair(pair: Pair) -> tuple[tuple[int, int], np.ndarray] | str:
    """Size (width, height) and the number of pixels of each mask value, int64 [256]; or what is wrong."""
    try:
        height, width = photos.read(pair.image).shape[:2]
        mask = read_mask(pair.mask)
    except InputError as error:
        return str(error)
    if mask.shape != (height, width):
        rows, columns = mask.shape
        return f"{pair.mask}: sizes differ, {columns} x {rows} and the picture {width} x {height}"
    return (width, height), np.bincount(mask.ravel(), minlength=256)


def _classes(
    names: tuple[str, ...] | None, counts: list[np.ndarray], ignore: bool
) -> tuple[tuple[str, ...], np.ndarray, set[int]]:
    """Finds out what the values of the masks mean: the classes' names, value to id, and the values that may occur."""
    contents = [set(np.flatnonzero(count).tolist()) - ({255} if ignore else set()) for count in counts]
    every = set().union(*contents)
    if names is None:
        if 255 in every:  # of a mask with two values; what lies between them is told as a problem
            names = ("background", "foreground")
        else:
            first, count = (0, max(every, default=0) + 1) if 0 in every or not every else (1, max(every))
            names = ("background",) * (1 - first) + tuple(f"class {number}" for number in range(1, count + first))
            names = names if len(names) > 1 else (*names, "class 1")
    ways = [{index: index for index in range(len(names))}, {index + 1: index for index in range(len(names))}]
    if len(names) == 2:
        ways.append({0: 0, 255: 1})
    # The way that makes sense of the most masks; of equals, the first.
    way = max(ways, key=lambda way: sum(content <= set(way) for content in contents))
    ids = np.full(256, IGNORED, np.uint8)
    ids[list(way)] = list(way.values())
    return names, ids, set(way) | ({255} if ignore else set())


def _called(class_names: tuple[str, ...], ids: np.ndarray) -> list[str]:
    return [class_names[index] if index != IGNORED else "ignored" for index in sorted(set(ids.tolist()))]


def _split(
    pairs: list[Pair], lists: list[pathlib.Path], seed: int, problems: list[str]
) -> tuple[list[Pair], list[Pair]]:
    if lists and all(path.exists() for path in lists):
        listed = [{line.split()[0] for line in path.read_text().splitlines() if line.strip()} for path in lists]
        train, test = ([pair for pair in pairs if pair.image.stem in names] for names in listed)
        if listed[0] & listed[1]:
            problems.append(f"{lists[1]}: {len(listed[0] & listed[1])} names stand in {lists[0].name} too")
    else:
        order = np.random.default_rng(seed).permutation(len(pairs))
        tested = set(order[: max(1, round(len(pairs) / 10))].tolist())
        train, test = (
            [pair for index, pair in enumerate(pairs) if (index in tested) == part] for part in (False, True)
        )
    if len(train) < 2 or not test:
        problems.append(f"only {len(pairs)} pairs can be used; train, validation and test need one each")
    return train, test
