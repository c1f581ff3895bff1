"""How good a detector is: COCO's average precision, by pycocotools, curves of the training, and a mosaic."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Sequence

from app import files
from app.checkpoint import read_history
from app.datasets import Scene, run_lengths
from app.detect import instances
from app.predict import matting
from common import plots

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KINDS = {"box": "bbox", "mask": "segm"}
SCORES = {"ap": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6)}  # of the thresholds 0.50, 0.55, ... 0.95
PHOTOS = 8  # in the mosaic
COLUMNS = 4
SHOWN = 600  # pixels of a photo's longer side in it; matplotlib would need 50 bytes for each of a large photo's
CURVES = {
    "loss": {"loss": "training"},
    "average_precision": {"val_box_ap": "boxes, validation", "val_mask_ap": "masks, validation"},
}


def average_precision(
    read: Sequence[Callable[[], Scene]],
    category_ids: Sequence[int],
    detect: Callable[[np.ndarray], Iterable[instances.Instance]],
) -> dict[str, float]:
    """Detects instances in the photos that the functions in `read` give, and compares them with the truth.

    The classes 1, 2, ... of the scenes are the categories of `category_ids`. As in COCO, 100 detections count in a
    photo; more only if a photo has more instances.

    Returns:
      box_ap and mask_ap, the mean over IoU 0.50 to 0.95, the same with 50 and 75 at an IoU of 0.50 and 0.75; 0..1, and
      0 without any instance.
    """
    images = []
    annotations = []
    results = []
    most = 100
    for image_id, read_scene in enumerate(read, 1):
        scene = read_scene()
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "height": height, "width": width})
        most = max(most, len(scene.classes))
        regions = [(category_ids[k - 1], region, 0) for k, region in zip(scene.classes, scene.regions, strict=True)]
        if scene.crowd is not None:  # detections in it count neither way
            regions += [(category, run_lengths(scene.crowd), 1) for category in category_ids]
        for category, region, is_crowd in regions:
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
            annotation |= {"bbox": coco_masks.toBbox(region).tolist(), "area": int(coco_masks.area(region))}
            annotations.append(annotation | {"segmentation": region, "iscrowd": is_crowd})
        results += instances.coco_results((height, width), detect(scene.image), image_id, "")
    if not results:
        return {f"{name}_{score}": 0.0 for name in KINDS for score in SCORES}
    truth = COCO()
    categories = [{"id": category} for category in category_ids]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(None):
        truth.createIndex()
        return _scores(truth, truth.loadRes(results), most)


def _scores(truth: COCO, results: COCO, most: int) -> dict[str, float]:
    scores = {}
    for name, kind in KINDS.items():
        evaluation = COCOeval(truth, results, kind)
        evaluation.params.maxDets = [most]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][..., 0, -1]  # [IoU, recall, category]: all sizes, `most` detections
        present = precision[:, 0].max(0) > -1
        for score, ious in SCORES.items():
            scores[f"{name}_{score}"] = float(precision[ious][..., present].mean()) if present.any() else 0.0
    return scores


def draw_pictures(
    folder: pathlib.Path, test: Sequence[Callable[[], Scene]], names: Sequence[str], detect: Callable
) -> list[pathlib.Path]:
    """Draws mosaic.png of test photos, and the curves of history.csv, into the output folder; returns their paths."""
    with files.replacing(folder / "mosaic.png") as temporary:
        _mosaic(test, names, detect).savefig(temporary, dpi=110)
    history = read_history(folder / "history.csv")
    epochs = [epoch + 1 for epoch in history.epoch]
    for name, labels in CURVES.items():
        with files.replacing(folder / f"{name}.png") as temporary, plt.style.context(plots.STYLE):
            figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
            for metric, label in labels.items():
                axis.plot(epochs, history.history[metric], marker=".", label=label)
            axis.set(xlabel="Epoch", ylabel=name.replace("_", " ").capitalize(), title=folder.name)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.legend()
            figure.savefig(temporary, dpi=110)
            plt.close(figure)
    return [folder / f"{name}.png" for name in ("mosaic", *CURVES)]


def _mosaic(read: Sequence[Callable[[], Scene]], names: Sequence[str], detect: Callable) -> Figure:
    """Photos, evenly spread over the given ones, with their true and their detected instances."""
    chosen = np.unique(np.linspace(0, len(read) - 1, PHOTOS).astype(int))
    columns = min(COLUMNS, 2 * len(chosen))
    rows = -(-2 * len(chosen) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.5 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for pair, index in zip(axes.reshape(-1, 2), chosen, strict=False):
        scene = read[index]()
        true = zip(scene.classes, scene.masks, strict=True)
        truth = [instances.cropped(instances.of_mask(mask, names[k - 1]))._replace(category_id=k) for k, mask in true]
        found = [instance for instance in detect(scene.image) if instance.score >= 0.5]
        for axis, drawn in zip(pair, (truth, found), strict=True):
            axis.imshow(matting.shrunk(instances.overlay(scene.image, drawn), SHOWN))
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, title in zip(axes[0], ("truth", "detections") * (columns // 2), strict=True):
        axis.set_title(title)
    return figure
