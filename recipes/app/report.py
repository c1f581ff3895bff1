"""The end of a training: test scores, mosaics, curves, metrics.json, and the closing table."""

import json
import pathlib
import platform
import shlex
from collections.abc import Sequence
from types import ModuleType

from app import backend, files
from app.checkpoint import Checkpoint, read_history
from app.cli import InputError
from common import masks, plots, scores
from common.data import Data

import keras
import numpy as np

MOSAIC_IMAGES = 64  # the mosaics choose from the first test images
MOSAIC_ROWS = 4
FEW_PHOTOS = 10  # to test; with fewer, another choice of them gives another score
SCORES = {"mean_iou": "mean IoU", "mask_ap": "mask AP"}  # that choose a model, in words
LOW_IOU = 0.1  # of a class that was hardly learned


def score(
    model_path: pathlib.Path, data: Data, batch_size: int, is_tiled: bool = False
) -> tuple[dict, list[masks.Example]]:
    """Runs a saved model over the test split once: its scores, and the first MOSAIC_IMAGES as examples.

    With `is_tiled` only tiles where there is more than one class, or an error, are examples.

    Args:
      model_path: the model, as .keras.
      data: its test batches have at most `batch_size` images.
    """
    try:
        model = keras.saving.load_model(model_path)
    except ValueError as error:
        raise InputError(f"{model_path}: deleted or damaged before it could be scored; train again") from error
    num_classes = len(data.class_names)
    confusion, examples = scores.ConfusionMatrix(num_classes), []
    images_with = np.zeros(num_classes, int)
    predict = backend.forward(model, batch_size)
    progress = keras.utils.Progbar(int(data.test.cardinality()), unit_name="test batch")
    for images, labels in data.test.as_numpy_iterator():
        logits = predict(images.astype(np.float32))
        confusion.update_state(labels, logits)
        images_with += [np.count_nonzero((labels == index).any((1, 2))) for index in range(num_classes)]
        if len(examples) < MOSAIC_IMAGES:
            predictions = np.argmax(logits, axis=-1).astype(np.uint8)
            for image, label, prediction in zip(images, labels, predictions, strict=True):
                matrix = scores.confusion_matrix(label, prediction, num_classes)
                iou = scores.report(matrix, data.class_names)["mean_iou"]
                # None: every pixel is ignored. Most tiles are all background, and found to be so: nothing to see.
                if iou is not None and not (is_tiled and np.count_nonzero(matrix) == 1):
                    examples.append(masks.Example(image, label, prediction, iou))
        progress.add(1)
    test = {"images": data.counts["test"], **scores.report(np.array(confusion.matrix), data.class_names)}
    test["images_with"] = dict(zip(data.class_names, images_with.tolist(), strict=True))
    return test, examples[:MOSAIC_IMAGES]


