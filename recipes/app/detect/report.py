"""The end of a detector's training: curves, a mosaic, and the closing table."""

import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence

from app import cli, files
from app.detect import instances, precision, scenes
from app.report import read_history
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


def pictures(folder: pathlib.Path, source, detect: Callable) -> list[pathlib.Path]:
    """Draws mosaic.png of test photos, and the curves of history.csv; returns their paths."""
    paths = [folder / "mosaic.png"]
    with files.replacing(paths[0]) as temporary:
        mosaic(temporary, source.test, list(source.categories.values()), detect)
    history = read_history(folder / "history.csv")
    for name, curves in CURVES.items():
        paths.append(folder / f"{name}.png")
        with files.replacing(paths[-1]) as temporary, plt.style.context(plots.STYLE):
            figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
            for metric, label in curves.items():
                epochs = [epoch + 1 for epoch in history.epoch]
                axis.plot(epochs, history.history[metric], label=label, marker="o" if len(epochs) == 1 else None)
            axis.set(xlabel="Epoch", ylabel=name.replace("_", " ").capitalize(), title=folder.name)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.legend()
            figure.savefig(temporary, dpi=110)
            plt.close(figure)
    return paths


def mosaic(
    path: str | os.PathLike, read: Sequence[Callable[[], scenes.Scene]], names: Sequence[str], detect: Callable
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


def print_table(test: dict, model_path: pathlib.Path, paths: Sequence[pathlib.Path]) -> None:
    print()
    table = [(f"test, {test['images']} photos", "AP", "AP at IoU 0.5")]
    cli.print_table(
        table + [(kind, f"{test[f'{kind}_ap']:.3f}", f"{test[f'{kind}_ap50']:.3f}") for kind in precision.KINDS]
    )
    recipe = str(files.shown(pathlib.Path(sys.argv[0]).with_name("mask_rcnn_hub.py")))
    model = str(files.shown(model_path))
    print(f"model       {model}")
    print(f"use it      {shlex.join(['python', recipe, 'PHOTO', '--model', model])}")
    for number, path in enumerate(paths):
        print(f"{'open these' if number == 0 else '':<12}{files.shown(path)}")
