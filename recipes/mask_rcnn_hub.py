"""Mask R-CNN from TensorFlow Hub: finds and outlines objects of COCO's 80 categories in your photos.

The network (Inception-ResNet-V2 at 1024 x 1024 pixels) is already trained on COCO 2017 and is downloaded the first
time. For each object it gives a box, a class, a score and a mask of 33 x 33 pixels. This recipe keeps the confident
ones, pastes each mask into its box, and writes overlays, instance maps and COCO's results format. A small model that
finds only cats and dogs comes with it, trained by mask_rcnn_train.py; without a network it is used instead.

Needs:   4 GB of free memory and a download of 250 MB (TensorFlow Hub) or 478 MB (model zoo), of which 270 MB are kept.
         A GPU makes it quick; two CPU cores load it in 13 s and take 11 to 60 s per photo. The small model needs 1 GB
         and 0.08 s per photo.
Run:     python recipes/mask_rcnn_hub.py                   the photos in resources/photos/
         python recipes/mask_rcnn_hub.py holiday/ cat.jpg
         python recipes/mask_rcnn_hub.py cat.jpg --model small --cutouts
Writes:  NAME_overlay.png, NAME_instances.png (16 bits: 0 = none, k = the k-th object) and detections.json, which keeps
         what earlier runs found in other photos. With --cutouts also NAME_K_cutout.png: the K-th object alone, on a
         transparent background, unless its score is low or others hide most of it.
Expect:  on COCO 2017 the model's authors report a mean average precision of 39.0 (boxes) and 34.6 (masks).
Paper:   He, Gkioxari, Dollar, Girshick: Mask R-CNN, ICCV 2017.
"""

import argparse
import itertools
import os
import pathlib
import time
from collections.abc import Callable

from app import cli, device, files, inputs
from app.detect import cutouts, detector, instances, label_map, results, saved_models
from app.detect.instances import Instance
from app.predict import png

import numpy as np
import tensorflow as tf

# The same model twice: if the first address refuses, the second, TensorFlow's model zoo, has it as an archive.
MODELS = (
    "https://tfhub.dev/tensorflow/mask_rcnn/inception_resnet_v2_1024x1024/1",
    "https://download.tensorflow.org/models/object_detection/tf2/20200711/"
    "mask_rcnn_inception_resnet_v2_1024x1024_coco17_gpu-8.tar.gz",
)
SMALL = files.ROOT / "weights" / "mask_rcnn_pets.tar.gz"  # see weights/README.md
LABELS = files.ROOT / "resources" / "mscoco_label_map.pbtxt"
PHOTOS = files.ROOT / "resources" / "photos"
MIN_SCORE = 0.3
# In 298 photos of one pet, 289 of 297 objects with this score or more were the pet, but only 7 of 13 with a lower one.
MIN_CUTOUT_SCORE = 0.5
MAX_DETECTIONS = 100  # as many as the model returns


def load(model: str | None) -> Callable[[np.ndarray], dict[str, tf.Tensor]]:
    """The detector that --model names; by default the large one or, if it cannot be downloaded, the small one."""
    if model is not None:
        return detector.from_saved_model(str(SMALL) if model == "small" else model)
    for url in sorted(MODELS, key=lambda url: saved_models.cache_folder(url).exists(), reverse=True):
        try:
            saved_models.download(url)
        except cli.InputError as error:
            print(error, flush=True)
        else:
            return detector.from_saved_model(url)
    by_hand = f"to get it by hand, download {MODELS[-1]} elsewhere and name it with --model FILE.tar.gz"
    print(
        f"the large model is not available: using the small one, which finds cats and dogs only ({by_hand})", flush=True
    )
    return detector.from_saved_model(str(SMALL))


