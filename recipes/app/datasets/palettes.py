"""The palettes of masks, which have to agree.

The values of a palette image are places in its palette. A lossless optimiser such as oxipng may order each palette
anew: the masks look the same, but their values are no class ids any more.
"""

import collections
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

GREYS = bytes(value for value in range(256) for _ in range(3))  # of a mask without a palette
ADVICE = "their palettes differ, as after a lossless optimiser; export the masks again"


class Palette(NamedTuple):
    """The palette of a mask."""

    where: str  # the mask, as a message names it
    colors: bytes  # three for each value; none without a palette
    values: set[int]  # in the mask

    def color(self, value: int) -> tuple[int, ...]:
        """The RGB colour of a value; black beyond the end of the palette, as viewers show it."""
        return tuple((self.colors or GREYS)[3 * value : 3 * value + 3].ljust(3, b"\0"))


def read(path: pathlib.Path) -> bytes:
    """The colours of a palette image, three bytes for each value; none of another image."""
    with Image.open(path) as image:
        return bytes(image.getpalette("RGB")) if image.mode == "P" else b""


def problems(palettes: Sequence[Palette]) -> list[str]:
    """A line for each mask that contradicts most others: a value has another colour, or a colour another value."""
    compared = [one for one in palettes if one.colors]
    if not any(_has_colors(one) for one in compared):
        compared = palettes if compared else []  # masks without a palette are in grey, too
    counts = collections.Counter((value, one.color(value)) for one in compared for value in one.values)
    color_of = {}
    value_of = {}
    for (value, color), _ in counts.most_common():
        color_of.setdefault(value, color)
        value_of.setdefault(color, value)
    lines = []
    for one in compared:
        for value in sorted(one.values):
            color = one.color(value)
            if color_of[value] != color:
                other = f"in most masks {color_of[value]}"
            elif one.color(value_of[color]) != color:  # a palette may have a colour twice
                other = f"which in most masks is the value {value_of[color]}"
            else:
                continue
            lines.append(f"{one.where}: the value {value} is the colour {color}, {other}: {ADVICE}")
            break
    return lines


def remarks(palettes: Sequence[Palette]) -> list[str]:
    """Lines if some masks are in colour and others in grey, and if black is not 0; values are taken as class ids."""
    lines = []
    grey = [one.where for one in palettes if not one.colors]
    if grey and any(map(_has_colors, palettes)):
        others = f"{len(grey)} of {len(palettes)} masks, the others have palettes"
        lines.append(f"{grey[0]}: in grey, as {others}; all values are taken as class ids")
    colors = {value: (one.color(value), one.where) for one in palettes if one.colors for value in one.values}
    black = [(value, where) for value, (color, where) in colors.items() if color == (0, 0, 0) and value]
    if black and 0 in colors and colors[0][0] != (0, 0, 0):
        value, where = black[0]
        taken = f"0, of the colour {colors[0][0]}, is taken as the first class"
        lines.append(f"{where}: the value {value} is black; {taken}")
    return lines


def _has_colors(palette: Palette) -> bool:
    return any(len(set(palette.color(value))) > 1 for value in palette.values)
