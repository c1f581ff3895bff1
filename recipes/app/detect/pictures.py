"""The pictures of a detector's training: curves, and a mosaic of detections."""

import os
import pathlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from app import files
from app.checkpoint import read_history
from app.datasets import Scene
from app.detect import instances
from common import plots

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

SHOWN_SCORE = 0.5  # of a detection in the mosaic
PHOTOS, COLUMNS = 8, 4  # of the mosaic
CURVES = {
    "loss": {"loss": "training"},
    "average_precision": {"val_box_ap": "boxes, validation", "val_mask_ap": "masks, validation"},
}


def draw(
    folder: pathlib.Path, test: Sequence[Callable[[], Scene]], names: Sequence[str], detect: Callable
) -> list[pathlib.Path]:
    """Draws mosaic.png of test photos, and the curves of history.csv, into the output folder; returns their paths."""
    with files.replacing(folder / "mosaic.png") as temporary:
        mosaic(temporary, test, names, detect)
    history = read_history(folder / "history.csv")
    for name, labels in CURVES.items():
        with files.replacing(folder / f"{name}.png") as temporary:
            curves(temporary, history, labels, name.replace("_", " ").capitalize(), folder.name)
    return [folder / f"{name}.png" for name in ("mosaic", *CURVES)]


@plt.style.context(plots.STYLE)
def curves(
    path: str | os.PathLike, history: SimpleNamespace, labels: dict[str, str], quantity: str, title: str
) -> None:
    """Saves a PNG with a curve for each metric in `labels`, which has their labels in the legend."""
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    epochs = [epoch + 1 for epoch in history.epoch]
    for metric, label in labels.items():
        axis.plot(
            epochs, history.history[metric], label=label, marker="."
        )  # a line through one point would be invisible
    axis.set(xlabel="Epoch", ylabel=quantity, title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def mosaic(
    path: str | os.PathLike, read: Sequence[Callable[[], Scene]], names: Sequence[str], detect: Callable
) -> None:
    """Saves a PNG of photos, evenly spread over the given ones, with their true and their detected instances."""
    chosen = np.unique(np.linspace(0, len(read) - 1, PHOTOS).astype(int))
    rows = -(-2 * len(chosen) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 2.5 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for pair, index in zip(axes.reshape(-1, 2), chosen, strict=False):
        scene = read[index]()
        truth = [instances.of_mask(mask, names[k - 1]) for k, mask in zip(scene.classes, scene.masks, strict=True)]
        found = [instance for instance in detect(scene.image) if instance.score >= SHOWN_SCORE]
        for axis, drawn in zip(pair, (truth, found), strict=True):
            axis.imshow(instances.overlay(scene.image, drawn))
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, title in zip(axes[0], ("truth", "detections") * (COLUMNS // 2), strict=True):
        axis.set_title(title)
    figure.savefig(path, dpi=110)
