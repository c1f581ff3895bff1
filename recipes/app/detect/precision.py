"""COCO's average precision of detected instances, by pycocotools."""

import contextlib
from collections.abc import Callable, Iterable, Sequence

from app.detect import instances, scenes

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KINDS = {"box": "bbox", "mask": "segm"}
SCORES = {"ap": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6)}  # of the thresholds 0.50, 0.55, ... 0.95


def average_precision(
    read: Iterable[Callable[[], scenes.Scene]],
    category_ids: Sequence[int],
    detect: Callable[[np.ndarray], Sequence[instances.Instance]],
) -> dict[str, float]:
    """Detects instances in the photos that the functions in `read` give, and compares them with the truth.

    Args:
      category_ids: of the scenes' classes 1, 2, ...
      detect: the detector: from a photo, uint8 [H, W, 3], to its instances.
    Returns:
      box_ap and mask_ap, the mean over IoU 0.50 to 0.95, the same with 50 and 75 at an IoU of 0.50 and 0.75; 0..1, and
      0 without any instance.
    """
    images = []
    annotations = []
    results = []
    for image_id, read_scene in enumerate(read, 1):
        scene = read_scene()
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "height": height, "width": width})
        regions = [(category_ids[k - 1], mask, 0) for k, mask in zip(scene.classes, scene.masks, strict=True)]
        if scene.crowd is not None:  # detections in it count neither way
            regions += [(category, scene.crowd, 1) for category in category_ids]
        for category, mask, is_crowd in regions:
            segmentation = instances.encode(mask)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category,
                "iscrowd": is_crowd,
                "area": int(mask.sum()),
                "bbox": coco_masks.toBbox(segmentation).tolist(),
                "segmentation": segmentation,
            }
            annotations.append(annotation)
        results += instances.coco_results((height, width), detect(scene.image), image_id, str(image_id))
    if not results:
        return {f"{name}_{score}": 0.0 for name in KINDS for score in SCORES}
    truth = COCO()
    categories = [{"id": category} for category in category_ids]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(None):
        truth.createIndex()
        return _scores(truth, truth.loadRes(results))


def _scores(truth: COCO, results: COCO) -> dict[str, float]:
    scores = {}
    for name, kind in KINDS.items():
        evaluation = COCOeval(truth, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][..., 0, -1]  # [IoU, recall, category]: all sizes, 100 detections
        present = precision[:, 0].max(0) > -1
        for score, ious in SCORES.items():
            scores[f"{name}_{score}"] = float(precision[ious][..., present].mean()) if present.any() else 0.0
    return scores
