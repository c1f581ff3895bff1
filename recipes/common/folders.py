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
IGNORE_LINE = re.compile(r"255\b|ignored?\W*(255)?\W*$", re.IGNORECASE)
ORIENTATION = 0x0112  # EXIF


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


class Facts(NamedTuple):
    """What is to be known of a pair."""

    size: tuple[int, int]  # width, height
    values: np.ndarray  # int64 [256], the pixels of each value of the mask
    is_turned: bool  # by the picture's EXIF data


def survey(folder: pathlib.Path, seed: int = 0) -> Survey:
    """Reads every picture and every mask of a folder once.

    Without lists of the splits a seeded tenth of the pairs is for the test.

    Raises:
      InputError: where the folder is not laid out as described above, or classes.txt is wrong.
    """
    masks = folder / "masks"
    is_oxford = not masks.is_dir()
    if is_oxford:
        masks = folder / "annotations" / "trimaps"
    if not (folder / "images").is_dir() or not masks.is_dir():
        raise InputError(f"--data {folder}: it has to hold images/ and masks/, or images/ and annotations/trimaps/")
    names, ignore = _class_names(folder / "classes.txt")
    if names is None and is_oxford:
        names = synthetic.CLASS_NAMES  # a trimap's

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

    class_names, ids, allowed, doubts = _classes(names, [facts.values for facts in readable.values()], ignore)
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
        known = values[ids[values] != IGNORED]
        if len(known) < 2:
            only = class_names[ids[known[0]]] if len(known) else "all of it ignored, left out"
            remarks.append(f"{pair.mask}: all one class ({only})")
        if facts.is_turned:
            remarks.append(f"{pair.image}: turned upright by its EXIF data; its mask has to be upright too")
        if len(known):
            good.append(pair)
            np.add.at(pixels, ids[known], facts.values[known])

    if good and np.count_nonzero(pixels) < 2:
        problems.append(f"{masks}: one class alone in all masks; there is nothing to tell apart")
    if good:
        remarks += [f"class {name} is in no mask" for name, count in zip(class_names, pixels, strict=True) if not count]
    train, test, share = _split(good, masks.parent if is_oxford else None, seed, remarks)
    if len(train) < 2 or not test:
        counts = f"{len(train)} of {len(pairs)} pairs are left to train with, {len(test)} to test"
        problems.append(f"{folder}: too few pairs, {counts}; train, validation and test need one each")
    sizes = [readable[pair].size for pair in good]
    return Survey(class_names, ids, train, test, share, pixels, sizes, problems, remarks)


def checked(folder: pathlib.Path, seed: int = 0) -> Survey:
    """The survey of a folder that can be trained on.

    Raises:
      InputError: where it cannot, or would train wrong.
    """
    found = survey(folder, seed)
    if found.problems:
        first = "; ".join(found.problems[:3])
        raise InputError(f"--data {folder}: problems: {len(found.problems)} ({first}); --check-data lists all of them")
    if found.remarks:
        print(f"--data {folder}: remarks: {len(found.remarks)} ({found.remarks[0]}); --check-data lists all of them")
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
        table = [("class", "id", "value in the masks", "share of pixels")]
        for index, (name, share) in enumerate(zip(found.class_names, shares, strict=True)):
            values = ", ".join(map(str, np.flatnonzero(found.ids == index)))
            table.append((name, str(index), values, f"{share:.2%}"))
        print_table(table)
    for title, lines in (("remarks", found.remarks), ("problems", found.problems)):
        print(f"{title}: {len(lines) or 'none'}")
        for line in lines:
            print(f"  {line}")
    if found.problems:
        raise InputError(f"--data {folder}: not fit to train on, problems: {len(found.problems)}; mend or remove them")


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
            packed = image.tile[0].args if image.mode == "L" and image.tile else None  # "L;4" for 4 bits a pixel
            if image.mode not in ("L", "P", "1") or packed in ("L;2", "L;4"):  # which Pillow stretches to 0..255
                kind = packed or image.mode
                raise InputError(f"{path}: a mask has to be an 8-bit grey or palette PNG; this one is {kind}")
            return np.array(image, np.uint8)
    except InputError:
        raise
    except Exception as error:  # each format of Pillow has its own ways to fail
        raise InputError(f"{path}: unreadable mask ({' '.join(str(error).split())})") from error


