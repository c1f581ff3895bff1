"""Segmentation scores, all from one confusion matrix.

matrix[t, p] counts the pixels of class t that were predicted as class p, over a whole split. Mean IoU is the mean over
the classes of that matrix, as in the PASCAL VOC challenge, not the mean over images.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

TRIMAP = ("pet", "background", "border")  # names of the classes; the border is a band along the pet's outline
PET, BACKGROUND, BORDER = range(3)  # their ids
INTEGER = keras.backend.standardize_dtype("int")  # int32 on JAX, int64 on TensorFlow, which keeps no int32 on a GPU
CARRY = 2**20  # pixels that are carried from the first number of a count to the second


def is_trimap(class_names: Sequence[str]) -> bool:
    """Whether the classes are those of a trimap, in any order."""
    return set(class_names) == set(TRIMAP)


def confusion_matrix(labels, predictions, num_classes: int):
    """Counts pixels by true and predicted class.

    Args:
      labels, predictions: class ids 0..num_classes - 1, integers of the same shape. Labels >= num_classes are ignored.
    Returns:
      Integers [num_classes, num_classes]; rows are the truth, columns the prediction.
    """
    labels = ops.minimum(ops.cast(labels, "int32"), num_classes)  # ignored labels get a row of their own
    cells = ops.reshape(labels * num_classes + ops.cast(predictions, "int32"), [-1])
    # Not ops.bincount: XLA, which compiles the training step on a GPU, refuses it.
    counts = ops.segment_sum(ops.ones_like(cells, dtype=INTEGER), cells, num_segments=num_classes * (num_classes + 1))
    return ops.reshape(counts, (num_classes + 1, num_classes))[:-1]


def metrics(num_classes: int) -> list[keras.metrics.Metric]:
    """Pixel accuracy and mean IoU for `compile`: "accuracy" and "mean_iou", sharing one confusion matrix."""
    confusion = ConfusionMatrix(num_classes)
    return [PixelAccuracy(confusion), confusion]


@keras.saving.register_keras_serializable("cookbook")
class ConfusionMatrix(keras.metrics.Metric):
    """Accumulates the confusion matrix of logits [B, H, W, classes] and labels [B, H, W]; its result is the mean IoU.

    keras.metrics.MeanIoU takes 1.4 times as long (two CPU cores), and has no pixel accuracy.
    """

    def __init__(self, num_classes: int, name: str = "mean_iou", **options):
        super().__init__(name=name, **options)
        self.num_classes = num_classes
        # Two numbers a count: float32 stops at 2**24 pixels, 256 images of 256 x 256, and int32 at 2**31.
        self.counts = self.add_variable((2, num_classes, num_classes), "zeros", dtype=INTEGER, name="counts")

    def get_config(self):
        return super().get_config() | {"num_classes": self.num_classes}

    def update_state(self, labels, logits, sample_weight=None):
        ones = self.counts[0] + confusion_matrix(labels, ops.argmax(logits, axis=-1), self.num_classes)
        self.counts.assign(ops.stack([ones % CARRY, self.counts[1] + ones // CARRY]))

    @property
    def matrix(self) -> np.ndarray:
        """The confusion matrix, int64 [classes, classes]."""
        return np.tensordot([1, CARRY], np.array(self.counts, np.int64), 1)

    def as_float(self):
        """The confusion matrix, float32 [classes, classes], also in a compiled step."""
        return ops.cast(self.counts[1], "float32") * CARRY + ops.cast(self.counts[0], "float32")

    def result(self):
        matrix = self.as_float()
        hits = ops.diagonal(matrix)
        union = ops.sum(matrix, axis=0) + ops.sum(matrix, axis=1) - hits
        present = ops.cast(union > 0, "float32")
        return ops.sum(hits / ops.maximum(union, 1)) / ops.maximum(ops.sum(present), 1)


@keras.saving.register_keras_serializable("cookbook")
class PixelAccuracy(keras.metrics.Metric):
    """The fraction of pixels on the diagonal of a ConfusionMatrix.

    Args:
      confusion: a matrix that is updated beside it, which spares the work of another; or, as in a loaded model, the
        number of classes of a matrix of its own.
    """

    def __init__(self, confusion: ConfusionMatrix | int, name: str = "accuracy", **options):
        super().__init__(name=name, **options)
        self.own = ConfusionMatrix(confusion) if isinstance(confusion, int) else None
        self.confusion = lambda: self.own or confusion  # not an attribute that Keras would track, and reset, twice

    def get_config(self):
        return super().get_config() | {"confusion": self.confusion().num_classes}

    def update_state(self, labels, logits, sample_weight=None):
        if self.own:
            self.own.update_state(labels, logits)

    def result(self):
        matrix = self.confusion().as_float()
        return ops.sum(ops.diagonal(matrix)) / ops.maximum(ops.sum(matrix), 1)


def report(matrix, class_names: Sequence[str]) -> dict:
    """Turns a confusion matrix into named scores, fractions 0..1.

    Returns:
      {"pixel_accuracy", "mean_iou", "iou": {class: ...}, "dice": {class: ...}}, and for a trimap "pet_iou_binary": the
      IoU of pet and border together, as it is reported for two-valued trimaps. A class that occurs in neither truth
      nor prediction has the score None and is left out of the mean; with no class present the mean is None.
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
        if is_trimap(class_names):
            background = list(class_names).index("background")
            pet = np.delete(np.delete(matrix, background, axis=0), background, axis=1)
            scores["pet_iou_binary"] = _score(pet.sum() / (matrix.sum() - matrix[background, background]))
    return scores


def _score(value) -> float | None:
    return None if np.isnan(value) else float(value)
