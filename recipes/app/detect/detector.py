"""Detectors of instances: SavedModels with the inputs and outputs of Mask R-CNN on TensorFlow Hub."""

from collections.abc import Callable, Sequence

from app.cli import InputError
from app.detect import saved_models, scenes
from app.detect.instances import Instance
from app.predict import matting

import cv2
import numpy as np
import tensorflow as tf

OUTPUTS = {  # and their ranks
    "detection_boxes": 3,
    "detection_classes": 2,
    "detection_scores": 2,
    "detection_masks": 4,
    "num_detections": 1,
}
COARSE = "coarse_masks"  # an output beside these: masks and boxes gain from following the photo's edges
PHOTO = tf.TensorSpec((1, None, None, 3), tf.uint8)
MASK_THRESHOLD = 0.5  # of the probability that a pixel belongs to the object
MARGIN = 0.024  # of the photo's longer side, around a box: a coarse mask may grow beyond it


def from_saved_model(handles: Sequence[str]) -> Callable[[np.ndarray], dict[str, tf.Tensor]]:
    """Loads a detector: a function from a photo, uint8 [H, W, 3], to the tensors named in OUTPUTS, and COARSE if given.

    For N detections, by descending score: boxes [1, N, 4] (ymin, xmin, ymax, xmax as fractions of height and width),
    classes and scores [1, N], masks [1, N, h, w] (probabilities inside the box), and their number [1].

    Args:
      handles: of the same model, tried in turn; see saved_models.py.
    Raises:
      saved_models.Unavailable: if it could not be downloaded.
      InputError: if it is damaged, or does not detect instances.
    """
    loaded = saved_models.first_available(handles)
    what = f"{handles[0]}: not a detector of instances"
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
        return {output: answer[output] for output in (*OUTPUTS, COARSE) if output in answer}

    return detect


def detect(
    detect_all: Callable, photo: np.ndarray, names: dict[int, str], min_score: float, max_detections: int
) -> list[Instance]:
    """Finds the objects in a photo, uint8 [H, W, 3], by descending score, with what from_saved_model gives."""
    found = {name: tensor[0].numpy() for name, tensor in detect_all(photo).items()}
    scores = found["detection_scores"][: max(0, int(found["num_detections"]))]
    # Low scores are dropped before any work is done for them.
    boxes = found["detection_boxes"]
    sure = [k for k in np.argsort(-scores, kind="stable") if scores[k] >= min_score and np.isfinite(boxes[k]).all()]
    result = []
    for k in sure[:max_detections]:
        box, category = boxes[k], int(found["detection_classes"][k])
        if COARSE in found:
            mask, top, left, box = _follow_edges(photo, found["detection_masks"][k], box)
        else:
            mask, top, left = paste(found["detection_masks"][k], box, *photo.shape[:2])
        if mask.any():
            name = names.get(category, f"class {category}")
            result.append(Instance(category, name, float(scores[k]), tuple(map(float, box)), mask, top, left))
    return result


def _follow_edges(photo: np.ndarray, mask: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, int, int, np.ndarray]:
    """Enlarges a coarse mask along the photo's edges, as matting.py does; the box becomes the mean of box and mask.

    Returns:
      The mask, bool [h, w], its top and left in the photo, and the box.
    """
    height, width = photo.shape[:2]
    probabilities, top, left = _enlarge(mask, box, height, width)
    margin = round(MARGIN * max(height, width))
    above, before = min(margin, top), min(margin, left)
    below = min(margin, height - top - probabilities.shape[0])
    behind = min(margin, width - left - probabilities.shape[1])
    probabilities = np.pad(probabilities, ((above, below), (before, behind)))
    top, left = top - above, left - before
    inside = probabilities > MASK_THRESHOLD
    if min(probabilities.shape) > 1:
        part = photo[top : top + probabilities.shape[0], left : left + probabilities.shape[1]]
        guided = cv2.resize(matting.Guide(part).fit(probabilities), probabilities.shape[::-1]) > MASK_THRESHOLD
        inside = guided if guided.any() else inside  # an unsure mask can vanish in what is surely around it
    if inside.any():
        bounds = np.add(scenes.bounds(inside), (top, left, top, left)) / (height, width, height, width)
        box = (box + bounds) / 2
    return inside, top, left, box


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """Enlarges a mask to its box in the photo.

    TensorFlow's object detection API does the same over the whole photo (reframe_box_masks_to_image_masks: bilinear,
    with the corners of mask and photo aligned); this covers the box only.

    Args:
      mask: probabilities float32 [h, w] over the box.
      box: ymin, xmin, ymax, xmax as fractions 0..1 of the photo; it may extend beyond it.
      height, width: of the photo, pixels.
    Returns:
      bool [H, W] for the part of the photo in the box, and the top and left of that part, pixels.
    """
    probabilities, top, left = _enlarge(mask, box, height, width)
    return probabilities > MASK_THRESHOLD, top, left


def _enlarge(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """What `paste` returns, with probabilities, float32."""
    rows, top = _bilinear_weights(box[0], box[2], height, mask.shape[0])
    columns, left = _bilinear_weights(box[1], box[3], width, mask.shape[1])
    return rows @ mask.astype(np.float32) @ columns.T, top, left


def _bilinear_weights(begin: float, end: float, pixels: int, samples: int) -> tuple[np.ndarray, int]:
    """Weights float32 [n, samples] of the samples for each of the n pixels from begin to end, and the first pixel."""
    # Fractions 0 and 1 are the centres of the first and the last pixel.
    places = np.linspace(0, 1, pixels, dtype=np.float32) if pixels > 1 else np.full(1, 0.5, np.float32)
    if not end > begin:
        return np.zeros((0, samples), np.float32), 0
    places = (places - begin) / (end - begin) * (samples - 1)
    inside = np.flatnonzero((places >= 0) & (places <= samples - 1))
    first = int(inside[0]) if len(inside) else 0
    distances = np.abs(places[inside, np.newaxis] - np.arange(samples, dtype=np.float32))
    return np.maximum(0, 1 - distances).astype(np.float32), first
