"""The training loss, and the learning-rate schedule."""

from collections.abc import Sequence

import keras
from keras import ops

RARE = 0.02  # of the pixels; tried by tests/measure/few_photos.py
LARGEST_WEIGHT = 40.0  # the largest tried there


@keras.saving.register_keras_serializable("cookbook")
class CrossEntropyAndDice(keras.losses.Loss):
    """Cross-entropy plus Dice loss, of logits [B, H, W, classes] against labels [B, H, W].

    Cross-entropy weighs every pixel the same, so a thin border hardly matters to it. Dice measures the overlap of each
    class whatever its size, which is closer to mean IoU. The loss of an image is the mean cross-entropy of its pixels
    plus the mean Dice loss of the classes in it. Labels >= classes are ignored. Sources: Milletari, Navab, Ahmadi:
    V-Net, 3DV 2016, section 3 (Dice); Isensee et al.: nnU-Net, Nature Methods 2021 (the sum of both).

    Args:
      class_weights: how much a pixel of each class weighs in the cross-entropy, as from `class_weights`; None: 1.
    """

    def __init__(self, class_weights: Sequence[float] | None = None, **options):
        super().__init__(**options)
        self.class_weights = None if class_weights is None else list(map(float, class_weights))

    def get_config(self):
        return super().get_config() | {"class_weights": self.class_weights}

    def call(self, labels, logits):
        num_classes = logits.shape[-1]
        labels = ops.cast(labels, "int32")
        counted = ops.cast(labels < num_classes, logits.dtype)
        ids = ops.where(labels < num_classes, labels, 0)
        cross_entropy = counted * ops.sparse_categorical_crossentropy(ids, logits, from_logits=True)
        if self.class_weights is not None:
            cross_entropy *= ops.take(ops.convert_to_tensor(self.class_weights, logits.dtype), ids)
        cross_entropy = ops.sum(cross_entropy, axis=(1, 2)) / ops.maximum(ops.sum(counted, axis=(1, 2)), 1)

        truth = ops.one_hot(labels, num_classes, dtype=logits.dtype)  # all zeros for an ignored label
        # Per image, the probability of each class summed over the pixels of each true class.
        confusion = ops.einsum("bhwt,bhwp->btp", truth, ops.softmax(logits))
        area, overlap = ops.sum(truth, axis=(1, 2)), ops.diagonal(confusion, axis1=1, axis2=2)
        dice = 2 * overlap / ops.maximum(area + ops.sum(confusion, axis=1), 1)
        present = ops.cast(area > 0, logits.dtype)
        return cross_entropy + ops.sum(present * (1 - dice), axis=-1) / ops.maximum(ops.sum(present, axis=-1), 1)


def class_weights(pixels: Sequence[int]) -> list[float] | None:
    """Weights with which the cross-entropy does not pass over small or rare objects.

    A class of less than RARE of the pixels weighs as much as if it had as many, but a pixel of it not more than
    LARGEST_WEIGHT; the other classes keep the weight 1.

    Args:
      pixels: how many pixels each class has in the labels.
    Returns:
      A weight for each class; None if all are 1.
    """
    wanted = RARE * sum(pixels)
    weights = [min(max(1.0, wanted / count), LARGEST_WEIGHT) if count else 1.0 for count in pixels]
    return weights if any(weight > 1 for weight in weights) else None


def warm_up_and_cosine(max_learning_rate: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises to `max_learning_rate` over the first 5 % of `steps`, then falls to 0 along a cosine.

    Without the warm-up Adam's first steps, scaled by the statistics of a few batches, are too large. Source of the
    cosine: Loshchilov, Hutter: SGDR, ICLR 2017, section 3.
    """
    warm_up = max(1, round(0.05 * steps))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=max_learning_rate, warmup_steps=warm_up
    )
