"""Mask R-CNN from TensorFlow Hub: finds and outlines the 80 COCO kinds of objects in your photos.

The network is trained already (Inception-ResNet-V2 at 1024 x 1024 pixels, on COCO 2017) and is downloaded the first
time. For each object it gives a box, a class, a score and a mask of 33 x 33 pixels; this recipe keeps the sure ones,
brings each mask to its place in the photo, and writes pictures, maps of the instances and COCO's results format.

Needs:   8 GB of memory and 250 MB for the download; a GPU makes it quick, a CPU takes several seconds a photo.
Run:     python recipes/mask_rcnn_hub.py                   the photos in resources/photos/
         python recipes/mask_rcnn_hub.py holiday/ cat.jpg
Writes:  NAME_overlay.png, NAME_instances.png (16 bits: 0 = nothing, k = the k-th object) and detections.json
Expect:  on COCO 2017 the model's authors report a mean average precision of 39.0 (boxes) and 34.6 (masks).
Paper:   He, Gkioxari, Dollar, Girshick: Mask R-CNN, ICCV 2017.
"""

import argparse
import collections
import json
import pathlib
import time
from collections.abc import Callable, Sequence

from common import files, flags, instances, photos, runs, saved_models

import numpy as np
import tensorflow as tf

# The same model twice; the second, the archive of TensorFlow's model zoo, is for where the first is not given out.
MODELS = (
    "https://tfhub.dev/tensorflow/mask_rcnn/inception_resnet_v2_1024x1024/1",
    "https://download.tensorflow.org/models/object_detection/tf2/20200711/"
    "mask_rcnn_inception_resnet_v2_1024x1024_coco17_gpu-8.tar.gz",
)
OUTPUTS = {  # and their numbers of dimensions
    "detection_boxes": 3,
    "detection_classes": 2,
    "detection_scores": 2,
    "detection_masks": 4,
    "num_detections": 1,
}
LABELS = files.ROOT / "resources" / "mscoco_label_map.pbtxt"
PHOTOS = files.ROOT / "resources" / "photos"
MIN_SCORE = 0.3
MAX_DETECTIONS = 100  # as many as the model gives
MASK_THRESHOLD = 0.5  # of the probability that a pixel belongs to the object


def load_detector(model: str | None) -> Callable[[np.ndarray], dict[str, tf.Tensor]]:
    """Loads a detector: a function from a photo, uint8 [H, W, 3], to the tensors named in OUTPUTS.

    For N detections, the surest first: boxes [1, N, 4] (ymin, xmin, ymax, xmax as fractions of height and width),
    classes and scores [1, N], masks [1, N, 33, 33] (the probability inside the box), and their number [1].

    Raises:
      InputError: for a model that cannot be had, or is no detector of instances.
    """
    try:
        loaded = saved_models.load(MODELS if model is None else [model])
    except files.InputError as error:
        advice = f"; or bring it by hand: download {MODELS[-1]} elsewhere and give it with --model FILE.tar.gz"
        raise files.InputError(f"--model: {error}{advice if model is None else ''}") from error
    where = f"--model {model or 'default'}: not a detector of instances"
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise files.InputError(f"{where}, its SavedModel lacks the signature serving_default")
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    missing = [
        name for name, rank in OUTPUTS.items() if name not in outputs or outputs[name].shape.rank not in (rank, None)
    ]
    pixels = tf.TensorSpec((1, None, None, 3), tf.uint8)
    if not [
        True for spec in inputs.values() if spec.dtype == pixels.dtype and spec.shape.is_compatible_with(pixels.shape)
    ]:
        missing.append("an input of uint8 [1, H, W, 3]")
    if missing or len(inputs) > 1:
        raise files.InputError(f"{where}, it lacks {', '.join(missing)}")

    def detector(photo):
        (name,) = inputs
        return loaded.signatures["serving_default"](**{name: tf.constant(photo[np.newaxis])})  # `loaded` has to stay

    return detector


