"""The training of a detector, from its command line to its report."""

import argparse
import functools
import math
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from app import checkpoint, cli, device, encoders, files, flags
from app.datasets import Scene, check, empty_scene, load, pets, synthetic
from app.detect import detector, export, instances, label_map, network, precision, report, scenes
from app.report import versions, write_history

import numpy as np
import tensorflow as tf
import tf_keras
from tqdm import tqdm

SIZE_STEP = 64  # the stride of the coarsest level
NOTHING = 0.2  # of the scenes begin without an instance
DRAWN = 0.3  # of these: a drawn background, the others a photo whose instances are filled in
LOSSES = ("rpn_score_loss", "rpn_box_loss", "frcnn_cls_loss", "frcnn_box_loss", "mask_loss")  # parts of the total
SCORE = "val_mask_ap"  # chooses the best epoch
MIN_SCORE = 0.01  # of a detection that is scored
MAX_DETECTIONS = 100  # in a photo; the network may give fewer
CACHE = 2e9  # bytes of photos that are kept in memory


def start(recipe: str, doc: str, *, image_size: int, epochs: int, batch_size: int, learning_rate: float) -> "Run":
    """Reads the command line and the data, and prints the line that says what is trained on what.

    With --check-data it only reports what the data folder holds, and exits.

    Args:
      recipe: its name, which names its files.
      doc: its docstring, shown by --help.
      image_size, epochs, batch_size, learning_rate: the recipe's defaults.
    Raises:
      InputError: for a wrong flag or unusable input.
    """
    args = _parse(recipe, doc, image_size, epochs, batch_size, learning_rate)
    if args.check_data:
        check.print_findings(pathlib.Path(args.data), for_instances=True)
        sys.exit(0)
    gpus = device.start(runs_on_jax=False)  # before anything else uses them
    tf_keras.utils.set_random_seed(args.seed)
    encoder_weights = encoders.weights_file(encoders.MOBILENETV2, args.backbone_weights)
    dataset = load.load(args.data, seed=args.seed, limit=args.limit, data_dir=args.data_dir, for_instances=True)
    splits = {split: load.scenes(dataset, split) for split in dataset.splits}
    counts = {split: len(part) for split, part in splits.items()}
    source = SimpleNamespace(
        categories=dataset.categories, most_instances=dataset.max_instances, counts=counts, **splits
    )
    listed = ", ".join(f"{count} {split}" for split, count in source.counts.items())
    print(f"{recipe} | {args.data}, {args.image_size} px: {listed} | {device.description(gpus)}", flush=True)
    return Run(recipe, {"recipe": recipe, **vars(args)}, source, encoder_weights, device.description(gpus))


