"""Folders of images and masks, paired by name.

    DIR/images/NAME.*   DIR/masks/NAME.png                   and optionally DIR/classes.txt
    DIR/images/NAME.*   DIR/annotations/trimaps/NAME.png     Oxford's layout; trainval.txt and test.txt beside trimaps/

A mask is an 8-bit grey or palette PNG. Its values are class ids from 0 or from 1, or 0 and 255 for two classes.
classes.txt names one class per line; with the line "255 ignore" pixels of the value 255 are ignored.
"""

import functools
import pathlib
import re

from app.cli import InputError, listed, one_line
from app.datasets import BACKGROUND_NAME, Contents, LabeledImage
from common.scores import TRIMAP

import numpy as np
from PIL import Image

IGNORED = 255  # the label of pixels that are left out of loss and scores
MOST_CLASSES = 255
IGNORE_LINE = re.compile(r"255\b|ignored?\W*(255)?\W*$", re.IGNORECASE)


def find(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder of the masks."""
    places = (folder / "masks", folder / "annotations" / "trimaps")
    return next((place for place in places if place.is_dir()), None)


def read(folder: pathlib.Path, masks: pathlib.Path) -> Contents:
    """Pairs the images and masks of a folder.

    Raises:
      InputError: if classes.txt or the lists of the splits are wrong.
    """
    files = [path for path in (folder / "classes.txt",) if path.exists()]
    class_names, ignores_255 = _class_names(files[0]) if files else (None, False)
    is_oxford = masks.name == "trimaps"
    class_names = class_names or (TRIMAP if is_oxford else None)
    contents = Contents("pairs", masks, files, {}, {}, ignores_255, [], [], class_names)
    contents.splits["train"] = _pairs(contents, folder / "images", masks)
    lists = [path for path in (masks.parent / "trainval.txt", masks.parent / "test.txt") if path.exists()]
    if is_oxford and len(lists) == 2:
        files += lists
        contents.splits.update(_listed_splits(contents, *lists))
    elif is_oxford:
        contents.warnings.extend(f"{path}: not used, the other list is missing" for path in lists)
    return contents


def _pairs(contents: Contents, images: pathlib.Path, masks: pathlib.Path) -> list[LabeledImage]:
    """The images and masks of the same name, in the order of the names."""

    def files(place):
        return sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.is_file())

    by_name = {path.stem: path for path in files(masks) if path.suffix.lower() == ".png"}
    pairs = {}
    for image in files(images):
        mask = by_name.get(image.stem)
        if mask is None:
            contents.warnings.append(f"{image}: no partner, there is no {masks.name}/{image.stem}.png")
        elif image.stem in pairs:
            contents.problems.append(f"{image}: {pairs[image.stem].image.name} has the same mask; keep one of the two")
        else:
            pairs[image.stem] = LabeledImage(image, mask, str(mask), functools.partial(read_mask, mask))
    alone = [name for name in by_name if name not in pairs]
    contents.warnings.extend(f"{by_name[name]}: no partner, there is no images/{name}.*" for name in alone)
    others = [path for path in files(masks) if path.suffix.lower() != ".png"]
    contents.warnings.extend(f"{path}: not read, a mask has to be a PNG" for path in others)
    return list(pairs.values())


def _listed_splits(contents: Contents, trainval: pathlib.Path, test: pathlib.Path) -> dict[str, list[LabeledImage]]:
    """The pairs of each split, by the lists."""
    by_name = {pair.image.stem: pair for pair in contents.examples}
    train_names = _listed_names(trainval, by_name, contents.warnings)
    test_names = _listed_names(test, by_name, contents.warnings)
    both = train_names.keys() & test_names.keys()
    if both:
        advice = "an image can be in one only"
        raise InputError(f"{test}: {len(both)} names are in {trainval.name} too, like {min(both)}; {advice}")
    unused = by_name.keys() - train_names.keys() - test_names.keys()
    names = {"train": train_names, "test": test_names, "unused": sorted(unused)}
    return {split: [by_name[name] for name in part] for split, part in names.items()}


def _listed_names(path: pathlib.Path, by_name: dict[str, LabeledImage], warnings: list[str]) -> dict[str, None]:
    """The names in a list that have a pair, each once."""
    names = {}
    missing = []
    for line in _lines(path):
        # A name stands alone or, as in Oxford's lists, before numbers. It may have a file's ending.
        texts = (line, line.split()[0])
        candidates = [*texts, *(pathlib.PurePath(text).stem for text in texts)]
        name = next((candidate for candidate in candidates if candidate in by_name), None)
        if name is None:
            missing.append(line)
        else:
            names[name] = None
    if missing:
        warnings.append(f"{path}: names without a pair: {len(missing)} ({missing[0]}, ...)")
    return names


def _lines(path: pathlib.Path) -> list[str]:
    """The lines of a text, without empty ones and comments."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text in UTF-8") from error
    return [line for line in lines if line and not line.startswith("#")]


