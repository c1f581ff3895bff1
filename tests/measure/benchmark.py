"""Speed and memory of the recipes against the plain way (plain.py): `make bench`.

    python tests/measure/benchmark.py [pipeline] [step] [inference] [predict] [mask] [start]    some lines, or all
    python tests/measure/benchmark.py step --precision float32

The plain way is float32, TensorFlow's default settings, all layers trained, augmentation before a float32 cache, Keras'
RMSprop, `model.predict`, one photo after the other, written by Pillow; around Mask R-CNN it pastes every mask over the
whole photo and draws it with matplotlib. Its pipeline returns the same pixels again and again, which is why it is
faster. Ours trains in the fastest precision of the machine, or in the one that --precision names.

Each way of a line runs in a process of its own. They alternate for up to seven turns, so that noise on the machine
disturbs both alike; the waiting process is stopped. "Faster" is the median over the turns. MB is the peak memory of a
process above its imports; for --predict and around Mask R-CNN above what stays loaded after a first photo; for the
start its total. With small photos both ways of --predict need less than 100 MB, so their ratio varies between runs. The
results go to output/benchmark/, into the file of the precision, where they replace those of the same lines. Needs
Linux, and 9 GB for the plain way with the largest photo. GPUs are not measured here, but by gpu.py.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "recipes"), str(ROOT / "tests" / "measure")]
OUTPUT = ROOT / "output" / "benchmark"
RECIPES = ("unet_scratch", "fcn_vgg16", "unet_mobilenetv2")
SIZES = {128: 16, 256: 8}  # pixels a side: images in a batch
PIPELINE_IMAGES = 3312
PHOTOS = ((640, 427), (4000, 3000))  # width, height
PREDICTED = {False: 24, True: 3}  # photos in a turn, ours and the plain way's
DETECTIONS = 100
ABOVE_THRESHOLD = 20  # of them
LATEST = (30, 30, 5, 5, 5, 5, 5)  # seconds; a turn that would begin later is skipped: long turns vary little
STARTS = 2


class Measured(NamedTuple):
    """One way's results."""

    seconds: list[float]  # per image, of each turn
    peak: float  # memory in MB


def memory(field: str, process="self") -> float:
    """VmRSS (now) or VmHWM (the peak) of a process, MB."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def baseline() -> float:
    """Resets the peak memory of this process; returns the current, MB."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def serve(pipe, is_plain: bool, set_up: Callable, arguments: tuple) -> None:
    """Runs in a process: sets up, takes a turn on each request, and finally reports its memory.

    `set_up` returns a function that runs once and returns the number of its images, and the memory before it in MB.
    """
    import app  # noqa: F401

    if is_plain:
        os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)  # TensorFlow's default
    turn, before = set_up(is_plain, *arguments)
    pipe.send("ready")
    while pipe.recv() == "turn":
        began = time.perf_counter()
        count = turn()
        pipe.send((time.perf_counter() - began) / count)
    pipe.send(memory("VmHWM") - before)


def side_by_side(set_up: Callable, *arguments) -> list[Measured]:
    """Measures ours and the plain way."""
    context = multiprocessing.get_context("spawn")
    processes = []
    pipes = []
    try:
        for is_plain in (False, True):
            pipe, other = context.Pipe()
            process = context.Process(target=serve, args=(other, is_plain, set_up, arguments), daemon=True)
            process.start()
            other.close()
            processes.append(process)
            pipes.append(pipe)
        for pipe in pipes:
            pipe.recv()  # "ready"
        for process in processes:  # a waiting process would fill its buffers while the other is measured
            os.kill(process.pid, signal.SIGSTOP)
        seconds = [[], []]
        began = time.perf_counter()
        for turn, latest in enumerate(LATEST):
            if time.perf_counter() - began > latest:
                break
            for way in (0, 1) if turn % 2 == 0 else (1, 0):
                os.kill(processes[way].pid, signal.SIGCONT)
                pipes[way].send("turn")
                seconds[way].append(pipes[way].recv())
                os.kill(processes[way].pid, signal.SIGSTOP)
        for process, pipe in zip(processes, pipes, strict=True):
            os.kill(process.pid, signal.SIGCONT)
            pipe.send("end")
        return [Measured(*way) for way in zip(seconds, [pipe.recv() for pipe in pipes], strict=True)]
    finally:
        for process in processes:  # a stopped process cannot exit
            process.kill()
            process.join()


