"""The Keras callback that keeps each epoch of a training."""

import time
from typing import Any

from app import models
from app.checkpoint import Checkpoint, restore
from app.cli import InputError

import keras
import numpy as np


class Recorder(keras.callbacks.Callback):
    """Gives each finished epoch to a checkpoint; without Keras' progress bars it also prints a line.

    With the checkpoint of an interrupted run, `fit` goes on where that run stopped, if its `initial_epoch` is the
    number of finished epochs.

    Args:
      checkpoint: where the epochs are kept.
      class_names: saved with the model.
      epochs: of the whole training, of which a `fit` may be a part; None: those of the `fit`.
      origin: what else is saved with the model, see models.save.
    """

    async_safe = True  # Keras calls it from another thread, and need not wait for the loss before the next step

    def __init__(
        self,
        checkpoint: Checkpoint,
        class_names: tuple[str, ...],
        epochs: int | None = None,
        origin: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.checkpoint = checkpoint
        self.class_names = class_names
        self.epochs = epochs
        self.origin = origin
        self.has_progress_bars = keras.utils.is_interactive_logging_enabled()

    def on_train_begin(self, logs=None):
        interrupted = self.checkpoint.variables
        if interrupted and len(self.checkpoint.rows) < self.params["epochs"]:
            restore(self.model.variables, interrupted["model"])
            # Not the optimizer of an earlier `fit`, which trained other weights.
            if self.checkpoint.last_epoch == self.params["epochs"]:
                self.model.optimizer.build(self.model.trainable_variables)
                restore(self.model.optimizer.variables, interrupted["optimizer"])
            self.checkpoint.variables = {}
        self.began = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if not self.has_progress_bars:  # each thread has this setting of its own
            keras.utils.disable_interactive_logging()
        if not np.isfinite(logs["loss"]):
            raise InputError(
                f"the loss is not finite after step {batch + 1} of epoch {len(self.checkpoint.rows) + 1}: "
                "start again with a smaller --learning-rate, or with --precision float32"
            )

    def on_test_begin(self, logs=None):
        self.checkpoint.training_seconds += time.perf_counter() - self.epoch_began

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        self.checkpoint.seconds += now - self.began
        self.began = now
        variables = {"model": self.model.variables, "optimizer": self.model.optimizer.variables}
        self.checkpoint.finish_epoch(logs, variables, self.save_model, self.params["epochs"])
        if self.checkpoint.is_first and not self.has_progress_bars:
            self.checkpoint.print_epoch(self.epochs or self.params["epochs"], now - self.epoch_began)

    def save_model(self):
        models.save(self.model, self.checkpoint.model_path, self.class_names, self.origin)


class ProgressBars(keras.callbacks.ProgbarLogger):
    """Keras' progress bars, which count the epochs of the whole training, of which a `fit` may be a part."""

    def __init__(self, epochs: int):
        super().__init__()
        self.all_epochs = epochs

    def set_params(self, params):
        super().set_params(params | {"epochs": self.all_epochs})
