"""Speed and memory of the recipes against the plain way (tests/plain.py): `make bench`.

    python tests/benchmark.py [pipeline] [step] [inference] [mask] [start]      all of them, or some

The two ways of a line run in a process each and take turns, so that a noisy machine disturbs both alike; the ratio is
the median over the turns. Memory is how much a process grew at most, after its imports. "Of the floor" is how near a
way comes to the time that its multiplications and additions take at the rate of a large matrix product in the same
precision. Needs Linux.
"""

import argparse
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "recipes"), str(ROOT / "tests")]
RECIPES = ("unet_scratch", "fcn_vgg16", "unet_mobilenetv2")
SIZES = {128: 16, 256: 8}  # pixels a side: images in a batch
PIPELINE_IMAGES = 3312
PHOTOS = ((640, 427), (4000, 3000))  # width, height
DETECTIONS, SURE = 100, 20
TURNS, SECONDS = 7, 12  # of a line at most


def memory(field: str) -> float:
    """VmRSS (now) or VmHWM (the most) of this process, MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def baseline() -> float:
    """The memory of this process, MB, from which on it is looked how much it grows."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the most so far
    return memory("VmRSS")


def serve(pipe, is_plain: bool, set_up, arguments) -> None:
    """What a process does: get ready, do a turn whenever it is asked to, and in the end tell its memory."""
    import common  # noqa: F401

    if is_plain:
        os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)  # TensorFlow's own choice
    turn, before, work = set_up(is_plain, *arguments)
    pipe.send(work)
    while pipe.recv() == "turn":
        began = time.perf_counter()
        units = turn()
        pipe.send((time.perf_counter() - began) / units)
    pipe.send(memory("VmHWM") - before)


def side_by_side(set_up, *arguments):
    """Seconds for an image and MB, of ours and of the plain way; operations for an image; the median ratio."""
    context = multiprocessing.get_context("spawn")
    ways = []
    for is_plain in (False, True):
        pipe, other = context.Pipe()
        process = context.Process(target=serve, args=(other, is_plain, set_up, arguments), daemon=True)
        process.start()
        other.close()
        ways.append((pipe, process))
    work, _ = (pipe.recv() for pipe, _ in ways)
    turns, began = [], time.perf_counter()
    while len(turns) < TURNS and (not turns or time.perf_counter() - began < SECONDS):
        turns.append([])
        for pipe, _ in ways:
            pipe.send("turn")
            turns[-1].append(pipe.recv())
    peaks = []
    for pipe, process in ways:
        pipe.send("end")
        peaks.append(pipe.recv())
        process.join()
    seconds = [statistics.median(column) for column in zip(*turns, strict=True)]
    ratio = statistics.median(plain / ours for ours, plain in turns)
    return seconds, peaks, work, ratio


def matrix(is_plain, size):
    """A matrix product in the precision of a training: what this machine can do at most."""
    from common import runs

    import keras
    import tensorflow as tf

    before = baseline()
    runs.prepare(argparse.Namespace(seed=0, precision="float32" if is_plain else "auto", batch_size=1))
    values = tf.cast(tf.random.normal((size, size)), keras.config.dtype_policy().compute_dtype)
    multiply = tf.function(tf.linalg.matmul)

    def turn():
        for _ in range(5):
            multiply(values, values).numpy()
        return 5 * 2 * size**3  # multiplications and additions

    turn()
    return turn, before, None


