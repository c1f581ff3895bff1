"""Folders of images and masks, paired by name.

    DIR/images/NAME.*   DIR/masks/NAME.png                   and optionally DIR/classes.txt
    DIR/images/NAME.*   DIR/annotations/trimaps/NAME.png     Oxford's layout; trainval.txt and test.txt beside trimaps/

A name may have subfolders in it, such as train/NAME and val/NAME, which then are the splits. A mask is an 8-bit grey or
palette PNG. Its values are class ids from 0 or from 1, or 0 and 255 for two classes. classes.txt names one class per
line; with the line "255 ignore", or labelme's "__ignore__", pixels of the value 255 are ignored.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

from app.cli import InputError, listed, one_line, percent
from app.datasets import BACKGROUND_NAME, Contents, LabeledImage, names
from common.scores import TRIMAP

import numpy as np
from PIL import Image

IGNORED = 255  # the label of pixels that are left out of loss and scores
MOST_CLASSES = 255
OTHER_NAMES = ("labels.txt", "class_names.txt", "labelmap.txt")  # of other tools' names of classes
IGNORE_LINE = re.compile(r"(?:(-?\d+)\W+)?_*ignored?_*\W*(-?\d+)?\W*", re.IGNORECASE)


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
    others = [folder / name for name in OTHER_NAMES if not files and (folder / name).exists()]
    contents.warnings.extend(f"{path}: not read, the names of the classes have to be in classes.txt" for path in others)
    pairs = _pairs(contents, folder / "images", masks)
    contents.splits.update(_splits_of_folders(contents, pairs))
    lists = [path for path in (masks.parent / "trainval.txt", masks.parent / "test.txt") if path.exists()]
    if is_oxford and len(lists) == 2:
        files += lists
        contents.splits.update(_listed_splits(contents, pairs, *lists))
    elif is_oxford:
        contents.warnings.extend(f"{path}: not used, the other list is missing" for path in lists)
    return contents


def _pairs(contents: Contents, images: pathlib.Path, masks: pathlib.Path) -> dict[str, LabeledImage]:
    """The images and masks of the same name, in the order of the names: paths below the two folders without endings."""

    def name_of(path, folder):
        return names.composed(path.relative_to(folder).with_suffix("").as_posix())

    files = names.files_below(masks)
    by_name = {}
    for path in files:
        if path.suffix.lower() != ".png":
            contents.warnings.append(f"{path}: not read, a mask has to be a PNG")
        elif by_name.setdefault(name_of(path, masks), path) != path:
            contents.problems.append(f"{path}: {by_name[name_of(path, masks)]} has the same name; keep one of the two")
    pairs = {}
    for image in names.files_below(images):
        name = name_of(image, images)
        mask = by_name.get(name)
        if mask is None:
            contents.warnings.append(f"{image}: no partner, there is no {masks.name}/{name}.png")
        elif name in pairs:
            contents.problems.append(f"{image}: {pairs[name].image.name} has the same mask; keep one of the two")
        else:
            pairs[name] = LabeledImage(image, mask, str(mask), functools.partial(read_mask, mask))
    alone = [name for name in by_name if name not in pairs]
    contents.warnings.extend(f"{by_name[name]}: no partner, there is no images/{name}.*" for name in alone)
    return pairs


def _splits_of_folders(contents: Contents, pairs: dict[str, LabeledImage]) -> dict[str, list[LabeledImage]]:
    """The pairs of each split, if all lie in folders named after splits; otherwise all are those of "train"."""
    tops = {name: name.split("/")[0] if "/" in name else "" for name in pairs}
    splits = {top: names.of_split(top) for top in tops.values()}
    if "train" not in splits.values() or None in splits.values():
        return {"train": list(pairs.values())}
    contents.warnings.append(f"{contents.place}: the folders {listed(sorted(splits))} are taken as the splits")
    parts = {
        split: [pairs[name] for name, top in tops.items() if splits[top] == split] for split in names.SPLITS.values()
    }
    return {split: part for split, part in parts.items() if part}


def _listed_splits(
    contents: Contents, pairs: dict[str, LabeledImage], trainval: pathlib.Path, test: pathlib.Path
) -> dict[str, list[LabeledImage]]:
    """The pairs of each split, by the lists."""
    train_names = _listed_names(trainval, pairs, contents.warnings)
    test_names = _listed_names(test, pairs, contents.warnings)
    both = train_names.keys() & test_names.keys()
    if both:
        advice = "an image can be in one only"
        raise InputError(f"{test}: {len(both)} names are in {trainval.name} too, like {min(both)}; {advice}")
    unused = pairs.keys() - train_names.keys() - test_names.keys()
    parts = {"train": train_names, "test": test_names, "unused": sorted(unused)}
    return {split: [pairs[name] for name in part] for split, part in parts.items()}


def _listed_names(path: pathlib.Path, pairs: dict[str, LabeledImage], warnings: list[str]) -> dict[str, None]:
    """The names in a list that have a pair, each once."""
    found = {}
    missing = []
    for line in _lines(path):
        # A name stands alone or, as in Oxford's lists, before numbers. It may have a file's ending.
        texts = [names.composed(text) for text in (line, line.split()[0])]
        candidates = [*texts, *(pathlib.PurePath(text).with_suffix("").as_posix() for text in texts)]
        name = next((candidate for candidate in candidates if candidate in pairs), None)
        if name is None:
            missing.append(line)
        else:
            found[name] = None
    if missing:
        warnings.append(f"{path}: names without a pair: {len(missing)} ({missing[0]}, ...)")
    return found


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
    ignored = [place for place, line in enumerate(lines) if _is_ignored(path, line, place, len(lines))]
    found = [line for place, line in enumerate(lines) if place not in ignored]
    numbered = [re.fullmatch(r"(\d+)[\s:,;=.)-]+(.+)", name) for name in found]
    numbers = [int(match[1]) for match in numbered if match]
    if numbers in (list(range(len(found))), list(range(1, len(found) + 1))):
        found = [match[2] for match in numbered]
    found = [names.of_class(name) for name in found]
    if not 2 <= len(found) <= MOST_CLASSES or len(set(found)) < len(found):
        raise InputError(f"{path}: it has to name 2 to {MOST_CLASSES} classes, a line each and none twice")
    return tuple(found), bool(ignored)


def _is_ignored(path: pathlib.Path, line: str, place: int, count: int) -> bool:
    """Whether a line says to ignore 255; raises InputError if it means another value, or it is not clear which."""
    if re.match(r"255\b", line):
        return True
    match = IGNORE_LINE.fullmatch(line)
    if not match:
        return False
    number = match[1] or match[2]
    is_first_of_labelme = place == 0 and line.startswith("__")  # its number is -1, which a mask has as 255
    if number in ("255", "-1") or (number is None and (is_first_of_labelme or place == count - 1)):
        return True
    raise InputError(f'{path}: "{line}": only 255 can be ignored; give those pixels this value, and write "255 ignore"')


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads the values of a mask, uint8 [H, W]; of a palette image the indices, not the colours; 255 is white.

    Raises:
      InputError: if it is not an 8-bit grey or palette image.
    """
    try:
        with Image.open(path) as image:
            packed = image.tile[0].args if image.mode == "L" and image.tile else None  # "L;4" for 4 bits per pixel
            if image.mode not in ("L", "P", "1") or packed in ("L;2", "L;4"):  # Pillow scales these to 0..255
                kind = packed or image.mode
                raise InputError(f"{path}: a mask has to be an 8-bit grey or palette PNG; this one is {kind}")
            values = np.array(image, np.uint8)
            return values * np.uint8(255) if image.mode == "1" else values
    except InputError:
        raise
    except Exception as error:  # each of Pillow's formats fails in its own way
        raise InputError(f"{path}: unreadable mask ({one_line(error)})") from error


def doubt_background(class_names: Sequence[str], ids: np.ndarray, pixels: np.ndarray) -> list[str]:
    """A warning if the first name in classes.txt may be given to a background that it does not name."""
    is_named = any(name.strip("_").lower() in names.NO_OBJECT for name in class_names)
    share = pixels[0] / max(1, pixels.sum())
    if is_named or ids[0] != 0 or not share or (share <= 0.5 and pixels[-1]):
        return []
    taken = f"the value 0, {percent(share)} of the pixels, is taken as {class_names[0]}, the first name"
    return [f'classes.txt: {taken}; if it is the background, write "background" above it']


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
