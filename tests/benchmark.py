"""Time and memory of what surrounds Mask R-CNN: read a photo, paste, draw, encode, write. `python tests/benchmark.py`.

A detector that gives 100 detections, of which 20 are sure enough, takes the place of the network. Each size has a
process of its own, on one core; the best of five rounds is printed, and how much larger the process grew.
"""

import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "1"  # read when NumPy loads
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "recipes"))

SIZES = ((640, 427), (4000, 3000))  # width, height
DETECTIONS, SURE = 100, 20
ROUNDS = 5


def measure(width: int, height: int) -> None:
    from common import instances, photos, synthetic

    import cv2
    import mask_rcnn_hub
    import numpy as np
    import tensorflow as tf

    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    begin = rng.uniform(0, 0.7, (DETECTIONS, 2))
    answer = {
        "detection_boxes": np.hstack([begin, begin + rng.uniform(0.05, 0.3, (DETECTIONS, 2))])[np.newaxis],
        "detection_classes": rng.integers(1, 91, (1, DETECTIONS)),
        "detection_scores": np.where(np.arange(DETECTIONS) < SURE, 0.9, 0.1)[np.newaxis],
        "detection_masks": cv2.resize(rng.uniform(size=(DETECTIONS, 5, 5)).T, (33, 33)).T[np.newaxis],
        "num_detections": np.array([DETECTIONS]),
    }
    answer = {name: tf.constant(value, tf.float32) for name, value in answer.items()}
    names = instances.read_label_map(mask_rcnn_hub.LABELS)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # A drawn pet with the noise of a camera: compresses no better than a photo does.
        picture = cv2.resize(synthetic.draw(0, image_size=512)[0], (width, height)).astype(np.int16)
        picture += rng.integers(-6, 7, picture.shape, dtype=np.int16)
        cv2.imwrite(folder / "photo.jpg", picture.clip(0, 255).astype(np.uint8))
        del picture
        status = pathlib.Path("/proc/self/status").read_text()
        before = int(status.split("VmRSS:")[1].split()[0]) / 1024
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the largest size so far
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            photo = photos.read(folder / "photo.jpg")
            found = mask_rcnn_hub.detect(lambda _: answer, photo, names, mask_rcnn_hub.MIN_SCORE, DETECTIONS)
            mask_rcnn_hub.save(folder, "photo", photo, found)
            instances.coco_results((height, width), found, 1, "photo.jpg")
            seconds.append(time.perf_counter() - began)
            assert len(found) == SURE
    peak = int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    print(
        f"{width} x {height}: {min(seconds):.2f} s (each round {', '.join(f'{s:.2f}' for s in seconds)}), "
        f"{peak - before:.0f} MB above the {before:.0f} MB before"
    )


if __name__ == "__main__":
    for size in SIZES:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=size)
        process.start()
        process.join()
