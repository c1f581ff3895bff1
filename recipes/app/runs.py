"""A run: one training, from its command line to its report."""

import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

from app import backend, checkpoint, device, encoders, files, flags, processes, recorder, report, transfer
from app.datasets import check, load
from app.predict import predict
from common.data import Data

import keras
import matplotlib
import numpy as np
import tensorflow as tf


def start(
    recipe: str,
    doc: str,
    build_model: Callable[..., keras.Model],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    frozen_epochs: int | None = None,
    encoder: Callable[..., keras.Model] | None = None,
) -> "Run":
    """Reads the command line and prepares the training; with --check-data or --predict does that, and exits.

    Args:
      recipe: its name, which names its files.
      doc: its docstring, shown by --help.
      build_model: called with an image size and a number of classes.
      epochs, batch_size, learning_rate, frozen_epochs: the recipe's defaults.
      encoder: the pretrained part, if there is one.
    Raises:
      InputError: for a wrong flag or unusable input.
    """
    args = flags.parse(
        recipe,
        doc,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        frozen_epochs=frozen_epochs,
        has_encoder=encoder is not None,
    )
    device.check_backend()
    if args.check_data:
        check.print_findings(pathlib.Path(args.data))
        sys.exit(0)
    if args.predict:
        own = {"weights": args.weights, "shard": args.shard, "resume": args.resume}
        sys.exit(predict.run(recipe, build_model, args.predict, args.output, **own))
    team = processes.join()
    gpus = device.start(uses_all=True)  # before anything else uses them
    if not gpus:
        device.save_memory()
    if not (team.is_first and sys.stdout.isatty()):
        keras.utils.disable_interactive_logging()  # no progress bars in a log; the recorder prints its epochs there
    config = {"recipe": recipe, **vars(args)}
    team.agree({name: config[name] for name in ("recipe", "resume", *checkpoint.FLAGS) if name in config})
    backend.distribute(args.batch_size)
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy(device.best_precision(gpus) if args.precision == "auto" else args.precision)
    weights = encoders.weights_file(encoder, args.backbone_weights) if encoder else None
    trained = transfer.load(recipe, args.weights, build_model, args.image_size) if args.weights else None
    return Run(recipe, config, device.description(gpus), team, weights, trained, has_gpu=bool(gpus))


class Run:
    """A training as the command line describes it.

    Attributes:
      image_size, epochs, batch_size, learning_rate: the flags.
      frozen_epochs: how many of the epochs have the encoder frozen; none if it starts random, or, once the data is
        loaded, if nothing is new.
      encoder_weights: the file of the encoder's pretrained weights, or None.
      has_trained_encoder: whether the encoder starts from such a file, or the whole network from --weights.
      recorder: the callback for `fit`, once the data is loaded.
    """

    def __init__(
        self,
        recipe: str,
        config: dict[str, Any],
        device_name: str,
        team: processes.Processes,
        encoder_weights: pathlib.Path | None = None,
        trained: transfer.Trained | None = None,
        has_gpu: bool = False,
    ):
        """`config` is what metrics.json records: each flag, and "model", the path of the trained model."""
        self.recipe, self.config, self.team = recipe, config, team
        self.encoder_weights, self.trained = encoder_weights, trained
        self.has_trained_encoder = bool(encoder_weights or trained)
        self.image_size, self.batch_size = config["image_size"], config["batch_size"]
        self.epochs, self.learning_rate = config["epochs"], config["learning_rate"]
        self.frozen_epochs = min(config.get("frozen_epochs", 0), self.epochs) if self.has_trained_encoder else 0
        self.data, self.output, self.model_path = config["data"], config["output"], config["model"]
        self.has_gpu = has_gpu
        process = f" | process {team.number + 1} of {team.count}" if team.count > 1 else ""
        self.device = f"{device_name} | {keras.config.dtype_policy().name}{process}"
        self.class_names = self.recorder = self.lock = None

    @property
    def first_epoch(self) -> int:
        """The first unfinished epoch, from 0."""
        return self.recorder.finished_epochs

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        return [self.recorder]

    def load_data(self) -> Data:
        """Loads the data, prints the line that says what is trained on what, and begins or resumes the run.

        The training batches are those from the first unfinished epoch on.

        Raises:
          InputError: if the data cannot be used, another run is writing to the output folder, or the run to resume had
            other settings.
        """
        options = {name: self.config[name] for name in ("seed", "limit", "data_dir")}
        data = load.load_data(self.data, self.image_size, self.batch_size, **options)
        counts = ", ".join(f"{count} {split}" for split, count in data.counts.items())
        self.class_names, start = data.class_names, ""
        if self.trained:
            start = f" | {self.trained.summary(data.class_names)}"
            if self.trained.is_for(data.class_names):
                self.frozen_epochs = 0  # the encoder has been trained with this decoder already
        print(f"{self.recipe} | {self.data}, {self.image_size} px: {counts}{start} | {self.device}", flush=True)
        settings = {name: self.config[name] for name in checkpoint.FLAGS if name in self.config}
        settings |= {"precision": keras.config.dtype_policy().name, checkpoint.BACKEND: keras.config.backend()}
        settings |= {"images": data.counts, "classes": list(data.class_names)}
        self.recorder, self.lock = recorder.begin(
            self.output, self.model_path, data.class_names, settings, self.team, self.config["resume"]
        )
        fed = backend.feed(data, self.batch_size, self.team)
        return fed._replace(train_from=lambda step: fed.train_from(step + self.first_epoch * data.steps_per_epoch))

    def prepare(self, model: keras.Model) -> keras.Model:
        """The model to train: with the weights of --weights, if given, and as fast as it can be on this device."""
        if self.trained:
            self.trained.copy_to(model, self.class_names)
        return backend.prepare(model, self.has_gpu)

    def report(self, data: Data) -> None:
        """Scores the best model on the test split, writes metrics.json and the pictures, and prints a table."""
        self.team.end()
        if not self.team.is_first:
            return
        with backend.undistributed():
            test, examples = report.score(self.model_path, data, self.batch_size)
        done = self.recorder
        trained = self.batch_size * data.steps_per_epoch * done.finished_epochs
        metrics = {
            "recipe": self.recipe,
            "test": test,
            "train": {
                "images": data.counts["train"],
                "epochs": done.finished_epochs,
                "seconds": round(done.seconds, 1),  # of `fit`, with the validation after each epoch
                "images_per_second": round(trained / done.training_seconds, 2),  # of the training steps alone
            },
            "device": self.device,
            "config": self.config,
            "versions": report.versions(tf, keras, np, matplotlib) | {checkpoint.BACKEND: keras.config.backend()},
        }
        files.write_json(self.output / "metrics.json", metrics)
        pictures = report.mosaics(self.output, examples, data.class_names, f"{self.recipe} on {self.data}")
        pictures += report.curves(self.output)
        if self.output.parent == files.ROOT / "output":
            pictures += report.comparison(self.output.parent)
        self.lock.release()
        checkpoint.remove(self.output)
        report.print_table(metrics, self.model_path, self._predict_command(), pictures)

    def _predict_command(self) -> str:
        """The command that uses the trained model."""
        command = ["python", os.path.relpath(sys.argv[0]), "--predict", "PHOTO"]
        if self.model_path != files.ROOT / "weights" / f"{self.recipe}.keras":
            command += ["--weights", str(files.shown(self.model_path))]
        return shlex.join(command)