def detect(
    detector: Callable, photo: np.ndarray, names: dict[int, str], min_score: float, max_detections: int
) -> list[instances.Instance]:
    """Finds the objects in a photo, uint8 [H, W, 3]; the surest first."""
    found = {name: tensor[0].numpy() for name, tensor in detector(photo).items() if name in OUTPUTS}
    scores = found["detection_scores"][: max(0, int(found["num_detections"]))]
    # What is not sure enough is dropped before anything is done for it.
    boxes = found["detection_boxes"]
    sure = [k for k in np.argsort(-scores, kind="stable") if scores[k] >= min_score and np.isfinite(boxes[k]).all()]
    result = []
    for k in sure[:max_detections]:
        box, category = boxes[k], int(found["detection_classes"][k])
        mask, top, left = paste(found["detection_masks"][k], box, *photo.shape[:2])
        if mask.any():
            name = names.get(category, f"class {category}")
            result.append(instances.Instance(category, name, float(scores[k]), tuple(map(float, box)), mask, top, left))
    return result


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """Enlarges a mask into its box in the photo.

    It is what TensorFlow's object detection API does over the whole photo (reframe_box_masks_to_image_masks:
    bilinear, the corners of mask and photo aligned), done only where the box lies.

    Args:
      mask: probabilities float32 [h, w] over the box.
      box: ymin, xmin, ymax, xmax as fractions 0..1 of the photo; it may reach out of it.
      height, width: of the photo, pixels.
    Returns:
      bool [H, W] of the part of the photo in the box, and its top and left in the photo, pixels.
    """
    rows, top = _bilinear_weights(box[0], box[2], height, mask.shape[0])
    columns, left = _bilinear_weights(box[1], box[3], width, mask.shape[1])
    return rows @ mask.astype(np.float32) @ columns.T > MASK_THRESHOLD, top, left


def _bilinear_weights(begin: float, end: float, pixels: int, samples: int) -> tuple[np.ndarray, int]:
    """Weights float32 [n, samples] of the samples for each of the n pixels between begin and end; the first pixel."""
    # Fractions of 0 and 1 mean the centres of the first and of the last pixel.
    places = np.linspace(0, 1, pixels, dtype=np.float32) if pixels > 1 else np.full(1, 0.5, np.float32)
    if not end > begin:
        return np.zeros((0, samples), np.float32), 0
    places = (places - begin) / (end - begin) * (samples - 1)
    inside = np.flatnonzero((places >= 0) & (places <= samples - 1))
    first = int(inside[0]) if len(inside) else 0
    distances = np.abs(places[inside, np.newaxis] - np.arange(samples, dtype=np.float32))
    return np.maximum(0, 1 - distances).astype(np.float32), first


def save(folder: pathlib.Path, name: str, photo: np.ndarray, found: Sequence[instances.Instance]) -> None:
    """Writes NAME_overlay.png and NAME_instances.png, as large as the photo."""
    photos.write(folder / f"{name}_overlay.png", instances.overlay(photo, found))
    photos.write(folder / f"{name}_instances.png", instances.instance_map(photo.shape[:2], found))


def parse_flags() -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    output = files.ROOT / "output" / "mask_rcnn_hub"
    add("photos", nargs="*", type=pathlib.Path, default=[PHOTOS], help="photos, or folders of them")
    add(
        "--model", metavar="M", help="URL on TensorFlow Hub or Kaggle, folder of a SavedModel, or .tar.gz (file or URL)"
    )
    add("--labels", type=pathlib.Path, default=LABELS, metavar="FILE", help="another label map (.pbtxt)")
    add("--min-score", type=flags.fraction, default=MIN_SCORE, metavar="X", help=f"0 to 1, default {MIN_SCORE}")
    text = f"at most so many in a photo, default {MAX_DETECTIONS}"
    add("--max-detections", type=flags.positive(int), default=MAX_DETECTIONS, metavar="N", help=text)
    add("--output", type=pathlib.Path, default=output, metavar="DIR", help="default output/mask_rcnn_hub")
    args = parser.parse_args()
    files.check_writable(args.output, "--output")
    return args


def main() -> int:
    args = parse_flags()
    names = instances.read_label_map(args.labels)
    reader = photos.Reader(args.photos, args.output)
    if not reader.photos:
        return reader.exit_status()
    device = runs.device_name(runs.gpu_details())
    detector = load_detector(args.model)
    print(f"mask_rcnn_hub | photos: {len(reader.photos)} | {device}", flush=True)

    image_ids = instances.image_ids([path for path, _ in reader.photos])
    results, table = [], [("photo", "size", "found", "seconds")]
    try:
        for photo in reader:
            began = time.perf_counter()
            try:
                found = detect(detector, photo.pixels, names, args.min_score, args.max_detections)
            except (tf.errors.OpError, ValueError) as error:
                reader.fail(f"{photo.path}: the model failed ({files.in_one_line(error)})")
                continue
            height, width = photo.pixels.shape[:2]
            save(args.output, photo.name, photo.pixels, found)
            results += instances.coco_results((height, width), found, image_ids[photo.path], str(photo.path))
            counts = collections.Counter(instance.name for instance in found)
            summary = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
            seconds = f"{time.perf_counter() - began:.1f}"
            reader.done += 1
            table.append((str(files.shown(photo.path)), f"{width} x {height}", summary, seconds))
    finally:  # an interrupted run keeps what it has
        if reader.done:
            files.write_text(args.output / "detections.json", json.dumps(results) + "\n")
    if reader.done:
        files.print_table(table)
        print(f"pictures and detections.json are in {files.shown(args.output)}")
    return reader.exit_status()


if __name__ == "__main__":
    runs.start(main, advice="detections.json has what was found until then")