def pipeline(is_plain, size):
    """Training batches out of as many photos with masks as Oxford-IIIT Pet has to train with."""
    from common import data, synthetic

    import plain
    import tensorflow as tf

    before = baseline()
    drawn = [synthetic.draw(index, image_size=size) for index in range(16)]
    images = [tf.io.encode_jpeg(image) for image, _ in drawn]
    labels = [tf.io.encode_png(label[..., None]) for _, label in drawn]
    examples = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels}).repeat().take(PIPELINE_IMAGES)

    def decode(example):
        return tf.io.decode_jpeg(example["image"], channels=3), tf.io.decode_png(example["label"], channels=1)

    if is_plain:
        batches = plain.pipeline(examples, decode, size)
    else:
        splits = {"train": examples, "validation": examples.take(1), "test": examples.take(1)}
        batches = data.pipelines(splits, decode, size, plain.BATCH_SIZE, seed=0)["train_from"](0)
    iterator = iter(batches)

    def turn(steps=40):
        for _ in range(steps):
            next(iterator)
        return steps * plain.BATCH_SIZE

    turn(steps=PIPELINE_IMAGES // plain.BATCH_SIZE)  # the plain way fills its cache in its first epoch
    return turn, before, None


def step(is_plain, recipe, size, batch_size):
    """A training step, as `fit` does it."""
    import importlib

    from common import data, losses, optimizers, runs, scores

    import numpy as np
    import plain

    before = baseline()
    device = runs.prepare(
        argparse.Namespace(seed=0, precision="float32" if is_plain else "auto", batch_size=batch_size)
    )
    model = importlib.import_module(recipe).build_model(size, 3)
    if is_plain:
        plain.compile_model(model)
    else:
        model.compile(
            optimizers.Adam(optimizers.warm_up_and_cosine(1e-3, 1000)),
            losses.CrossEntropyAndDice(),
            metrics=[scores.PixelAccuracy(3), scores.MeanIoU(3)],
            jit_compile=device.jit_compile,
        )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, size, size, 3)).astype(np.uint8)
    labels = rng.integers(0, 3, (batch_size, size, size)).astype(np.uint8)
    assert data.IGNORED not in labels

    def turn():
        model.train_on_batch(images, labels)
        return batch_size

    turn()  # traces
    return turn, before, operations(model)


def operations(model) -> int:
    """Multiplications and additions of a training step for one image, in its convolutions.

    Forward each weight is used once for each position of its kernel; backward twice, for the gradient of what came in
    and for that of the weight, except that nobody wants the gradient of the pixels.
    """
    import numpy as np
    from keras import layers

    total = 0
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.Conv2DTranspose, layers.DepthwiseConv2D)):
            smaller = layer.input if isinstance(layer, layers.Conv2DTranspose) else layer.output
            forward = 2 * int(np.prod(layer.kernel.shape)) * smaller.shape[1] * smaller.shape[2]
            total += forward * (3 if total else 2)
    return total


def inference(is_plain, batch_size):
    """The probabilities of photos at 192 px by the weights that come with the project."""
    from common import predict

    import keras
    import numpy as np
    import unet_mobilenetv2

    before = baseline()
    weights = ROOT / "weights" / "unet_mobilenetv2.weights.h5"
    network = predict.load(argparse.Namespace(recipe="unet_mobilenetv2", weights=weights), unet_mobilenetv2.build_model)
    photos = np.random.default_rng(0).uniform(0, 255, (batch_size, network.size, network.size, 3)).astype(np.float32)
    if is_plain:
        model = unet_mobilenetv2.build_model(network.size, 3)
        model.load_weights(weights)

    def turn():
        for _ in range(8 // batch_size):
            if is_plain:
                keras.ops.softmax(model.predict(photos, verbose=0)).numpy()
            else:
                network.probabilities(photos)
        return 8

    turn()  # traces
    return turn, before, None


def mask_rcnn(is_plain, width, height):
    """From a photo to its files, around a network that gives 100 detections, of which 20 are sure enough."""
    from common import instances, photos, synthetic

    import cv2
    import mask_rcnn_hub
    import numpy as np
    import plain
    import tensorflow as tf

    rng = np.random.default_rng(0)
    begin = rng.uniform(0, 0.7, (DETECTIONS, 2))
    answer = {
        "detection_boxes": np.hstack([begin, begin + rng.uniform(0.05, 0.3, (DETECTIONS, 2))])[np.newaxis],
        "detection_classes": rng.integers(1, 91, (1, DETECTIONS)),
        "detection_scores": np.where(np.arange(DETECTIONS) < SURE, 0.9, 0.1)[np.newaxis],
        "detection_masks": cv2.resize(rng.uniform(size=(DETECTIONS, 5, 5)).T, (33, 33)).T[np.newaxis],
        "num_detections": np.array([DETECTIONS]),
    }
    answer = {name: value.astype(np.float32) for name, value in answer.items()}
    tensors = {name: tf.constant(value) for name, value in answer.items()}
    names = instances.read_label_map(mask_rcnn_hub.LABELS)
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"]))
    # A drawn pet with the noise of a camera: compresses no better than a photo does.
    picture = cv2.resize(synthetic.draw(0, image_size=512)[0], (width, height)).astype(np.int16)
    picture += rng.integers(-6, 7, picture.shape, dtype=np.int16)
    cv2.imwrite(folder / "photo.jpg", picture.clip(0, 255).astype(np.uint8))
    del picture
    before = baseline()

    def turn():
        if is_plain:
            plain.detect_and_save(answer, folder / "photo.jpg", folder / "plain.png")
        else:
            photo = photos.read(folder / "photo.jpg")
            found = mask_rcnn_hub.detect(lambda _: tensors, photo, names, mask_rcnn_hub.MIN_SCORE, DETECTIONS)
            mask_rcnn_hub.save(folder, "photo", photo, found)
            instances.coco_results((height, width), found, 1, "photo.jpg")
        return 1

    return turn, before, None


def start_up(is_plain) -> float:
    """Seconds from the command to the end of the first training step, on 16 drawn pets."""
    own = [ROOT / "recipes" / "unet_scratch.py", "--data", "synthetic", "--image-size", 128, "--limit", 16]
    own += ["--epochs", 1, "--output", os.environ["BENCHMARK_FOLDER"]]
    command = [ROOT / "tests" / "plain.py", ROOT / "recipes"] if is_plain else own
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE) as process:
        seen = b""
        while b"1/1" not in seen:
            some = os.read(process.stdout.fileno(), 4096)
            assert some, seen.decode()
            seen += some
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


