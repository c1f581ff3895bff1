"""Training curves: of one run, and of several side by side."""

import os
from types import SimpleNamespace

import matplotlib.pyplot as plt
from matplotlib import font_manager
from tensorflow_docs.plots import HistoryPlotter

METRICS = ("loss", "accuracy", "mean_iou")
# For letters that matplotlib's own font lacks, as far as they are installed: Linux, macOS, Windows.
FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Noto Sans Thai")
FONTS += ("Noto Sans Devanagari", "Arial Unicode MS", "Microsoft YaHei", "Malgun Gothic", "Leelawadee UI", "Nirmala UI")
INSTALLED = [name for name in FONTS if name in font_manager.fontManager.get_font_names()]
# A run's name may be in any script, and contain a dollar sign.
STYLE = ("seaborn-v0_8-darkgrid", {"text.parse_math": False, "font.family": ["sans-serif", *INSTALLED]})


@plt.style.context(STYLE)
def curves(path: str | os.PathLike, history, metric: str, title: str) -> None:
    """Saves a PNG with the training and validation curve of one metric; `history` is what `fit` returned."""
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    _plot(axis, {title: history}, metric)
    axis.set_title(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


@plt.style.context(STYLE)
def comparison(path: str | os.PathLike, histories: dict) -> None:
    """Saves a PNG that compares the curves of several runs, {name: history}."""
    figure, axes = plt.subplots(1, len(METRICS), figsize=(15, 4.4), layout="constrained")
    for axis, metric in zip(axes, METRICS, strict=True):
        _plot(axis, histories, metric)
        axis.get_legend().remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot(axis, histories: dict, metric: str) -> None:
    from_1 = {
        name: SimpleNamespace(epoch=[epoch + 1 for epoch in history.epoch], history=history.history)
        for name, history in histories.items()
    }
    plt.sca(axis)  # HistoryPlotter draws into the current axes
    HistoryPlotter(metric=metric).plot(from_1)
    for index, line in enumerate(axis.get_lines()):  # two per run, in the order of the runs
        split = ("train", "validation")[index % 2]
        line.set_label(split if len(histories) == 1 else f"{list(histories)[index // 2]}, {split}")
        if len(line.get_xdata()) == 1:  # a line through one point would be invisible
            line.set_marker("o")
    last = max(history.epoch[-1] for history in from_1.values())
    axis.set_xlim(1 - 0.02 * last, last * 1.02)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="Epoch", ylabel={"mean_iou": "Mean IoU"}.get(metric, metric.title()))
    axis.legend()
