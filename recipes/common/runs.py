"""What surrounds the training in each recipe: device and precision, saved files, the words at start and end."""

import argparse
import csv
import functools
import json
import math
import os
import pathlib
import platform
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

from common import cpu_layers, masks, plots, scores, state, workers
from common.data import Data
from common.files import ROOT, InputError, in_one_line, remove_left_overs, replacing, shown, tell, write_text

import keras
import matplotlib
import numpy as np
import tensorflow as tf

MOSAIC_IMAGES = 64  # the first so many test images are the sample from which the mosaics choose
MOSAIC_ROWS = 4
CLASSES_FILE = "classes.json"


def start(main: Callable[[], int | None], advice: str = "the same command with --resume goes on from there") -> None:
    """Runs a recipe's main(), which gives the exit status; a mistake becomes one line on stderr.

    An InputError has the status 2, a file that cannot be read or written 1, Ctrl-C 130; `advice` says what then.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files can be anything
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a scheduler sends is as good as Ctrl-C
    try:
        sys.exit(main() or 0)
    except InputError as error:
        tell(str(error))
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that went away
        tell(f"{error.filename or 'a file'}: {in_one_line(error)}; what was finished before is still there")
        sys.exit(1)
    except KeyboardInterrupt:
        tell(f"stopped; what was finished is kept, {advice}")
        sys.stdout.flush()
        os._exit(130)  # at once: threads that read data might wait for the interpreter
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
    ):
        if "TF_CONFIG" not in os.environ:
            raise
        tell("another worker is gone; waiting for it to come back with --resume")
        sys.stdout.flush()
        time.sleep(2)
        command = [part for part in sys.orig_argv if part != "--resume"]
        os.execv(sys.executable, [*command, "--resume"])


class Device(NamedTuple):
    """Where the training happens. `description` is for people, `jit_compile` and `verbose` for Keras."""

    description: str
    jit_compile: bool
    verbose: str | int
    team: workers.Team

    def adapt(self, model: keras.Model) -> keras.Model:
        """The model to train here: on a CPU a copy with faster layers, for a team one that normalises whole batches.

        To be called within the scope of the team's strategy.
        """
        if not tf.config.list_physical_devices("GPU"):
            model = cpu_layers.swap_in(model)
        self.team.synchronize(model)
        return model


def prepare(args: argparse.Namespace) -> Device:
    """Finds the devices, seeds everything, and sets Keras' precision for the models built from here on.

    Raises:
      InputError: where the devices cannot share a batch.
    """
    gpus = gpu_details()  # before anything else uses them
    team = workers.assemble(args.batch_size)
    keras.utils.set_random_seed(args.seed)
    precision = _best_precision(gpus) if args.precision == "auto" else args.precision
    keras.config.set_dtype_policy(precision)
    others = f" | worker {team.worker + 1} of {team.workers}" if team.workers > 1 else ""
    # XLA makes a GPU faster, but on a CPU it does without oneDNN's convolutions and takes up to four times as long.
    description = f"{device_name(gpus)} | {precision}{others}"
    return Device(
        description, bool(gpus) and team.strategy.num_replicas_in_sync == 1, "auto" if team.is_chief else 0, team
    )


def gpu_details() -> list[dict]:
    """What TensorFlow knows of each GPU. It is told to take only the memory that it needs of them."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def device_name(gpus: list[dict]) -> str:
    return ", ".join(gpu.get("device_name", "GPU") for gpu in gpus) or f"CPU ({os.cpu_count()} cores)"


def _best_precision(gpus: list[dict]) -> str:
    """The fastest precision the device is good at. Weights and their updates stay float32 in all of them."""
    if gpus:
        tensor_cores = all(gpu.get("compute_capability", (0, 0)) >= (7, 0) for gpu in gpus)
        return "mixed_float16" if tensor_cores else "float32"
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return "mixed_bfloat16" if cpuinfo.exists() and "bf16" in cpuinfo.read_text() else "float32"


def announce(args: argparse.Namespace, data: Data, device: Device) -> None:
    """Prints the one line that says what is about to be trained on what."""
    counts = ", ".join(f"{count} {split}" for split, count in data.counts.items())
    print(f"{args.recipe} | {data.name}, {args.image_size} px: {counts} | {device.description}", flush=True)


