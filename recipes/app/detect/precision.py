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
    """Detects instances in photos and compares them with the truth.

    Args:
      read: a function for each photo; gives it with its true instances.
      category_ids: of the scenes' classes 1, 2, ...
      detect: the detector: from a photo, uint8 [H, W, 3], to its instances.
    Returns:
      box_ap and mask_ap, the mean over IoU 0.50 to 0.95, the same with 50 and 75 at an IoU of 0.50 and 0.75; 0..1, and
      0 without any instance.
    """
    images, annotations, results = [], [], []
    for image_id, scene in enumerate((one() for one in read), 1):
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "height": height, "width": width})
        for number, mask in zip(scene.classes, scene.masks, strict=True):
            region = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_ids[number - 1]}
            annotation |= {"iscrowd": 0, "area": int(mask.sum()), "bbox": coco_masks.toBbox(region).tolist()}
            annotations.append({**annotation, "segmentation": region})
        if scene.crowd is not None:  # what is found in it counts neither way
            region = coco_masks.encode(np.asfortranarray(scene.crowd.astype(np.uint8)))
            of_crowd = {"image_id": image_id, "iscrowd": 1, "area": int(scene.crowd.sum()), "segmentation": region}
            of_crowd["bbox"] = coco_masks.toBbox(region).tolist()
            annotations += [
                {**of_crowd, "id": len(annotations) + number, "category_id": category}
                for number, category in enumerate(category_ids, 1)
            ]
        results += instances.coco_results((height, width), detect(scene.image), image_id, str(image_id))
    if not results:
        return {f"{name}_{score}": 0.0 for name in KINDS for score in SCORES}
    truth = COCO()
    categories = [{"id": number} for number in category_ids]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    scores = {}
    with contextlib.redirect_stdout(None):
        truth.createIndex()
        for name, kind in KINDS.items():
            evaluation = COCOeval(truth, truth.loadRes(results), kind)
            evaluation.params.imgIds = [image["id"] for image in images]
            evaluation.evaluate()
            evaluation.accumulate()
            precision = evaluation.eval["precision"][..., 0, -1]  # [IoU, recall, category]: all sizes, 100 detections
            present = precision[:, 0].max(0) > -1
            for score, ious in SCORES.items():
                scores[f"{name}_{score}"] = float(precision[ious][..., present].mean()) if present.any() else 0.0
    return scores
