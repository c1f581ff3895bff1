"""Masks: how they are read, and what their values mean."""

import pathlib
import re

from app.cli import InputError
from common.scores import BACKGROUND, PET

import cv2
import numpy as np
from PIL import Image

IGNORED = 255  # the label of pixels that count neither in the loss nor in a score
MOST_CLASSES = 255
IGNORE_LINE = re.compile(r"255\b|ignored?\W*(255)?\W*$", re.IGNORECASE)


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
        raise InputError(f"{path}: unreadable mask ({' '.join(str(error).split())})") from error


def inside_outline(trimap: np.ndarray) -> np.ndarray:
    """The pixels of a trimap, uint8 [H, W], that are closer to the pet than to the background: bool [H, W]."""
    to_pet, to_background = (
        cv2.distanceTransform((trimap != part).astype(np.uint8), cv2.DIST_L2, 5) for part in (PET, BACKGROUND)
    )
    return to_pet < to_background if (trimap == BACKGROUND).any() else np.ones(trimap.shape, bool)


def read_class_names(path: pathlib.Path) -> tuple[tuple[str, ...] | None, bool]:
    """The names in classes.txt, or None without one, and whether it says to ignore 255."""
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


def interpret(
    names: tuple[str, ...] | None, counts: list[np.ndarray], ignore: bool
) -> tuple[tuple[str, ...], np.ndarray, set[int], list[str]]:
    """Finds out what the values of the masks mean.

    Returns:
      The names of the classes, value to id (uint8 [256]), the values that may occur, and any ambiguities.
    """
    contents = [set(np.flatnonzero(count).tolist()) - ({255} if ignore else set()) for count in counts]
    every = set().union(*contents)
    doubts = []
    if names is None:
        largest = max(every - {255}, default=1)
        if 255 in every:  # two values; any between them is reported as a problem
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
    # The way that explains the most masks; of equals, the first.
    way = max(ways, key=lambda way: sum(content <= set(way) for content in contents))
    if way is from_0 and every and 0 not in every and every <= set(from_1):
        listed = ", ".join(map(str, sorted(every)[:8]))
        doubts.append(f"the values {listed} may be ids from 0 or from 1 on; let the first or the last class occur")
    ids = np.full(256, IGNORED, np.uint8)
    ids[list(way)] = list(way.values())
    return names, ids, set(way) | ({255} if ignore else set()), doubts