class Recorder(keras.callbacks.Callback):
    """Keeps after each epoch what must not be lost: history.csv, the best model so far, and the state to go on from.

    The best is that with the highest mean IoU on validation. Its model is saved in float32 and without its optimizer: a
    third of the size, and it runs on any device.
    """

    def __init__(self, args: argparse.Namespace, data: Data, device: Device):
        """With --resume it begins where the last finished epoch of the interrupted run has left off.

        Raises:
          InputError: where that run had other flags, or another run is at work in the output folder.
        """
        super().__init__()
        self.args, self.data, self.device = args, data, device
        self.rows, self.best, self.seconds = [], -math.inf, 0.0  # over all calls of fit
        self.about = {name: vars(args)[name] for name in state.FLAGS if name in vars(args)}
        self.about |= {"precision": keras.config.dtype_policy().name}
        self.about |= {"images": data.counts, "classes": list(data.class_names)}
        self.lock, is_finished = None, False
        if device.team.is_chief:
            self.lock = state.Lock(args.output)
            is_finished = args.resume and not self.lock.was_interrupted and (args.output / "metrics.json").exists()
            remove_left_overs(args.output)
            remove_left_overs(args.model.parent)
            if not args.resume:
                state.remove(args.output)
        self.left = state.load(args.output) if args.resume else None
        if self.left:
            state.check(self.left.facts["about"], self.about)
            self.rows, self.best, self.seconds = (self.left.facts[name] for name in ("rows", "best", "seconds"))
            if not zipfile.is_zipfile(args.model):
                self.best = -math.inf  # the model is gone or damaged: the next epoch's is the best there is
        if device.team.agree({**self.about, "epoch": self.epoch}, is_finished):
            if self.lock:
                self.lock.release()
            print(f"the run in {shown(args.output)} is finished; there is nothing to go on with")
            sys.exit(0)
        if args.resume:
            print(
                f"going on after epoch {self.epoch}" if self.left else "no epoch is finished yet; starting", flush=True
            )

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.rows)

    def restore(self, model: keras.Model, first_epoch: int = 0) -> None:
        """Puts a model, compiled, where the interrupted run was. `first_epoch` is where its optimizer began."""
        if self.left:
            state.assign(model.variables, self.left.model)
            if self.epoch > first_epoch:
                model.optimizer.build(model.trainable_variables)
                state.assign(model.optimizer.variables, self.left.optimizer)
            self.left = None

    def train_data(self):
        """The training data from the next epoch on; of several workers each gets its part."""
        step = self.epoch * self.data.steps_per_epoch
        pipeline = functools.partial(self.data.train_from, step)
        return self.device.team.share(pipeline, self.args.batch_size)

    def on_train_begin(self, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}})
        now = time.perf_counter()
        self.seconds, self.began = self.seconds + now - self.began, now
        is_best = logs["val_mean_iou"] > self.best
        self.best = max(self.best, float(logs["val_mean_iou"]))
        if not self.device.team.is_chief:
            return
        with replacing(self.args.output / "history.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        if is_best:
            save_model(self.model, self.args.model, self.data.class_names)
        # The last, so that an epoch counts as finished only when all of it is written.
        facts = {"about": self.about, "rows": self.rows, "best": self.best, "seconds": self.seconds}
        state.save(self.args.output, self.model, facts)


def save_model(model: keras.Model, path: pathlib.Path, class_names: Sequence[str]) -> None:
    """Saves a model as float32, uncompiled, so that `keras.saving.load_model(path)` needs none of this code.

    A .keras file is a zip archive; the names of the classes are put into it too, as CLASSES_FILE.
    """
    portable = cpu_layers.swap_out(model)
    with replacing(path) as temporary:
        portable.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(CLASSES_FILE, json.dumps(list(class_names)))


def finish(args: argparse.Namespace, data: Data, recorder: Recorder) -> None:
    """Scores the saved model on the test split, writes every file of the run, and prints the closing table."""
    if not recorder.device.team.is_chief:
        return
    try:
        model = keras.saving.load_model(args.model)
    except ValueError as error:
        raise InputError(f"{args.model}: it went away or was damaged before it could be scored; train again") from error
    matrix, examples = _test(model, data)
    test = {"images": data.counts["test"], **scores.report(matrix, data.class_names)}
    epochs = len(recorder.rows)
    metrics = {
        "recipe": args.recipe,
        "test": test,
        "train": {
            "images": data.counts["train"],
            "epochs": epochs,
            "seconds": round(recorder.seconds, 1),  # of fit, validation after each epoch included
            "images_per_second": round(data.counts["train"] * epochs / recorder.seconds, 2),
        },
        "device": recorder.device.description,
        "config": {
            name: str(value) if isinstance(value, pathlib.Path) else value for name, value in vars(args).items()
        },
        "versions": {
            "python": platform.python_version(),
            **{library.__name__: library.__version__ for library in (tf, keras, np, matplotlib)},
        },
    }
    write_text(args.output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    pictures = _mosaics(args, data, examples) + plots.curves(args.output)
    if args.output.parent == ROOT / "output":
        pictures += plots.comparison(args.output.parent)
    recorder.lock.release()
    state.remove(args.output)
    _print_table(metrics, pictures, args.model)


def _test(model: keras.Model, data: Data) -> tuple[np.ndarray, list[masks.Example]]:
    """Runs the model over the test split once: its confusion matrix, and the first MOSAIC_IMAGES as examples."""
    num_classes = len(data.class_names)
    metric, examples = scores.MeanIoU(num_classes), []
    predict = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    progress = keras.utils.Progbar(int(data.test.cardinality()), unit_name="test batch")
    for images, labels in data.test:
        logits = predict(images)
        metric.update_state(labels, logits)
        if len(examples) < MOSAIC_IMAGES:
            predictions = np.argmax(logits, axis=-1).astype(np.uint8)
            for image, label, prediction in zip(images.numpy(), labels.numpy(), predictions, strict=True):
                matrix = scores.confusion_matrix(label, prediction, num_classes)
                iou = scores.report(matrix, data.class_names)["mean_iou"]
                if iou is not None:  # not all of it is ignored
                    examples.append(masks.Example(image, label, prediction, iou))
        progress.add(1)
    return np.array(metric.matrix), examples[:MOSAIC_IMAGES]


def _mosaics(args: argparse.Namespace, data: Data, examples: list[masks.Example]) -> list[pathlib.Path]:
    """Saves mosaics of the best, the median and the worst examples."""
    if not examples:
        return []
    ranked = sorted(examples, key=lambda example: -example.iou)
    rows = min(MOSAIC_ROWS, len(ranked))
    middle = (len(ranked) - rows) // 2
    chosen = {"best": ranked[:rows], "median": ranked[middle : middle + rows], "worst": ranked[-rows:]}
    paths = []
    for rank, rank_examples in chosen.items():
        paths.append(args.output / f"mosaic_{rank}.png")
        title = f"{args.recipe} on {data.name}: {rank} of {len(ranked)} test images"
        masks.mosaic(paths[-1], rank_examples, data.class_names, title)
    return paths


def _print_table(metrics: dict, pictures: list[pathlib.Path], weights: pathlib.Path) -> None:
    test, train = metrics["test"], metrics["train"]
    fraction = lambda value: "-" if value is None else f"{value:.3f}"  # noqa: E731
    mean = {key: np.mean([value for value in test[key].values() if value is not None]) for key in ("iou", "dice")}
    print(f"\n{'test, ' + str(test['images']) + ' images':<22}{'IoU':>8}{'Dice':>8}")
    for name in test["iou"]:
        print(f"{name:<22}{fraction(test['iou'][name]):>8}{fraction(test['dice'][name]):>8}")
    print(f"{'mean':<22}{fraction(mean['iou']):>8}{fraction(mean['dice']):>8}")
    print(f"{'pixel accuracy':<22}{fraction(test['pixel_accuracy']):>8}")
    if "pet_iou_binary" in test:
        print(f"{'pet IoU with border':<22}{fraction(test['pet_iou_binary']):>8}")
    print(
        f"{'training':<22}{train['epochs']} epochs, {train['seconds']:.0f} s, {train['images_per_second']:.1f} images/s"
    )
    print(f"{'model':<22}{shown(weights)}")
    for number, picture in enumerate(pictures):
        print(f"{'open these' if number == 0 else '':<22}{shown(picture)}")