def pipeline(is_plain, size):
    """Training batches from as many photos as the training split of Oxford-IIIT Pet."""
    from app.datasets import synthetic
    from common import data

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
        decoded = examples.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        few = decoded.take(1)
        sizes = {"image_size": size, "batch_size": plain.BATCH_SIZE}
        batches = data.from_datasets(decoded, few, few, ("pet", "background", "border"), **sizes).train
    iterator = iter(batches)

    def turn(steps=100):
        for _ in range(steps):
            next(iterator)
        return steps * plain.BATCH_SIZE

    turn(steps=PIPELINE_IMAGES // plain.BATCH_SIZE)  # the plain way fills its cache in its first epoch
    return turn, before


def step(is_plain, recipe, size, batch_size):
    """A training step by `train_on_batch`: forward, backward, update, metrics; ours adds Dice and mean IoU."""
    from app import backend, device
    from common import losses, scores

    import keras
    import numpy as np
    import plain

    if not is_plain:
        device.save_memory()
    before = baseline()
    keras.utils.set_random_seed(0)
    precision = "float32" if is_plain else os.environ["BENCHMARK_PRECISION"]
    keras.config.set_dtype_policy(device.best_precision([]) if precision == "auto" else precision)
    if is_plain:
        model = importlib.import_module(recipe).build_model(size, 3)
        plain.compile_model(model)
    else:
        model = backend.prepare(build(recipe, size), has_gpu=False)
        model.compile(
            keras.optimizers.Adam(losses.warm_up_and_cosine(1e-3, 1000)),
            losses.CrossEntropyAndDice(),
            metrics=scores.metrics(3),
        )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, size, size, 3)).astype(np.uint8)
    labels = rng.integers(0, 3, (batch_size, size, size)).astype(np.uint8)

    def turn():
        model.train_on_batch(images, labels)
        return batch_size

    turn()  # traces
    return turn, before


def build(recipe: str, size: int):
    """A recipe's model, with the layers frozen that it does not train."""
    module = importlib.import_module(recipe)
    model = module.build_model(size, 3)
    if hasattr(module, "freeze_first_blocks"):
        module.freeze_first_blocks(model)
    return model


def operations(model) -> int:
    """Multiplications and additions of a training step per image, in its convolutions.

    The forward pass uses each weight once per kernel position. The backward pass uses it once for its own gradient,
    unless it is frozen, and once for the input's, unless no earlier layer is trained.
    """
    import numpy as np
    from keras import layers

    total = 0
    trained_before = False
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.Conv2DTranspose, layers.DepthwiseConv2D)):
            smaller = layer.input if isinstance(layer, layers.Conv2DTranspose) else layer.output
            forward = 2 * int(np.prod(layer.kernel.shape)) * smaller.shape[1] * smaller.shape[2]
            total += forward * (1 + layer.trainable + trained_before)
            trained_before |= layer.trainable
    return total