def _pair(folder: pathlib.Path, masks: pathlib.Path) -> tuple[list[Pair], list[str], list[str]]:
    """Pairs pictures and masks of one name; also what is wrong with that, and what has no partner."""

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


def _class_names(path: pathlib.Path) -> tuple[tuple[str, ...] | None, bool]:
    """The names in classes.txt, None without it, and whether it says that 255 is to be ignored."""
    if not path.exists():
        return None, False
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text in UTF-8") from error
    lines = [line for line in lines if not line.startswith("#")]
    names = [line for line in lines if not IGNORE_LINE.match(line)]
    numbered = [re.fullmatch(r"(\d+)[\s:,;=.)-]+(.+)", name) for name in names]
    if all(numbered) and [int(match[1]) for match in numbered] in (
        list(range(len(names))),
        list(range(1, len(names) + 1)),
    ):
        names = [match[2] for match in numbered]
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
        raise InputError(f"{path}: it has to name 2 to {MOST_CLASSES} classes, a line each and none twice")
    return tuple(names), any(IGNORE_LINE.match(line) for line in lines)


def _examine(pair: Pair) -> Facts | str:
    """Reads a pair: the facts, or what is wrong."""
    try:
        height, width = photos.read(pair.image).shape[:2]
        mask = read_mask(pair.mask)
    except InputError as error:
        return str(error)
    with Image.open(pair.image) as image:
        is_turned = image.getexif().get(ORIENTATION, 1) not in (0, 1)
    rows, columns = mask.shape
    if (rows, columns) != (height, width):
        hint = ", which its EXIF data turn" if is_turned else ""
        return f"{pair.mask}: sizes differ, {columns} x {rows} and the picture{hint} {width} x {height}"
    return Facts((width, height), np.bincount(mask.ravel(), minlength=256), is_turned)


def _classes(
    names: tuple[str, ...] | None, counts: list[np.ndarray], ignore: bool
) -> tuple[tuple[str, ...], np.ndarray, set[int], list[str]]:
    """Finds out what the values of the masks mean.

    Returns:
      The classes' names, value to id (uint8 [256]), the values that may occur, and what makes that doubtful.
    """
    contents = [set(np.flatnonzero(count).tolist()) - ({255} if ignore else set()) for count in counts]
    every = set().union(*contents)
    doubts = []
    if names is None:
        largest = max(every - {255}, default=1)
        if 255 in every:  # two values; what lies between them is told as a problem
            names = ("background", "foreground")
        elif 0 in every or not every:
            names = ("background", *(f"class {number}" for number in range(1, max(2, largest + 1))))
        else:
            names = tuple(f"class {number}" for number in range(1, max(3, largest + 1)))
        if len(every) >= 2 and 255 not in every and every != set(range(min(every), largest + 1)):
            listed = ", ".join(map(str, sorted(every)[:8])) + (", ..." if len(every) > 8 else "")
            doubts.append(f"the values {listed} leave gaps; name the classes in classes.txt, or make them 0 and 255")
    from_0, from_1 = ({index + first: index for index in range(len(names))} for first in (0, 1))
    ways = [from_0, from_1] + ([{0: 0, 255: 1}] if len(names) == 2 else [])
    # The way that makes sense of the most masks; of equals, the first.
    way = max(ways, key=lambda way: sum(content <= set(way) for content in contents))
    if way is from_0 and every and 0 not in every and every <= set(from_1):
        listed = ", ".join(map(str, sorted(every)[:8]))
        doubts.append(f"the values {listed} may be ids from 0 or from 1 on; let the first or the last class occur")
    ids = np.full(256, IGNORED, np.uint8)
    ids[list(way)] = list(way.values())
    return names, ids, set(way) | ({255} if ignore else set()), doubts


def _split(
    pairs: list[Pair], lists: pathlib.Path | None, seed: int, remarks: list[str]
) -> tuple[list[Pair], list[Pair], float]:
    """Pairs to train with and to test, and the share of the first for validation, by the lists or by chance."""
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
        # A name stands alone or, as Oxford has it, before numbers.
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
            f"{paths[1]}: {len(both)} names stand in {paths[0].name} too, like {min(both)}; a test needs its own"
        )
    train, test = ([by_name[name] for name in split] for split in splits)
    return train, test, 0.1
