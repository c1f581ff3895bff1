"""Detectors of instances: SavedModels with the inputs and outputs of Mask R-CNN on TensorFlow Hub."""

from collections.abc import Callable, Iterator

from app.cli import InputError
from app.detect import saved_models, scenes
from app.detect.instances import Instance
from app.predict import matting

import cv2
import numpy as np
import tensorflow as tf

OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "detection_masks", "num_detections")
COARSE_MASKS = "coarse_masks"  # by this output a detector declares that its masks gain from following the photo's edges
PHOTO = tf.TensorSpec((1, None, None, 3), tf.uint8)
MASK_THRESHOLD = 0.5  # of the probability that a pixel belongs to the object
MARGIN = 0.024  # of the photo's longer side, around a box: a coarse mask may grow beyond it


def from_saved_model(handle: str) -> Callable[[np.ndarray], dict[str, tf.Tensor]]:
    """Loads a detector: a function from a photo, uint8 [H, W, 3], to OUTPUTS, and COARSE_MASKS if declared.

    For N detections, by descending score: boxes [1, N, 4] (ymin, xmin, ymax, xmax as fractions of height and width),
    classes and scores [1, N], masks [1, N, h, w] (probabilities inside the box), and their number [1].
    """
    loaded = saved_models.load(handle)
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise InputError(f"model {handle}: not a detector of instances, it lacks the signature serving_default")
    inputs = signature.structured_input_signature[1]
    missing = [output for output in OUTPUTS if output not in signature.structured_outputs]
    if [PHOTO.is_compatible_with(spec) for spec in inputs.values()] != [True]:
        missing.append("an input of uint8 [1, H, W, 3] alone")
    if missing:
        raise InputError(f"model {handle}: not a detector of instances, it lacks {', '.join(missing)}")
    (name,) = inputs

    def predict(photo):
        outputs = loaded.signatures["serving_default"](**{name: tf.constant(photo[np.newaxis])})  # keeps `loaded` alive
        return {output: outputs[output] for output in (*OUTPUTS, COARSE_MASKS) if output in outputs}

    return predict


def detect(
    predict: Callable, photo: np.ndarray, names: dict[int, str], min_score: float, max_detections: int
) -> list[Instance]:
    """Detects the objects in a photo, uint8 [H, W, 3], by descending score.

    `predict` is what from_saved_model returns, `names` has those of the classes by id, `min_score` is 0..1.
    """
    return list(detections(predict, photo, names, min_score, max_detections))


def detections(
    predict: Callable, photo: np.ndarray, names: dict[int, str], min_score: float, max_detections: int
) -> Iterator[Instance]:
    """As `detect`, but makes one instance at a time: the masks of a large photo may not fit into memory together."""
    height, width = photo.shape[:2]
    outputs = {name: tensor[0].numpy() for name, tensor in predict(photo).items()}
    margin = round(MARGIN * max(height, width)) if COARSE_MASKS in outputs else 0
    scores = outputs["detection_scores"][: int(outputs["num_detections"])]
    boxes = outputs["detection_boxes"]
    # Low scores are dropped before any work is done for them.
    sure = [k for k in np.argsort(-scores, kind="stable") if scores[k] >= min_score and np.isfinite(boxes[k]).all()]
    for k in sure[:max_detections]:
        box = boxes[k]
        probabilities, top, left = enlarge(outputs["detection_masks"][k], box, height, width, margin)
        mask = probabilities > MASK_THRESHOLD
        if COARSE_MASKS in outputs and min(mask.shape) > 1:
            part = photo[top : top + mask.shape[0], left : left + mask.shape[1]]
            fitted = matting.Guide(part).fit(probabilities)
            guided = cv2.resize(fitted, mask.shape[::-1]) > MASK_THRESHOLD
            if guided.any():  # an unsure mask can vanish in what is surely around it
                probabilities, mask = fitted, guided
        if not mask.any():
            continue
        if COARSE_MASKS in outputs:  # the mean of the box and the mask's own
            box = (box + np.add(scenes.bounds(mask), (top, left, top, left)) / (height, width, height, width)) / 2
        category = int(outputs["detection_classes"][k])
        name = names.get(category, f"class {category}")
        small = matting.shrunk(probabilities, matting.SIDE)
        yield Instance(category, name, float(scores[k]), tuple(map(float, box)), mask, top, left, small)


def enlarge(mask: np.ndarray, box: np.ndarray, height: int, width: int, margin: int = 0) -> tuple[np.ndarray, int, int]:
    """Enlarges a mask, probabilities [h, w], to its box in the photo.

    TensorFlow's object detection API does the same over the whole photo (reframe_box_masks_to_image_masks: bilinear,
    with the corners of mask and photo aligned); this covers the box and `margin` pixels around it, where they are 0.
    The box is ymin, xmin, ymax, xmax as fractions of the photo; it may extend beyond it.

    Returns:
      Probabilities float32 [H, W] for this part of the photo, and its top and left, pixels.
    """
    rows, top = _bilinear_weights(box[0], box[2], height, mask.shape[0], margin)
    columns, left = _bilinear_weights(box[1], box[3], width, mask.shape[1], margin)
    return rows @ mask.astype(np.float32) @ columns.T, top, left


def _bilinear_weights(begin: float, end: float, pixels: int, samples: int, margin: int) -> tuple[np.ndarray, int]:
    """Weights float32 [n, samples] of the samples for each of the n pixels from begin to end, and the first pixel."""
    # Fractions 0 and 1 are the centres of the first and the last pixel.
    places = np.linspace(0, 1, pixels, dtype=np.float32) if pixels > 1 else np.float32([0.5])
    if not end > begin:
        return np.zeros((0, samples), np.float32), 0
    places = (places - begin) / (end - begin) * (samples - 1)
    inside = (places >= 0) & (places <= samples - 1)
    numbers = np.flatnonzero(inside)
    first = max(0, numbers.min(initial=pixels) - margin)
    window = slice(first, numbers.max(initial=-1) + 1 + margin)
    return bilinear(places[window], samples) * inside[window, np.newaxis], int(first)


def bilinear(places: np.ndarray, samples: int) -> np.ndarray:
    """Weights [n, samples] that interpolate at n places from 0 to samples - 1, in the places' dtype."""
    return np.maximum(0, 1 - np.abs(places[:, np.newaxis] - np.arange(samples, dtype=places.dtype)))
