"""Label maps made visible: colours, overlays, and mosaics of photo, truth and prediction."""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from common.files import replacing

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

matplotlib.rcParams["text.parse_math"] = False  # a name may have a dollar in it
# Orange, deep blue and a light yellow stay apart for colour-blind readers and in grey print (Okabe & Ito 2008).
LEGEND_COLUMNS, LEGEND_CLASSES = 5, 24
NAMED_COLORS = {"pet": (230, 140, 20), "background": (36, 62, 110), "border": (250, 240, 170)}


class Example(NamedTuple):
    """One row of a mosaic."""

    image: np.ndarray  # uint8 [H, W, 3], 0..255
    label: np.ndarray  # uint8 [H, W], the truth
    prediction: np.ndarray  # uint8 [H, W]
    iou: float  # of this image alone, the mean over its classes, 0..1


def palette(class_names: Sequence[str]) -> np.ndarray:
    """One RGB colour for each class: uint8 [classes, 3]. A trimap's classes always have the same ones."""
    others = [color for color in matplotlib.colormaps["tab20"].colors if np.ptp(color) > 0.1]  # but for the greys
    rest = np.arange(max(0, len(class_names) - len(others)))  # by the golden ratio no two neighbours are alike
    others += list(hsv_to_rgb(np.stack([rest * 0.618034 % 1, 0.4 + rest % 3 * 0.25, 0.95 - rest % 4 * 0.12], axis=1)))
    colors = [NAMED_COLORS.get(name, np.multiply(other, 255)) for name, other in zip(class_names, others, strict=False)]
    return np.array(colors, dtype=np.uint8)


def colorize(label: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Class ids uint8 [H, W] to RGB uint8 [H, W, 3]; a label without a class, one that is ignored, is grey."""
    table = np.full((256, 3), 128, np.uint8)
    table[: len(colors)] = colors
    return table[label]


def overlay(image: np.ndarray, label: np.ndarray, colors: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Lays the colours of a label map over a photo; all uint8, opacity 0..1."""
    return cv2.addWeighted(image, 1 - opacity, colorize(label, colors), opacity, 0)


def mosaic(path: pathlib.Path, examples: Sequence[Example], class_names: Sequence[str], title: str) -> None:
    """Saves a PNG: a row for each example with photo, truth, prediction and overlay, its IoU and a legend below."""
    colors = palette(class_names)
    columns = ("photo", "truth", "prediction", "overlay")
    legend = _legend(examples, class_names, colors)
    side, legend_rows = 2.2, -(-len(legend) // LEGEND_COLUMNS)  # inches
    size = (side * len(columns) + 0.5, side * len(examples) + 0.68 + 0.24 * legend_rows)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(examples), len(columns), squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        pictures = (
            example.image,
            colorize(example.label, colors),
            colorize(example.prediction, colors),
            overlay(example.image, example.prediction, colors),
        )
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"IoU {example.iou:.2f}", fontsize=11)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=11)
    figure.legend(handles=legend, loc="outside lower center", ncols=min(len(legend), LEGEND_COLUMNS), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _legend(examples: Sequence[Example], class_names: Sequence[str], colors: np.ndarray) -> list[Patch]:
    """A coloured field for each class; of many, only for those that are seen most."""
    pixels = sum(np.bincount(np.append(e.label, e.prediction), minlength=256) for e in examples)[: len(class_names)]
    order = np.argsort(-pixels, kind="stable")[:LEGEND_CLASSES]
    shown = sorted(index for index in order if pixels[index] or len(class_names) <= LEGEND_COLUMNS)
    fields = [
        Patch(
            facecolor=colors[index] / 255,
            edgecolor="grey",
            label=textwrap.shorten(class_names[index], 24, placeholder="..."),
        )
        for index in shown
    ]
    more = np.count_nonzero(pixels) - len(shown)
    return fields + ([Patch(alpha=0, label=f"and {more} more")] if more > 0 else [])
