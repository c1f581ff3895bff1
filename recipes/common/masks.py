"""Label maps as pictures: colours, overlays, and mosaics of photo, truth and prediction."""

import functools
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Patch

# Orange, deep blue and light yellow stay apart for colour-blind readers and in grey print (Okabe & Ito 2008).
NAMED_COLORS = {"pet": (230, 140, 20), "background": (36, 62, 110), "border": (250, 240, 170)}
LEGEND_COLUMNS, LEGEND_CLASSES = 5, 24
FONT = matplotlib.get_data_path() + "/fonts/ttf/DejaVuSans.ttf"  # Latin, Greek, Cyrillic, Arabic
UNUSUAL_FONTS = re.compile("bold|italic|oblique|black|light|thin|mono|serif", re.IGNORECASE)  # tried after the others


class Example(NamedTuple):
    """One row of a mosaic."""

    image: np.ndarray  # uint8 [H, W, 3], 0..255
    label: np.ndarray  # uint8 [H, W], the truth
    prediction: np.ndarray  # uint8 [H, W]
    iou: float | None = None  # of this image, 0..1, printed beside it


def palette(class_names: Sequence[str]) -> np.ndarray:
    """One RGB colour per class, uint8 [classes, 3]. The classes of a trimap always have the same colours."""
    others = [color for color in matplotlib.colormaps["tab20"].colors if np.ptp(color) > 0.1]  # without the greys
    rest = np.arange(max(0, len(class_names) - len(others)))  # steps of the golden ratio keep neighbours apart
    others += list(hsv_to_rgb(np.stack([rest * 0.618034 % 1, 0.4 + rest % 3 * 0.25, 0.95 - rest % 4 * 0.12], axis=1)))
    colors = [NAMED_COLORS.get(name, np.multiply(other, 255)) for name, other in zip(class_names, others, strict=False)]
    return np.array(colors, dtype=np.uint8)


def colorize(label: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Class ids [H, W], 0..255, to RGB uint8 [H, W, 3]; ignored labels, which have no colour, are grey."""
    table = np.full((256, 1, 3), 128, np.uint8)
    table[: len(colors), 0] = colors
    return cv2.applyColorMap(label.astype(np.uint8, copy=False), table)  # ten times as fast as NumPy's indexing


def overlay(image: np.ndarray, label: np.ndarray, colors: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Blends the colours of a label map into a photo; all uint8, opacity 0..1."""
    return cv2.addWeighted(image, 1 - opacity, colorize(label, colors), opacity, 0)


@matplotlib.rc_context({"text.parse_math": False})  # a class name may contain a dollar sign
def mosaic(path: str | os.PathLike, examples: Sequence[Example], class_names: Sequence[str], title: str) -> None:
    """Saves a PNG with one row per example: photo, truth, prediction, overlay, its IoU; a legend below."""
    colors = palette(class_names)
    columns = ("photo", "truth", "prediction", "overlay")
    names, fonts = zip(*(lettering(name, f"class {index}") for index, name in enumerate(class_names)), strict=True)
    title, title_font = lettering(title, title.encode("ascii", "replace").decode(), width=100)
    matplotlib.rcParams["font.family"] = _families({*fonts, title_font} - {None})
    legend = _legend(examples, names, colors)
    side = 2.2  # inches
    legend_rows = -(-len(legend) // LEGEND_COLUMNS)
    size = (side * len(columns) + 0.5, side * len(examples) + 0.68 + 0.24 * legend_rows)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(examples), len(columns), squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        blended = overlay(example.image, example.prediction, colors)
        label_maps = [colorize(ids, colors) for ids in (example.label, example.prediction)]
        pictures = [example.image, *label_maps, blended]
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        if example.iou is not None:
            row[0].set_ylabel(f"IoU {example.iou:.2f}", fontsize=11)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=11)
    figure.legend(handles=legend, loc="outside lower center", ncols=min(len(legend), LEGEND_COLUMNS), frameon=False)
    figure.savefig(path, dpi=110)


def _legend(examples: Sequence[Example], class_names: Sequence[str], colors: np.ndarray) -> list[Patch]:
    """A coloured patch per class; with many classes, only for the largest ones in these examples."""
    pixels = sum(np.bincount(np.append(e.label, e.prediction), minlength=256) for e in examples)[: len(class_names)]
    order = np.argsort(-pixels, kind="stable")[:LEGEND_CLASSES]
    shown = sorted(index for index in order if pixels[index] or len(class_names) <= LEGEND_COLUMNS)
    patches = [Patch(facecolor=colors[index] / 255, edgecolor="grey", label=class_names[index]) for index in shown]
    more = np.count_nonzero(pixels) - len(shown)
    return patches + ([Patch(alpha=0, label=f"and {more} more")] if more > 0 else [])


def one_line(name: str, width: int = 24) -> str:
    """A name in one line of at most `width` letters: no line breaks, control characters or invisible marks."""
    visible = "".join(
        " " if letter.isspace() else letter for letter in name if letter.isspace() or letter.isprintable()
    )
    text = " ".join(visible.split())
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


def lettering(name: str, otherwise: str, width: int = 24) -> tuple[str, str | None]:
    """A name to draw, in one line, and the file of another font for the letters that FONT lacks, if it lacks any.

    Instead of a name without visible letters, or with letters that no installed font has, it is `otherwise`.
    """
    text = one_line(name, width)
    missing = lacking(text)
    font = font_with(missing) if missing else None
    return (text, font) if text and (font or not missing) else (otherwise, None)


def lacking(text: str) -> str:
    """The letters of a text that FONT lacks, sorted."""
    if text.isascii():
        return ""
    font = FT2Font(FONT)
    return "".join(letter for letter in sorted(set(text)) if not font.get_char_index(ord(letter)))


@functools.cache
def font_with(letters: str) -> str | None:
    """The file of an installed font that has all these letters; None if there is none."""
    paths = font_manager.findSystemFonts()
    for path in sorted(paths, key=lambda path: (bool(UNUSUAL_FONTS.search(pathlib.Path(path).name)), path)):
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):  # damaged, or of a kind that matplotlib cannot read
            continue
        is_placeholder = "lastresort" in path.lower()  # it has a box for every letter
        if font.scalable and not is_placeholder and all(font.get_char_index(ord(letter)) for letter in letters):
            return path
    return None


def _families(paths: set[str]) -> list[str]:
    """matplotlib's families of fonts, and those of these files for the letters they lack."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in paths - known:
        font_manager.fontManager.addfont(path)
    added = [font_manager.FontProperties(fname=path).get_name() for path in sorted(paths)]
    return [*matplotlib.rcParams["font.family"], *added]
