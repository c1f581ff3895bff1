"""What a training makes small."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("cookbook")
class CrossEntropyAndDice(keras.losses.Loss):
    """Cross-entropy plus Dice loss, of logits [B, H, W, classes] against labels [B, H, W].

    Cross-entropy counts pixels, so a thin border hardly matters to it; Dice counts how well each class overlaps,
    whatever its size, which is nearer to the mean IoU that is reported. Each gives one number an image: the mean over
    its pixels, and the mean over the classes that it shows. Labels from `classes` on are ignored. Sources: Milletari,
    Navab, Ahmadi: V-Net, 3DV 2016, section 3, of Dice; Isensee et al.: nnU-Net, Nature Methods 2021, of the sum.
    """

    def call(self, labels, logits):
        num_classes = logits.shape[-1]
        labels = ops.cast(labels, "int32")
        counted = ops.cast(labels < num_classes, logits.dtype)
        truth = ops.one_hot(labels, num_classes, dtype=logits.dtype)  # nothing for what is ignored
        logarithms = ops.log_softmax(logits)
        cross_entropy = -ops.sum(truth * logarithms, axis=-1)
        cross_entropy = ops.sum(cross_entropy, axis=(1, 2)) / ops.maximum(ops.sum(counted, axis=(1, 2)), 1)

        predicted = ops.exp(logarithms) * counted[..., None]
        overlap = ops.sum(truth * predicted, axis=(1, 2))
        area = ops.sum(truth, axis=(1, 2))
        dice = 2 * overlap / ops.maximum(area + ops.sum(predicted, axis=(1, 2)), 1)
        shown = ops.cast(area > 0, logits.dtype)
        return cross_entropy + ops.sum(shown * (1 - dice), axis=-1) / ops.maximum(ops.sum(shown, axis=-1), 1)