def inference(is_plain, batch_size):
    """Class probabilities of 224 px photos with the shipped weights."""
    from app import files
    from app.predict import network

    import keras
    import numpy as np
    import unet_mobilenetv2

    before = baseline()
    size = 224
    weights = files.shipped("unet_mobilenetv2")
    if is_plain:
        model = unet_mobilenetv2.build_model(size, 3)
        model.load_weights(weights)
    else:
        trained = network.from_weights("unet_mobilenetv2", unet_mobilenetv2.build_model, weights)
        assert trained.size == size
    photos = np.random.default_rng(0).uniform(0, 255, (batch_size, size, size, 3)).astype(np.float32)

    def turn():
        for _ in range(8 // batch_size):
            if is_plain:
                keras.ops.softmax(model.predict(photos, verbose=0)).numpy()
            else:
                trained.probabilities(photos)
        return 8

    turn()  # traces
    return turn, before


def draw(path, width, height):
    """Writes a drawn pet with camera noise, so that it compresses like a photo."""
    from app.datasets import synthetic

    import cv2
    import numpy as np

    picture = cv2.resize(synthetic.draw(0, image_size=512)[0], (width, height)).astype(np.int16)
    picture += np.random.default_rng(0).integers(-6, 7, picture.shape, dtype=np.int16)
    cv2.imwrite(path, picture.clip(0, 255).astype(np.uint8))


def predict_photos(is_plain, width, height):
    """From photos to files with the shipped weights: mask, overlay and cutout of each."""
    from app import files, inputs
    from app.predict import network, predict

    import plain
    import unet_mobilenetv2

    trained = network.from_weights("unet_mobilenetv2", unet_mobilenetv2.build_model, files.shipped("unet_mobilenetv2"))
    model = unet_mobilenetv2.build_model(trained.size, len(trained.class_names))
    model.load_weights(trained.file)
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"]))

    def turn(width=width):
        names = [folder / f"{width} px, {number}.jpg" for number in range(PREDICTED[is_plain])]
        if is_plain:
            for path in names:
                plain.segment_and_save(model, trained.class_names, path, folder)
        else:
            items = [inputs.Item(path, path.stem) for path in names]
            written = predict.write_photos(trained, items, folder / "output", inputs.Counts())
            assert sum(1 for _ in written) == len(names)
        return len(names)

    for number in range(PREDICTED[is_plain]):
        draw(folder / f"{width} px, {number}.jpg", width, height)
        draw(folder / f"64 px, {number}.jpg", 64, 64)
    turn(64)  # loads what each way needs
    before = baseline()
    return turn, before


def mask_rcnn(is_plain, width, height):
    """From photo to files, around a network with 100 detections, 20 of them above the threshold."""
    from app import photos
    from app.detect import detector, instances, label_map

    import cv2
    import mask_rcnn_hub
    import numpy as np
    import plain
    import tensorflow as tf

    rng = np.random.default_rng(0)
    begin = rng.uniform(0, 0.7, (DETECTIONS, 2))
    prediction = {
        "detection_boxes": np.hstack([begin, begin + rng.uniform(0.05, 0.3, (DETECTIONS, 2))])[np.newaxis],
        "detection_classes": rng.integers(1, 91, (1, DETECTIONS)),
        "detection_scores": np.where(np.arange(DETECTIONS) < ABOVE_THRESHOLD, 0.9, 0.1)[np.newaxis],
        "detection_masks": cv2.resize(rng.uniform(size=(DETECTIONS, 5, 5)).T, (33, 33)).T[np.newaxis],
        "num_detections": np.array([DETECTIONS]),
    }
    prediction = {name: value.astype(np.float32) for name, value in prediction.items()}
    tensors = {name: tf.constant(value) for name, value in prediction.items()}
    names = label_map.read(mask_rcnn_hub.LABELS)
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"]))

    def turn(name="photo.jpg"):
        if is_plain:
            plain.detect_and_save(prediction, folder / name, folder / "plain.png")
        else:
            photo = photos.read(folder / name)
            found = detector.detect(lambda _: tensors, photo, names, mask_rcnn_hub.MIN_SCORE, DETECTIONS)
            mask_rcnn_hub.save(folder, "photo", photo, found)
            instances.coco_results(photo.shape[:2], found, 1, name)
        return 1

    draw(folder / "photo.jpg", width, height)
    draw(folder / "small.jpg", 64, 64)
    turn("small.jpg")  # loads what each way needs
    before = baseline()
    return turn, before


def start_up() -> list[Measured]:
    """From the command to the line after an epoch of one step, on drawn pets. Memory includes the imports.

    Ours also validates, and saves the model and the state to resume from.
    """
    own = [ROOT / "recipes" / "unet_scratch.py", "--data", "synthetic", "--image-size", 128, "--limit", 16]
    own += ["--epochs", 1, "--output", os.environ["BENCHMARK_FOLDER"]]
    starts = {False: [], True: []}
    for _ in range(STARTS):
        starts[False].append(start_once(own))
        starts[True].append(start_once([ROOT / "tests" / "measure" / "plain.py"]))
    return [Measured([seconds for seconds, _ in way], max(peak for _, peak in way)) for way in starts.values()]


def start_once(command: list) -> tuple[float, float]:
    """Seconds until a program shows the end of its only epoch, "1/1", and its peak memory then in MB."""
    command = [sys.executable, *map(str, command)]
    began = time.perf_counter()
    seen = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while b"1/1" not in seen:
            some = os.read(process.stdout.fileno(), 4096)
            assert some, seen.decode()
            seen += some
        seconds = time.perf_counter() - began
        peak = memory("VmHWM", process.pid)
        process.kill()
    return seconds, peak


LINES = [("pipeline", f"input pipeline, {PIPELINE_IMAGES} images, 256 px", pipeline, (256,))]
LINES += [
    ("step", f"training step, {recipe}, {size} px, batch {batch}", step, (recipe, size, batch))
    for recipe in RECIPES
    for size, batch in SIZES.items()
]
LINES += [
    ("inference", "network alone, unet_mobilenetv2, 224 px, one photo", inference, (1,)),
    ("inference", "network alone, unet_mobilenetv2, 224 px, batch 8", inference, (8,)),
]
LINES += [("predict", f"--predict, {width} x {height}", predict_photos, (width, height)) for width, height in PHOTOS]
LINES += [("mask", f"around Mask R-CNN, {width} x {height}", mask_rcnn, (width, height)) for width, height in PHOTOS]
LINES += [("start", "start and one step, unet_scratch, 128 px", None, ())]
FORMAT = "{:<50}{:>10}{:>10}{:>8}{:>8}{:>8}{:>8}"
HEAD = ("", "images/s", "plain", "faster", "MB", "plain", "memory")


def compare(ours: Measured, plain: Measured) -> dict:
    """A line's results: the medians of both ways, ours first."""
    return {
        "seconds": [statistics.median(way.seconds) for way in (ours, plain)],
        "faster": statistics.median(b / a for a, b in zip(ours.seconds, plain.seconds, strict=True)),
        "peaks": [ours.peak, plain.peak],
    }


def row(title: str, line: dict, in_seconds: bool = False) -> str:
    """A line of the table that is printed."""
    speeds = [f"{seconds:.1f} s" if in_seconds else f"{1 / seconds:.4g}" for seconds in line["seconds"]]
    peaks = [f"{peak:.0f}" for peak in line["peaks"]]
    ratio = line["peaks"][0] / line["peaks"][1]
    return FORMAT.format(title, *speeds, f"{line['faster']:.2f} x", *peaks, f"{ratio:.2f} x")


def table(folder: pathlib.Path) -> str:
    """A Markdown table of the results in a folder, with the steps in float32 beside those in bfloat16."""
    results, in_float32 = (json.loads((folder / f"{name}.json").read_text()) for name in ("auto", "float32"))
    lines = ["| | speed | memory | speed in float32 | memory |", "|---" * 5 + "|"]
    for title in results:
        cells = []
        for measured in (results, in_float32):
            line = measured.get(title)
            cells += [f"{line['faster']:.2f}", f"{line['peaks'][0] / line['peaks'][1]:.2f}"] if line else ["", ""]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = dict.fromkeys(kind for kind, *_ in LINES)
    parser.add_argument("lines", nargs="*", help="of " + ", ".join(known))
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    parser.add_argument("--precision", choices=("auto", "float32"), default="auto", help="of our training steps")
    args = parser.parse_args()
    kinds = args.lines or list(known)
    if not known.keys() >= set(kinds):
        parser.error(f"{' '.join(kinds)}: there are {', '.join(known)}")
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "BENCHMARK_PRECISION": args.precision}
    began = time.perf_counter()
    path = args.output / f"{args.precision}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCHMARK_FOLDER"] = folder
        print(FORMAT.format(*HEAD), flush=True)
        for kind, title, set_up, arguments in LINES:
            if kind not in kinds:
                continue
            ours, plain = side_by_side(set_up, *arguments) if set_up else start_up()
            line = compare(ours, plain)
            print(row(title, line, in_seconds=not set_up), flush=True)
            results[title] = line
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