def mosaics(
    folder: pathlib.Path, examples: list[masks.Example], class_names: tuple[str, ...], title: str
) -> list[pathlib.Path]:
    """Saves mosaics of the best, the median and the worst examples, each in one of them only; returns their paths."""
    ranked = sorted(examples, key=lambda example: -example.iou)
    best = min(MOSAIC_ROWS, -(-len(ranked) // 3))
    worst = min(MOSAIC_ROWS, -(-(len(ranked) - best) // 2))
    median = min(MOSAIC_ROWS, len(ranked) - best - worst)
    middle = best + (len(ranked) - best - worst - median) // 2
    chosen = {"best": ranked[:best], "median": ranked[middle : middle + median], "worst": ranked[len(ranked) - worst :]}
    paths = []
    for rank, rank_examples in chosen.items():
        path = folder / f"mosaic_{rank}.png"
        path.unlink(missing_ok=True)  # of an earlier run
        if not rank_examples:
            continue
        paths.append(path)
        with files.replacing(paths[-1]) as temporary:
            masks.mosaic(temporary, rank_examples, class_names, f"{title}: {rank} of {len(ranked)} test images")
    return paths


def versions(*libraries: ModuleType) -> dict[str, str]:
    """The versions of Python and of libraries, by name."""
    return {"python": platform.python_version(), **{one.__name__: one.__version__ for one in libraries}}


def curves(folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws loss.png, accuracy.png and mean_iou.png from the folder's history.csv; returns their paths."""
    history = read_history(folder / "history.csv")
    paths = [folder / f"{metric}.png" for metric in plots.METRICS]
    for metric, path in zip(plots.METRICS, paths, strict=True):
        with files.replacing(path) as temporary:
            plots.curves(temporary, history, metric, title=folder.name)
    return paths


def comparison(folder: pathlib.Path) -> list[pathlib.Path]:
    """Compares the finished runs in a folder's subfolders: comparison.png (curves) and comparison.md (scores).

    Returns:
      The paths written; none for fewer than two runs.
    """
    rows, histories = {}, {}
    for run in sorted(path.parent for path in folder.glob("*/metrics.json")):
        try:
            row = _row(run.name, json.loads((run / "metrics.json").read_text()))
            history = read_history(run / "history.csv")
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # unfinished, or not one of these recipes
        if all(name in history.history for metric in plots.METRICS for name in (metric, f"val_{metric}")):
            rows[run.name], histories[run.name] = row, history
    if len(rows) < 2:
        return []
    with files.replacing(folder / "comparison.png") as temporary:
        plots.comparison(temporary, histories)
    head = "| run | data | size | epochs | minutes | pixel accuracy | mean IoU | pet IoU (border counts as pet) |"
    ranked = [line for _, line in sorted(rows.values())]
    files.write_text(folder / "comparison.md", "\n".join([head, "|---" * 8 + "|", *ranked]) + "\n")
    return [folder / "comparison.png", folder / "comparison.md"]


def _row(name: str, metrics: dict) -> tuple[tuple, str]:
    """A run's place in the table, and its line: by data and image size, which make scores comparable; best first."""
    config, train, test = metrics["config"], metrics["train"], metrics["test"]
    place = str(config["data"]), int(config["image_size"]), -float(test["mean_iou"] or 0)
    cells = [name, config["data"], f"{config['image_size']} px", train["epochs"], f"{train['seconds'] / 60:.0f}"]
    figures = [test["pixel_accuracy"], test["mean_iou"], test.get("pet_iou_binary")]
    cells += ["" if figure is None else f"{figure:.3f}" for figure in figures]
    return place, "| " + " | ".join(map(str, cells)) + " |"


def print_scores(test: dict, train: dict) -> None:
    """Prints the table of test scores."""

    def fraction(value):
        return "-" if value is None else f"{value:.3f}"

    mean = {key: np.mean([value for value in test[key].values() if value is not None]) for key in ("iou", "dice")}
    images = "tiles" if "photos" in test else "images"
    title = f"test, {test['images']} {images}"
    print(f"\n{title:<22}{'IoU':>8}{'Dice':>8}")
    for name in test["iou"]:
        print(f"{name:<22}{fraction(test['iou'][name]):>8}{fraction(test['dice'][name]):>8}")
    print(f"{'mean':<22}{fraction(mean['iou']):>8}{fraction(mean['dice']):>8}")
    print(f"{'pixel accuracy':<22}{fraction(test['pixel_accuracy']):>8}")
    if "pet_iou_binary" in test:
        print(f"{'pet IoU with border':<22}{fraction(test['pet_iou_binary']):>8}")
    speed = f"{train['seconds']:.0f} s, {train['images_per_second']:.1f} {images}/s"
    print(f"{'training':<22}{train['epochs']} epochs, {speed}")


def print_remarks(test: dict) -> None:
    """Prints which of the test scores say little, and which classes were hardly learned."""
    images = test["images"]
    photos = test.get("photos", images)
    kind = "tiles" if "photos" in test else "images"
    if photos < FEW_PHOTOS:
        print(f"test photos: {photos}, so the scores are a guess; {FEW_PHOTOS} or more tell more")
    for name, count in test.get("images_with", {}).items():
        iou = test["iou"][name]
        if count < min(3, images):
            print(f"{name}: in {count} of {images} test {kind}, so its IoU says little; add photos of it")
        elif iou < LOW_IOU:
            advice = "a longer training (--epochs), a larger --image-size, --tiles, or more photos of it may help"
            print(f"{name}: hardly learned, its IoU is {iou:.3f}; {advice}")


def compare(kept: Checkpoint, test: dict) -> None:
    """Removes the copy of the model that this run has replaced, unless that one was better: then prints where it is."""
    if kept.earlier_score is None:
        return
    name = kept.score.removeprefix("val_")
    score = test[name] or 0.0
    if score >= kept.earlier_score:
        kept.remove_earlier_model()
    else:
        better = f"the model before was better, {kept.earlier_score:.3f}; it is kept as"
        print(f"{SCORES[name]} {score:.3f}: {better} {files.shown(kept.earlier_model)}")


def print_files(model_path: pathlib.Path, command: Sequence[str], pictures: Sequence[pathlib.Path]) -> None:
    """Prints where the model is, the command that uses it, and which pictures to open."""
    print(f"{'model':<22}{files.shown(model_path)}")
    print(f"{'use it':<22}{shlex.join(command)}")
    for number, picture in enumerate(pictures):
        print(f"{'open these' if number == 0 else '':<22}{files.shown(picture)}")
