"""Detectors of instances: SavedModels with the inputs and outputs of Mask R-CNN on TensorFlow Hub."""

from collections.abc import Callable, Sequence

from app.cli import InputError
from app.detection import saved_models

import numpy as np
import tensorflow as tf

OUTPUTS = {  # and their ranks
    "detection_boxes": 3,
    "detection_classes": 2,
    "detection_scores": 2,
    "detection_masks": 4,
    "num_detections": 1,
}
PHOTO = tf.TensorSpec((1, None, None, 3), tf.uint8)


def from_saved_model(handles: Sequence[str], advice: str = "") -> Callable[[np.ndarray], dict[str, tf.Tensor]]:
    """Loads a detector: a function from a photo, uint8 [H, W, 3], to the tensors named in OUTPUTS.

    For N detections, by descending score: boxes [1, N, 4] (ymin, xmin, ymax, xmax as fractions of height and width),
    classes and scores [1, N], masks [1, N, h, w] (probabilities inside the box), and their number [1].

    Args:
      handles: of the same model, tried in turn; see saved_models.py.
      advice: what to do if none is available.
    Raises:
      InputError: if the model is not available, or does not detect instances.
    """
    try:
        loaded = saved_models.first_available(handles)
    except InputError as error:
        raise InputError(f"--model: {error}{advice}") from error
    what = f"--model {handles[0]}: not a detector of instances"
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise InputError(f"{what}, its SavedModel lacks the signature serving_default")
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1:
        raise InputError(f"{what}, it takes {len(inputs)} inputs ({', '.join(inputs)}) instead of a photo alone")
    ((name, spec),) = inputs.items()
    missing = [
        output
        for output, rank in OUTPUTS.items()
        if output not in outputs or outputs[output].shape.rank not in (rank, None)
    ]
    if spec.dtype != PHOTO.dtype or not spec.shape.is_compatible_with(PHOTO.shape):
        missing.append("an input of uint8 [1, H, W, 3]")
    if missing:
        raise InputError(f"{what}, it lacks {', '.join(missing)}")

    def detect(photo):
        answer = loaded.signatures["serving_default"](**{name: tf.constant(photo[np.newaxis])})  # keeps `loaded` alive
        return {output: answer[output] for output in OUTPUTS}

    return detect
