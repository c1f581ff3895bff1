"""The Keras callback that keeps what a training must not lose, and resumes from it."""

import math
import pathlib
import sys
import time
import zipfile
from collections.abc import Sequence
from typing import Any

from app import checkpoint, files, models, report
from app.cli import InputError
from app.processes import Processes

import keras
import numpy as np


class Recorder(keras.callbacks.Callback):
    """Saves history.csv, the best model so far and the state to resume from, after each epoch.

    Without Keras' progress bars it also prints a line. The best model is that of the highest validation mean IoU. With
    the state of an interrupted run, `fit` goes on where that run stopped, if its `initial_epoch` is `finished_epochs`.

    Args:
      folder: where history.csv and the state go.
      model_path: where the best model goes, as .keras.
      class_names: saved with the model.
      settings: of the run, as JSON; a resumed run must have the same.
      is_first: whether this process writes files.
      interrupted: the state of the run to resume.
    """

    async_safe = True  # Keras calls it from another thread, and need not wait for the loss before the next step

    def __init__(
        self,
        folder: pathlib.Path,
        model_path: pathlib.Path,
        class_names: Sequence[str],
        settings: dict[str, Any],
        *,
        is_first: bool = True,
        interrupted: checkpoint.State | None = None,
    ):
        super().__init__()
        self.folder, self.model_path, self.class_names = folder, model_path, class_names
        self.settings, self.is_first, self.interrupted = settings, is_first, interrupted
        self.rows, self.best = [], -math.inf
        self.seconds, self.training_seconds = 0.0, 0.0  # of `fit`; without validation
        self.has_progress_bars = keras.utils.is_interactive_logging_enabled()
        if interrupted:
            facts = interrupted.facts
            self.rows, self.best, self.seconds = facts["rows"], facts["best"], facts["seconds"]
            self.training_seconds = facts.get("training_seconds", self.seconds)  # states once had no such entry

    @property
    def finished_epochs(self) -> int:
        return len(self.rows)

    def on_train_begin(self, logs=None):
        if self.interrupted and self.finished_epochs < self.params["epochs"]:
            checkpoint.assign(self.model.variables, self.interrupted.model)
            # Not the optimizer state of an earlier `fit`, which trained other weights.
            if self.interrupted.facts.get("last_epoch", self.params["epochs"]) == self.params["epochs"]:
                self.model.optimizer.build(self.model.trainable_variables)
                checkpoint.assign(self.model.optimizer.variables, self.interrupted.optimizer)
            self.interrupted = None
        self.began = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if not self.has_progress_bars:  # each thread has this setting of its own
            keras.utils.disable_interactive_logging()
        if not np.isfinite(logs["loss"]):
            raise InputError(
                f"the loss is not finite after step {batch + 1} of epoch {self.finished_epochs + 1}: "
                "start again with a smaller --learning-rate, or with --precision float32"
            )

    def on_test_begin(self, logs=None):
        self.training_seconds += time.perf_counter() - self.epoch_began

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}})
        now = time.perf_counter()
        self.seconds, self.began = self.seconds + now - self.began, now
        is_best = logs["val_mean_iou"] > self.best
        self.best = max(self.best, float(logs["val_mean_iou"]))
        if not self.is_first:
            return
        (self.folder / "metrics.json").unlink(missing_ok=True)  # of an earlier run; its history is replaced now
        report.write_history(self.folder / "history.csv", self.rows)
        if is_best:
            models.save(self.model, self.model_path, self.class_names)
        # Last, so that an epoch counts as finished only when all of it is written.
        facts = {"about": self.settings, "rows": self.rows, "best": self.best, "seconds": self.seconds}
        facts |= {"training_seconds": self.training_seconds, "last_epoch": self.params["epochs"]}
        checkpoint.save(self.folder, self.model, facts)
        if not self.has_progress_bars:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in self.rows[-1].items() if name != "epoch")
            print(f"epoch {epoch + 1}/{self.params['epochs']}: {now - self.epoch_began:.0f} s, {scores}", flush=True)


def begin(
    folder: pathlib.Path,
    model_path: pathlib.Path,
    class_names: Sequence[str],
    settings: dict[str, Any],
    team: Processes,
    resume: bool,
) -> tuple[Recorder, checkpoint.Lock | None]:
    """Creates the recorder and, in the first process, locks the folder; with `resume` it continues the run there.

    Ends the program if that run is finished.

    Raises:
      InputError: if the interrupted run had other settings, or another run is writing to the folder.
    """
    lock, is_finished = None, False
    if team.is_first:
        lock = checkpoint.Lock(folder)
        was_interrupted = lock.acquire()
        is_finished = resume and not was_interrupted and (folder / "metrics.json").exists()
        files.remove_leftovers(folder)
        files.remove_leftovers(model_path.parent)
        if not resume:
            checkpoint.remove(folder)
    interrupted = checkpoint.last(folder) if resume else None
    if interrupted:
        checkpoint.check(interrupted.facts["about"], settings)
        if not zipfile.is_zipfile(model_path):
            # The model was deleted or damaged: that of the next epoch is the best.
            interrupted = interrupted._replace(facts={**interrupted.facts, "best": -math.inf})
    recorder = Recorder(folder, model_path, class_names, settings, is_first=team.is_first, interrupted=interrupted)
    if team.any(is_finished):
        if lock:
            lock.release()
        print(f"the run in {files.shown(folder)} is finished; there is nothing to resume")
        sys.exit(0)
    team.agree({**settings, "finished epochs": recorder.finished_epochs})
    if resume:
        done = recorder.finished_epochs
        print(f"resuming after epoch {done}" if done else "no epoch is finished yet; starting", flush=True)
    return recorder, lock