def parse_flags() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    output = files.ROOT / "output" / "mask_rcnn_hub"
    add("photos", nargs="*", type=pathlib.Path, default=[PHOTOS], help="photos, or folders of them")
    text = "small, a URL on TensorFlow Hub or Kaggle, a folder with a SavedModel, or a .tar.gz (file or URL)"
    add("--model", metavar="M", help=text)
    text = f"label map (.pbtxt); default {label_map.NAME} in the folder of --model, otherwise COCO's"
    add("--labels", type=pathlib.Path, metavar="FILE", help=text)
    add(
        "--min-score",
        type=cli.fraction,
        metavar="X",
        help=f"0 to 1, default {MIN_SCORE}; for cutouts {MIN_CUTOUT_SCORE}",
    )
    text = f"at most this many per photo, default {MAX_DETECTIONS}"
    add("--max-detections", type=cli.positive(int), default=MAX_DETECTIONS, metavar="N", help=text)
    add("--cutouts", action="store_true", help="also cut out each object")
    add("--output", type=pathlib.Path, default=output, metavar="DIR", help="default output/mask_rcnn_hub")
    args = parser.parse_args()
    own = pathlib.Path(args.model or "", label_map.NAME)
    cutout_score = MIN_CUTOUT_SCORE if args.min_score is None else args.min_score
    args.cutout_score = cutout_score if args.cutouts else None
    args.min_score = MIN_SCORE if args.min_score is None else args.min_score
    has_own = args.model and os.path.exists(own)  # noqa: PTH110  pathlib's fails for odd names
    args.labels = args.labels or (own if has_own else LABELS)
    files.check_writable(args.output, "--output")
    return args


def save(
    output: pathlib.Path,
    name: str,
    photo: np.ndarray,
    detections: list[Instance],
    cutout_score: float | None = None,
    transparent: np.ndarray | None = None,
) -> dict[int, dict]:
    """Writes the pictures of a photo; cutouts only if a score is given. Returns their entries in detections.json."""
    png.write(output / f"{name}_overlay.png", instances.overlay(photo, detections))
    numbers = instances.instance_map(photo.shape[:2], detections)
    png.write(output / f"{name}_instances.png", numbers)
    if cutout_score is None:
        return {}
    return cutouts.write(output, name, photo, numbers, detections, cutout_score, transparent)


@cli.program(stop_advice="detections.json has the detections so far")
def main() -> int:
    args = parse_flags()
    names = label_map.read(args.labels)
    results.read(args.output)  # refuses an output folder with a file that is not ours
    inputs.check_output(args.output, "predictions*.jsonl", "--predict")
    counts = inputs.Counts()
    items = inputs.find_all(args.photos, args.output, counts)
    if not items:
        return counts.exit_status()
    where = device.description(device.start(runs_on_jax=False))
    print(f"mask_rcnn_hub | photos: {len(items)} | {where}", flush=True)
    model = load(args.model)
    items = inputs.give_names(items, args.output)
    old_cutouts = cutouts.of_earlier_runs(args.output, [item.name for item in items])
    found = {}
    table = [("photo", "size", "found", "seconds")]
    try:
        for item, photo, transparent in inputs.read_all(items, counts):
            began = time.perf_counter()
            try:
                detections = detector.detect(model, photo, names, args.min_score, args.max_detections)
            except (tf.errors.OpError, ValueError) as error:
                counts.fail(f"{item.path}: the model failed ({cli.one_line(error)})")
                continue
            cut_out = save(args.output, item.name, photo, detections, args.cutout_score, transparent)
            cutouts.remove(args.output, old_cutouts[item.name], kept=cut_out)
            height, width = photo.shape[:2]
            file_name = inputs.absolute(item.path)
            found[item.path] = instances.coco_results((height, width), detections, 0, file_name, cut_out)
            counts.done += 1
            seconds = f"{time.perf_counter() - began:.1f}"
            table.append((str(item.path), f"{width} x {height}", instances.summary(detections), seconds))
    finally:  # an interrupted run keeps its results
        if found:
            results.write(args.output, found)
    if counts.done:
        cli.print_table(table)
        label_map.print_unnamed(itertools.chain.from_iterable(found.values()), names, args.labels)
        print(f"pictures and detections.json are in {files.shown(args.output)}")
    return counts.exit_status()


if __name__ == "__main__":
    main()