def _class_names(path: pathlib.Path) -> tuple[tuple[str, ...], bool]:
    """The names in classes.txt, and whether it says to ignore 255."""
    lines = _lines(path)
    names = [line for line in lines if not IGNORE_LINE.match(line)]
    numbered = [re.fullmatch(r"(\d+)[\s:,;=.)-]+(.+)", name) for name in names]
    numbers = [int(match[1]) for match in numbered if match]
    if numbers in (list(range(len(names))), list(range(1, len(names) + 1))):
        names = [match[2] for match in numbered]
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
        raise InputError(f"{path}: it has to name 2 to {MOST_CLASSES} classes, a line each and none twice")
    return tuple(names), len(names) < len(lines)


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads the values of a mask, uint8 [H, W]; of a palette image the indices, not the colours.

    Raises:
      InputError: if it is not an 8-bit grey or palette image.
    """
    try:
        with Image.open(path) as image:
            packed = image.tile[0].args if image.mode == "L" and image.tile else None  # "L;4" for 4 bits per pixel
            if image.mode not in ("L", "P", "1") or packed in ("L;2", "L;4"):  # Pillow scales these to 0..255
                kind = packed or image.mode
                raise InputError(f"{path}: a mask has to be an 8-bit grey or palette PNG; this one is {kind}")
            return np.array(image, np.uint8)
    except InputError:
        raise
    except Exception as error:  # each of Pillow's formats fails in its own way
        raise InputError(f"{path}: unreadable mask ({one_line(error)})") from error


def interpret(
    class_names: tuple[str, ...] | None, contents: list[set[int]], ignores_255: bool
) -> tuple[tuple[str, ...], np.ndarray, set[int], str]:
    """Finds out what the values of masks mean.

    Args:
      class_names: those of classes.txt, or None.
      contents: the values in each mask.
      ignores_255: whether 255 is declared to be ignored.
    Returns:
      The names of the classes, the class id or IGNORED of each value (uint8 [256]), the values that may occur, and
      what is ambiguous, or "".
    """
    ignored = {IGNORED} if ignores_255 else set()
    contents = [values - ignored for values in contents]
    every = sorted(set().union(*contents))
    doubt = ""
    if class_names is None:
        class_names = _default_names(every)
        if len(every) >= 2 and 255 not in every and every != list(range(every[0], every[-1] + 1)):
            doubt = f"the values {listed(every)} leave gaps; name the classes in classes.txt, or make them 0 and 255"
    from_0 = {value: value for value in range(len(class_names))}
    from_1 = {value + 1: value for value in range(len(class_names))}
    ways = [from_0, from_1, {0: 0, 255: 1}] if len(class_names) == 2 else [from_0, from_1]
    # The way that explains the most masks; of equals, the first.
    way = max(ways, key=lambda way: sum(values <= way.keys() for values in contents))
    if way is from_0 and every and 0 not in every and from_1.keys() >= set(every):
        doubt = f"the values {listed(every)} may be ids from 0 or from 1 on; let the first or the last class occur"
    ids = np.full(256, IGNORED, np.uint8)
    ids[list(way)] = list(way.values())
    return class_names, ids, way.keys() | ignored, doubt


def _default_names(values: list[int]) -> tuple[str, ...]:
    """Names for the classes of masks with these values, in ascending order."""
    largest = max((value for value in values if value != 255), default=1)
    if 255 in values:  # two values; any between them is reported as a problem
        return (BACKGROUND_NAME, "foreground")
    if values and values[0] > 0:
        return tuple(f"class {number}" for number in range(1, max(3, largest + 1)))
    return (BACKGROUND_NAME, *(f"class {number}" for number in range(1, max(2, largest + 1))))
