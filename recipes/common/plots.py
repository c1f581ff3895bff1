"""Training curves of one run, and the comparison of several."""

import csv
import json
import pathlib
from types import SimpleNamespace

from common.files import replacing, write_text

import matplotlib
import matplotlib.pyplot as plt
from tensorflow_docs.plots import HistoryPlotter

CURVES = ("loss", "accuracy", "mean_iou")
STYLE = "seaborn-v0_8-darkgrid"
matplotlib.rcParams["text.parse_math"] = False  # a name may have a dollar in it


def read_history(path: pathlib.Path) -> SimpleNamespace:
    """Reads a history.csv back: `.epoch` is a list of numbers from 1, `.history` a list of floats for each metric."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    history = {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}
    return SimpleNamespace(epoch=[int(row["epoch"]) for row in rows], history=history)


def curves(folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws loss.png, accuracy.png and mean_iou.png (train and validation) from the folder's history.csv."""
    history = read_history(folder / "history.csv")
    paths = [folder / f"{metric}.png" for metric in CURVES]
    for metric, path in zip(CURVES, paths, strict=True):
        with plt.style.context(STYLE):
            figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
            _plot(axis, {folder.name: history}, metric)
            axis.set_title(folder.name)
            _save(figure, path)
    return paths


def comparison(folder: pathlib.Path) -> list[pathlib.Path]:
    """Compares the runs in a folder's subfolders: comparison.png (their curves) and comparison.md (their scores).

    Returns:
      The paths written; none where there are fewer than two finished runs.
    """
    metrics, histories = {}, {}
    for run in sorted(path.parent for path in folder.glob("*/metrics.json")):
        try:
            metrics[run.name] = json.loads((run / "metrics.json").read_text())
            histories[run.name] = read_history(run / "history.csv")
        except (OSError, ValueError):
            metrics.pop(run.name, None)  # a run that is not finished
    if len(metrics) < 2:
        return []
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, len(CURVES), figsize=(15, 4.4), layout="constrained")
        for axis, metric in zip(axes, CURVES, strict=True):
            _plot(axis, histories, metric)
            axis.get_legend().remove()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
        _save(figure, folder / "comparison.png")
    write_text(folder / "comparison.md", _table(metrics))
    return [folder / "comparison.png", folder / "comparison.md"]


def _plot(axis, histories: dict[str, SimpleNamespace], metric: str) -> None:
    plt.sca(axis)  # HistoryPlotter draws into the current axes
    HistoryPlotter(metric=metric).plot(histories)
    for index, line in enumerate(axis.get_lines()):  # two of each run, in the order of the runs
        split = ("train", "validation")[index % 2]
        line.set_label(split if len(histories) == 1 else f"{list(histories)[index // 2]}, {split}")
        if len(line.get_xdata()) == 1:  # a line through one point shows nothing
            line.set_marker("o")
    last = max(history.epoch[-1] for history in histories.values())
    axis.set_xlim(1 - 0.02 * last, last * 1.02)  # epochs count from 1
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="Epoch", ylabel={"mean_iou": "Mean IoU"}.get(metric, metric.title()))
    axis.legend()


def _save(figure, path: pathlib.Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _table(runs: dict[str, dict]) -> str:
    """A Markdown table: by data set and image size, for only those compare, and then the best first."""
    lines = [
        "| run | data | size | epochs | minutes | pixel accuracy | mean IoU | pet IoU (border counts as pet) |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def rank(run):
        config = runs[run]["config"]
        return config["data"], config["image_size"], -(runs[run]["test"]["mean_iou"] or 0)

    for run in sorted(runs, key=rank):
        metrics = runs[run]
        config, train, test = metrics["config"], metrics["train"], metrics["test"]
        figures = [test["pixel_accuracy"], test["mean_iou"], test.get("pet_iou_binary")]
        cells = [
            run,
            config["data"],
            f"{config['image_size']} px",
            train["epochs"],
            f"{train['seconds'] / 60:.0f}",
        ]
        cells += ["" if figure is None else f"{figure:.3f}" for figure in figures]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