LINES = [("pipeline", f"input pipeline, {PIPELINE_IMAGES} images, 256 px", pipeline, (256,))]
LINES += [
    ("step", f"training step, {recipe}, {size} px, batch {batch}", step, (recipe, size, batch))
    for recipe in RECIPES
    for size, batch in SIZES.items()
]
LINES += [
    ("inference", "inference, unet_mobilenetv2, 192 px, one photo", inference, (1,)),
    ("inference", "inference, unet_mobilenetv2, 192 px, batch 8", inference, (8,)),
]
LINES += [("mask", f"around Mask R-CNN, {width} x {height}", mask_rcnn, (width, height)) for width, height in PHOTOS]
FORMAT = "{:<50}{:>10}{:>10}{:>9}{:>8}{:>8}{:>9}{:>17}"


def main() -> None:
    only = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCHMARK_FOLDER"] = folder
        rates, _, _, ratio = side_by_side(matrix, 2048)  # seconds for an operation
        ours, plain = (f"{1e-9 / seconds:.0f}" for seconds in rates)
        print(f"matrix product: {ours} billion operations a second, in float32 {plain}, {ratio:.2f} x\n")
        head = ("", "images/s", "plain", "faster", "MB", "plain", "memory", "of the floor")
        print(FORMAT.format(*head), flush=True)
        for kind, title, set_up, arguments in LINES:
            if only and kind not in only:
                continue
            (ours, plain), (peak, plain_peak), work, ratio = side_by_side(set_up, *arguments)
            floor = f"{work * rates[0] / ours:.0%}, plain {work * rates[1] / plain:.0%}" if work else ""
            figures = (f"{1 / ours:.2f}", f"{1 / plain:.2f}", f"{ratio:.2f} x")
            figures += (f"{peak:.0f}", f"{plain_peak:.0f}", f"{peak / plain_peak:.2f} x")
            print(FORMAT.format(title, *figures, floor), flush=True)
        if not only or "start" in only:
            turns = [(start_up(False), start_up(True)) for _ in range(2)]
            ours, plain = (statistics.median(column) for column in zip(*turns, strict=True))
            print(f"\nstart until the first step, unet_scratch, 128 px: {ours:.1f} s, plain {plain:.1f} s")


if __name__ == "__main__":
    main()