class Run:
    """A training of a detector.

    Attributes:
      image_size, epochs, batch_size, learning_rate: the flags.
      source: the data.
      encoder_weights: the file of the encoder's pretrained weights, or None.
      steps_per_epoch: batches in an epoch, which has as many scenes as there are photos.
    """

    def __init__(
        self,
        recipe: str,
        config: dict[str, Any],
        source: SimpleNamespace,
        encoder_weights: pathlib.Path | None,
        device_name: str,
    ):
        self.recipe, self.config, self.source = recipe, config, source
        self.encoder_weights, self.device = encoder_weights, device_name
        self.image_size, self.batch_size = config["image_size"], config["batch_size"]
        self.epochs, self.learning_rate = config["epochs"], config["learning_rate"]
        self.output, self.model_path = config["output"], config["model"]
        self.steps_per_epoch = max(1, len(source.train) // self.batch_size)
        # At the size of the network; three bytes a pixel, and one for each mask.
        photos = int(CACHE / (self.image_size**2 * (3 + source.most_instances)))
        self._read = functools.lru_cache(maxsize=photos)(
            lambda index: scenes.prepare(source.train[index](), self.image_size)
        )
        self.rows, self.best, self.seconds = [], -math.inf, 0.0

    def draw(self, number: int) -> Scene:
        """The scene with this number, composed of training photos; it depends on the number and the seed alone."""
        rng = np.random.default_rng([self.config["seed"], number])
        base = self._draw_photo(rng)
        if rng.random() < NOTHING:
            is_drawn = rng.random() < DRAWN
            image = synthetic.draw_background(rng, self.image_size) if is_drawn else None
            base = empty_scene(image) if is_drawn else scenes.erase(rng, base)
        return scenes.compose(rng, base, self._draw_photo, self.image_size)

    def _draw_photo(self, rng: np.random.Generator) -> Scene:
        return self._read(int(rng.integers(len(self.source.train))))

    def fit(self, model: tf_keras.Model, step: Callable, optimizer: tf_keras.optimizers.Optimizer) -> None:
        """Trains; after each epoch it scores the averaged weights, and saves history, best model and state.

        Args:
          model: the network; see network.py.
          step: takes a step on a batch, and returns the losses.
          optimizer: averages the weights (use_ema).
        """
        lock, settings = checkpoint.Lock(self.output), self._settings()
        was_interrupted = lock.acquire()
        if self.config["resume"] and not was_interrupted and (self.output / "metrics.json").exists():
            lock.release()
            print(f"the run in {files.shown(self.output)} is finished; there is nothing to resume")
            sys.exit(0)
        files.remove_leftovers(self.output)
        optimizer.build(model.trainable_variables)
        keep = SimpleNamespace(variables=model.variables, optimizer=SimpleNamespace(variables=optimizer.variables))
        self._resume(keep, settings)
        self.lock = lock
        detect_all = export.detector(model, self.image_size, self.category_ids)
        detect = self._detector(lambda photo: detect_all(tf.constant(photo[np.newaxis])))
        first = len(self.rows) * self.steps_per_epoch * self.batch_size
        most = self.source.most_instances + scenes.MOST_PASTED
        batches = iter(network.batches(self.draw, first, self.image_size, self.batch_size, most))
        while len(self.rows) < self.epochs:
            began, losses = time.perf_counter(), []
            bar = tqdm(range(self.steps_per_epoch), unit="step", disable=None, leave=False, file=sys.stdout)
            for _ in bar:
                losses.append({name: float(value) for name, value in step(*next(batches)).items()})
                if not math.isfinite(losses[-1]["total_loss"]):
                    raise cli.InputError("the loss is not finite: start again with a smaller --learning-rate")
            row = {"loss": np.mean([loss["total_loss"] for loss in losses])}
            row |= {name: np.mean([loss[name] for loss in losses]) for name in LOSSES}
            own = [variable.numpy() for variable in model.trainable_variables]
            optimizer.finalize_variable_values(model.trainable_variables)  # the averages
            scores = precision.average_precision(self.source.validation, self.category_ids, detect)
            row |= {f"val_{name}": value for name, value in scores.items()}
            self.rows.append({"epoch": len(self.rows) + 1, **{name: float(value) for name, value in row.items()}})
            if row[SCORE] >= self.best:
                self.best = float(row[SCORE])
                self._export(detect_all)
            checkpoint.assign(model.trainable_variables, own)
            self.seconds += time.perf_counter() - began
            self._save(keep, settings)
            shown = ", ".join(f"{name} {self.rows[-1][name]:.3f}" for name in ("loss", "val_box_ap", "val_mask_ap"))
            print(f"epoch {len(self.rows)}/{self.epochs}: {time.perf_counter() - began:.0f} s, {shown}", flush=True)

    @property
    def category_ids(self) -> list[int]:
        return list(self.source.categories)

    def _settings(self) -> dict[str, Any]:
        facts = {"images": self.source.counts, "classes": self.source.categories}
        return {name: self.config[name] for name in checkpoint.FLAGS if name in self.config} | facts

    def _resume(self, keep: SimpleNamespace, settings: dict[str, Any]) -> None:
        if not self.config["resume"]:
            checkpoint.remove(self.output)
            return
        interrupted = checkpoint.last(self.output)
        if interrupted:
            checkpoint.check(interrupted.facts["about"], settings)
            facts = interrupted.facts
            self.rows, self.best, self.seconds = facts["rows"], facts["best"], facts["seconds"]
            if not (self.model_path / "saved_model.pb").exists():
                self.best = -math.inf  # it was deleted: that of the next epoch is the best
            checkpoint.assign(keep.variables, interrupted.model)
            checkpoint.assign(keep.optimizer.variables, interrupted.optimizer)
        done = len(self.rows)
        print(f"resuming after epoch {done}" if done else "no epoch is finished yet; starting", flush=True)

    def _save(self, keep: SimpleNamespace, settings: dict[str, Any]) -> None:
        (self.output / "metrics.json").unlink(missing_ok=True)  # of an earlier run
        write_history(self.output / "history.csv", self.rows)
        facts = {"about": settings, "rows": self.rows, "best": self.best, "seconds": self.seconds}
        checkpoint.save(self.output, keep, facts)

    def _export(self, detect_all: Callable) -> None:
        """Writes the SavedModel and its label map."""
        files.remove_leftovers(self.model_path)
        with tempfile.TemporaryDirectory() as temporary:
            new = pathlib.Path(temporary)
            export.save(detect_all, new)
            label_map.write(new / label_map.NAME, self.source.categories)
            order = {label_map.NAME: 0, "saved_model.pb": 2}  # first what marks the folder, last the weights
            parts = [path for path in new.rglob("*") if path.is_file()]
            for path in sorted(parts, key=lambda path: order.get(path.name, 1)):
                with files.replacing(self.model_path / path.relative_to(new)) as copy:
                    shutil.copyfile(path, copy)

    def _detector(self, detect_all: Callable) -> Callable[[np.ndarray], list[instances.Instance]]:
        names = self.source.categories
        return lambda photo: detector.detect(detect_all, photo, names, MIN_SCORE, MAX_DETECTIONS)

    def report(self) -> None:
        """Scores the best model on the test split, writes metrics.json and the pictures, and prints a table."""
        try:
            best = detector.from_saved_model((str(self.model_path),))
        except cli.InputError as error:
            raise cli.InputError(f"{error}; deleted or damaged before it could be scored; train again") from error
        detect = self._detector(best)
        scores = precision.average_precision(self.source.test, self.category_ids, detect)
        metrics = {
            "recipe": self.recipe,
            "test": {"images": len(self.source.test), **scores},
            "train": {"images": len(self.source.train), "epochs": len(self.rows), "seconds": round(self.seconds, 1)},
            "device": self.device,
            "config": self.config,
            "versions": versions(tf, tf_keras, np),
        }
        files.write_json(self.output / "metrics.json", metrics)
        pictures = report.pictures(self.output, self.source, detect)
        self.lock.release()
        checkpoint.remove(self.output)
        report.print_table(metrics["test"], self.model_path, pictures)


def _parse(
    recipe: str, doc: str, image_size: int, epochs: int, batch_size: int, learning_rate: float
) -> argparse.Namespace:
    """Reads the command line; adds `model`, the folder of the SavedModel."""
    parser = cli.Parser(doc)
    add = parser.add_argument
    add("--data", default=pets.NAME, metavar="D", help=f"{pets.NAME} (default), or a folder with COCO annotations")
    text = f"pixels a side (default {image_size})"
    add("--image-size", type=flags.image_size(SIZE_STEP), default=image_size, metavar="N", help=text)
    flags.add_common(parser, recipe, epochs, batch_size)
    add("--backbone-weights", default="imagenet", metavar="W", help=flags.BACKBONE_WEIGHTS)
    rate = cli.positive(float)
    add("--learning-rate", type=rate, default=learning_rate, metavar="X", help=f"default {learning_rate}")
    args = parser.parse_args()
    flags.place(args, recipe)
    if args.model.exists() and not (args.model / label_map.NAME).exists():
        raise cli.InputError(f"--output: {args.model} is there already, and no model; name another folder")
    if not args.check_data:
        files.check_writable(args.output, "--output")
        files.check_writable(args.model.parent, "weights folder")
    return args
