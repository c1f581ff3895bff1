"""Label maps made visible: colours, overlays, and mosaics of photo, truth and prediction."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from common.files import replacing

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# Orange, deep blue and a light yellow stay apart for colour-blind readers and in grey print (Okabe & Ito 2008).
NAMED_COLORS = {"pet": (230, 140, 20), "background": (36, 62, 110), "border": (250, 240, 170)}


class Example(NamedTuple):
    """One row of a mosaic."""

    image: np.ndarray  # uint8 [H, W, 3], 0..255
    label: np.ndarray  # uint8 [H, W], the truth
    prediction: np.ndarray  # uint8 [H, W]
    iou: float  # of this image alone, the mean over its classes, 0..1


def palette(class_names: Sequence[str]) -> np.ndarray:
    """One RGB colour for each class: uint8 [classes, 3]. A trimap's classes always have the same ones."""
    others = 255 * np.array(matplotlib.colormaps["tab20"].colors)
    return np.array(
        [NAMED_COLORS.get(name, others[i % len(others)]) for i, name in enumerate(class_names)], dtype=np.uint8
    )


def colorize(label: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Class ids uint8 [H, W] to RGB uint8 [H, W, 3]."""
    return colors[label]


def overlay(image: np.ndarray, label: np.ndarray, colors: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Lays the colours of a label map over a photo; all uint8, opacity 0..1."""
    mixed = (1 - opacity) * image + opacity * colorize(label, colors)
    return np.round(mixed).astype(np.uint8)


def mosaic(path: pathlib.Path, examples: Sequence[Example], class_names: Sequence[str], title: str) -> None:
    """Saves a PNG: a row for each example with photo, truth, prediction and overlay, its IoU and a legend below."""
    colors = palette(class_names)
    columns = ("photo", "truth", "prediction", "overlay")
    side = 2.2  # inches
    figure = Figure(figsize=(side * len(columns) + 0.5, side * len(examples) + 0.9), layout="constrained")
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
    legend = [
        Patch(facecolor=color / 255, edgecolor="grey", label=name)
        for color, name in zip(colors, class_names, strict=True)
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
