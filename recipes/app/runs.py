"""A run: one training, from its command line to its report."""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from app import backend, checkpoint, device, encoders, files, flags, models, processes, report
from app.cli import InputError, listed
from app.datasets import Dataset, check, load
from app.predict import predict
from app.recorder import ProgressBars, Recorder
from common import losses
from common.data import Data

import keras
import matplotlib
import numpy as np
import tensorflow as tf

LEAST_STEPS = 400  # of a network's training; chosen by tests/measure/few_photos.py


def start(
    recipe: str,
    doc: str,
    build_model: Callable[..., keras.Model],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    encoder: Callable[..., keras.Model] | None = None,
    frozen_epochs: int | None = None,
) -> "Run":
    """Reads the command line and prepares the training; with --check-data or --predict does that, and exits.

    Args:
      recipe: its name, which names its files.
      doc: its docstring, shown by --help.
      build_model: called with an image size and a number of classes.
      epochs, batch_size, learning_rate: the recipe's defaults.
      encoder: builds the pretrained part, if there is one: a function of keras.applications.
      frozen_epochs: the default number of epochs that train with the encoder frozen; None without such a stage.
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
        check.print_findings(pathlib.Path(args.data), None if args.tiles else args.image_size)
        sys.exit(0)
    if args.predict:
        options = {"weights": args.weights, "shard": args.shard, "resume": args.resume}
        sys.exit(predict.run(recipe, build_model, args.predict, args.output, **options))
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
    precision = args.precision
    if precision == "auto":
        before, _ = checkpoint.read_state(args.output, {}, kinds=()) if args.resume else ({}, {})
        precision = before.get("settings", {}).get("precision") or device.best_precision(gpus)
    keras.config.set_dtype_policy(precision)
    encoder_weights = encoders.weights_file(encoder, args.backbone_weights) if encoder else None
    trained = models.load_as_start(recipe, args.weights, build_model, args.image_size) if args.weights else None
    length = {"default_epochs": epochs, "least_steps": LEAST_STEPS}
    return Run(config, gpus, **length, team=team, encoder_weights=encoder_weights, trained=trained)


class Run:
    """A training as the command line describes it.

    Args:
      config: what metrics.json records: the recipe, each flag, and "model", the path of the trained model.
      gpus: the devices, none for a CPU.
      default_epochs, least_steps: the epochs without the flag; more if these make fewer steps.
      score: the metric that chooses the best epoch; higher is better.
      team: the processes that train together.
      encoder_weights: the file of the encoder's pretrained weights.
      trained: the network to start from.
    Attributes:
      image_size, tiles, batch_size, learning_rate: the flags.
      epochs: how many there are; None until the data is loaded, without the flag.
      frozen_epochs: how many of the epochs have the encoder frozen; 0 if the encoder starts random, or if, once the
        data is loaded, the decoder turns out to be trained too.
      class_weights: of rare classes in the loss; None without one.
      has_trained_encoder: whether the encoder starts from pretrained weights, or the whole network from --weights.
      checkpoint: the finished epochs.
    """

    def __init__(
        self,
        config: dict[str, Any],
        gpus: Sequence[device.Gpu] = (),
        *,
        default_epochs: int = 1,
        least_steps: int = 1,
        score: str = "val_mean_iou",
        team: processes.Processes | None = None,
        encoder_weights: pathlib.Path | None = None,
        trained: models.Trained | None = None,
    ):
        self.config = config
        self.recipe = config["recipe"]
        self.data = config["data"]
        self.image_size = config["image_size"]
        self.tiles = config.get("tiles", False)
        self.epochs = config["epochs"]
        self.default_epochs = default_epochs
        self.least_steps = least_steps
        self.batch_size = config["batch_size"]
        self.learning_rate = config["learning_rate"]
        self.output = config["output"]
        self.model_path = config["model"]
        self.team = team or processes.Processes()
        self.gpus = gpus
        self.encoder_weights = encoder_weights
        self.trained = trained
        self.has_trained_encoder = bool(encoder_weights or trained)
        self.frozen_epochs = min(config.get("frozen_epochs", 0), self.epochs or sys.maxsize)
        if not self.has_trained_encoder:
            self.frozen_epochs = 0
        self.checkpoint = checkpoint.Checkpoint(self.output, self.model_path, score, self.team.is_first)
        self.class_names: tuple[str, ...] = ()
        self.class_weights: list[float] | None = None
        self.white: float | None = None  # of the data, see datasets.LabeledImage
        self.photos: dict[str, int] = {}  # of each split, if the images are tiles of them
        # What a resumed run must have in common with the interrupted one.
        self.settings = {name: config[name] for name in checkpoint.FLAGS if name in config}
        if self.epochs is None:
            del self.settings["epochs"]  # as many as before, if the data is the same
        if "precision" in config:  # not of a detector
            self.settings["precision"] = keras.config.dtype_policy().name
            self.settings[checkpoint.BACKEND] = keras.config.backend()

    @property
    def finished_epochs(self) -> int:
        """How many epochs are finished; `fit` continues with the next one."""
        return len(self.checkpoint.rows)

    @property
    def origin(self) -> dict[str, Any]:
        """What a saved model records about its data."""
        origin = {"data": flags.data_id(self.data), "white": self.white}
        return origin | {"tiles": True} if self.tiles else origin

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        recorder = Recorder(self.checkpoint, self.class_names, self.epochs, self.origin)
        return [recorder, ProgressBars(self.epochs)] if recorder.has_progress_bars else [recorder]

    @property
    def device(self) -> str:
        """Where and how it trains, in words."""
        parts = [device.description(self.gpus)]
        if "precision" in self.config:
            parts.append(keras.config.dtype_policy().name)
        if self.team.count > 1:
            parts.append(f"process {self.team.number + 1} of {self.team.count}")
        return " | ".join(parts)

    def load_data(self) -> Data:
        """Loads the data, prints the line that says what is trained on what, and begins or resumes the run.

        The training batches are those from the first unfinished epoch on.

        Raises:
          InputError: if the data cannot be used, there is no room for the photos, another run is writing to the output
            folder, or the run to resume had other settings.
        """
        try:
            dataset = self.load_dataset(tiles=self.tiles)
            data = load.pipelines(dataset, self.image_size, self.batch_size, self.config["seed"], self.tiles)
        except MemoryError as error:  # of neither memory nor disk
            raise InputError(f"--data {self.data}: {error}") from error
        self.class_names = data.class_names
        start = ""
        if self.trained:
            start = f" | {self.trained.summary(data.class_names)}"
            if self.trained.is_for(data.class_names):
                self.frozen_epochs = 0  # the encoder has been trained with this decoder already
        if self.tiles:
            self.photos = {split: len(part) for split, part in dataset.splits.items()}
        self.class_weights = losses.class_weights(dataset.pixels)
        self.begin(data.counts, data.steps_per_epoch, list(data.class_names), start)
        fed = backend.feed(data, self.batch_size, self.team)
        return fed._replace(train_from=lambda step: fed.train_from(step + self.finished_epochs * data.steps_per_epoch))

    def load_dataset(self, **options) -> Dataset:
        """Loads the data set that --data names, with the options of load.load; exits if the run is finished."""
        facts = {}
        self.settings["data"] = flags.data_id(self.data)  # so that DIR and its full path are the same
        if self.config["resume"]:
            if self.team.any(self.checkpoint.is_finished()):
                self._check_epochs()
                print(f"the run in {files.shown(self.output)} is finished; there is nothing to resume")
                sys.exit(0)
            facts, _ = checkpoint.read_state(self.output, self.settings, kinds=())
        named = {name: self.config[name] for name in ("seed", "limit", "data_dir")}
        dataset = load.load(self.data, image_size=self.image_size, findings=facts.get("findings"), **named, **options)
        self.checkpoint.findings = dataset.findings
        self.white = dataset.white
        return dataset

    def _check_epochs(self) -> None:
        """Raises InputError if a finished run is to have more epochs: its learning rate has ended at 0."""
        finished = len(checkpoint.read_history(self.output / "history.csv").epoch)
        if self.epochs and self.epochs > finished:
            advice = "start again with all of them, without --resume"
            if "weights" in self.config:
                advice = f"train on from its model, --weights {files.shown(self.model_path)} --output OTHER"
            raise InputError(
                f"--epochs {self.epochs}: the run in {files.shown(self.output)} has finished its {finished}; {advice}"
            )

    def begin(self, counts: dict[str, int], steps_per_epoch: int, classes: Any, start: str = "") -> None:
        """Prints the lines that say what is trained on what, and how long, and begins or resumes the run."""
        length, advice = self.choose_length(steps_per_epoch)
        if self.photos:
            parts = [f"{self.photos[split]} {split} ({count} tiles)" for split, count in counts.items()]
        else:
            parts = [f"{count} {split}" for split, count in counts.items()]
        facts = f"{self.data}, {self.image_size} px: {', '.join(parts)}{start}"
        print(f"{self.recipe} | {facts} | {self.device} | {length}", flush=True)
        if advice:
            print(advice, flush=True)
        if self.class_weights:
            weights = zip(self.class_names, self.class_weights, strict=True)
            rare = [f"{name} {weight:.2g} times" for name, weight in weights if weight > 1]
            print(f"rare classes weigh more in the loss: {listed(rare)}", flush=True)
        self.settings |= {"images": counts, "classes": classes}
        self.checkpoint.begin(self.settings, self.config["resume"])
        if self.team.is_first and not self.config["resume"] and models.origin(self.model_path) == self.origin:
            self.checkpoint.keep_earlier_model()
        done = self.finished_epochs
        self.team.agree({**self.settings, "finished epochs": done})
        if self.config["resume"]:
            print(f"resuming after epoch {done}" if done else "no epoch is finished yet; starting", flush=True)

    def choose_length(self, steps_per_epoch: int) -> tuple[str, str]:
        """Sets the number of epochs where no flag does; returns it in words, and what to say about too few of them."""
        needed = -(-self.least_steps // steps_per_epoch)
        is_try = self.config["limit"] is not None
        reason, advice = "", ""
        if self.epochs is None:
            self.epochs = self.default_epochs if is_try else max(self.default_epochs, needed)
            if self.epochs > self.default_epochs:
                reason = ", about the least that a training needs"
        elif self.epochs < needed and not is_try:
            few = f"--epochs {self.epochs}: only {self.epochs * steps_per_epoch} steps"
            advice = f"{few}; a training needs at least about {self.least_steps}, here {needed} epochs"
        self.config["epochs"] = self.settings["epochs"] = self.epochs
        self.frozen_epochs = min(self.frozen_epochs, self.epochs)
        return f"epochs: {self.epochs}, steps: {self.epochs * steps_per_epoch}{reason}", advice

    def prepare(self, model: keras.Model) -> keras.Model:
        """The model to train: with the weights of --weights, if given, and as fast as it can be on this device."""
        if self.trained:
            self.trained.copy_to(model, self.class_names)
        return backend.prepare(model, has_gpu=bool(self.gpus))

    def report(self, data: Data) -> None:
        """Scores the best model on the test split, writes metrics.json and the pictures, and prints a table."""
        self.team.end()
        if not self.team.is_first:
            return
        with backend.undistributed():
            test, examples = report.score(self.model_path, data, self.batch_size, self.tiles)
        kept = self.checkpoint
        trained = self.batch_size * data.steps_per_epoch * self.finished_epochs
        train = {
            "images": data.counts["train"],
            "epochs": self.finished_epochs,
            "seconds": round(kept.seconds, 1),  # of `fit`, with the validation after each epoch
            "images_per_second": round(trained / kept.training_seconds, 2),  # of the training steps alone
        }
        for split, facts in {"train": train, "test": test}.items():
            facts |= {"photos": self.photos[split]} if self.photos else {}  # the images are tiles
        versions = report.versions(tf, keras, np, matplotlib) | {checkpoint.BACKEND: keras.config.backend()}
        self.write_metrics(test, train, versions)
        pictures = report.mosaics(self.output, examples, data.class_names, f"{self.recipe} on {self.data}")
        pictures += report.curves(self.output)
        if self.output.parent == files.ROOT / "output":
            pictures += report.comparison(self.output.parent)
        kept.end()
        report.print_scores(test, train)
        report.print_remarks(test)
        report.compare(kept, test)
        command = ["python", os.path.relpath(sys.argv[0]), "--predict", "PHOTO"]
        if self.model_path != files.ROOT / "weights" / f"{self.recipe}.keras":
            command += ["--weights", str(files.shown(self.model_path))]
        report.print_files(self.model_path, command, pictures)

    def write_metrics(self, test: dict[str, Any], train: dict[str, Any], versions: dict[str, str]) -> None:
        """Writes metrics.json: the scores on the test split, facts about the training, and what it ran with."""
        metrics = {"recipe": self.recipe, "test": test, "train": train, "device": self.device}
        files.write_json(self.output / "metrics.json", metrics | {"config": self.config, "versions": versions})
