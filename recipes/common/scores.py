"""Scores of a segmentation, all of them from one confusion matrix.

matrix[t, p] counts the pixels of class t that were predicted as class p, over a whole split. Mean IoU is the mean
over the classes of that one matrix (as in the PASCAL VOC challenge), not the mean over images.
"""

import keras
import numpy as np
from keras import ops


def confusion_matrix(labels, predictions, num_classes: int):
    """Counts pixels by true and predicted class.

    Args:
      labels, predictions: class ids 0..num_classes - 1, integers of any shape, the same for both. Pixels with a
        label from num_classes on are left out.
    Returns:
      int64 [num_classes, num_classes]; rows are the truth, columns the prediction.
    """
    labels = ops.minimum(ops.cast(labels, "int32"), num_classes)  # what is left out makes a row of its own
    cells = ops.reshape(labels * num_classes + ops.cast(predictions, "int32"), [-1])
    # Not ops.bincount: XLA, which compiles the training step on a GPU, refuses it.
    counts = ops.segment_sum(ops.ones_like(cells, dtype="int64"), cells, num_segments=num_classes * (num_classes + 1))
    return ops.reshape(counts, (num_classes + 1, num_classes))[:-1]


class MeanIoU(keras.metrics.Metric):
    """Mean IoU of logits [B, H, W, classes] against labels [B, H, W], from a confusion matrix it accumulates.

    Unlike keras.metrics.MeanIoU it counts in int64 and gives the matrix out (`matrix`), from which `report` takes
    every other score. float32 stops counting single pixels at 2**24, less than 300 images of 256 x 256.
    """

    def __init__(self, num_classes: int, name: str = "mean_iou"):
        super().__init__(name=name)
        self.num_classes = num_classes
        self.matrix = self.add_variable((num_classes, num_classes), "zeros", dtype="int64", name="matrix")

    def update_state(self, labels, logits, sample_weight=None):
        self.matrix.assign_add(confusion_matrix(labels, ops.argmax(logits, axis=-1), self.num_classes))

    def result(self):
        matrix = ops.cast(self.matrix, "float32")
        hits = ops.diagonal(matrix)
        union = ops.sum(matrix, axis=0) + ops.sum(matrix, axis=1) - hits
        present = ops.cast(union > 0, "float32")
        return ops.sum(hits / ops.maximum(union, 1)) / ops.maximum(ops.sum(present), 1)


class PixelAccuracy(MeanIoU):
    """The share of pixels whose class is right, as MeanIoU counts them."""

    def __init__(self, num_classes: int, name: str = "accuracy"):
        super().__init__(num_classes, name)

    def result(self):
        matrix = ops.cast(self.matrix, "float32")
        return ops.sum(ops.diagonal(matrix)) / ops.maximum(ops.sum(matrix), 1)


def report(matrix, class_names) -> dict:
    """Turns a confusion matrix into named scores, fractions 0..1.

    Returns:
      {"pixel_accuracy", "mean_iou", "iou": {class: ...}, "dice": {class: ...}} and, where the classes are a
      trimap's, "pet_iou_binary": the IoU of pet and border together against the background, as it is reported
      where a trimap is made two-valued. A class in neither truth nor prediction has the score None and does not
      count in the mean; so does the mean itself, where no class is there.
    """
    matrix = np.asarray(matrix, np.float64)
    hits, total = np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1)
    present = total > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, dice = hits / (total - hits), 2 * hits / total
        scores = {
            "pixel_accuracy": _score(hits.sum() / matrix.sum()),
            "mean_iou": _score(iou[present].mean()) if present.any() else None,
            "iou": dict(zip(class_names, map(_score, iou), strict=True)),
            "dice": dict(zip(class_names, map(_score, dice), strict=True)),
        }
        if {"pet", "background", "border"} == set(class_names):
            background = list(class_names).index("background")
            union = matrix.sum() - matrix[background, background]
            pet = np.delete(np.delete(matrix, background, axis=0), background, axis=1)
            scores["pet_iou_binary"] = _score(pet.sum() / union)
    return scores


def _score(value) -> float | None:
    return None if np.isnan(value) else float(value)
