"""What a training keeps after each epoch, so that an interrupted run loses nothing and resumes exactly.

Keras' BackupAndRestore is not enough: it keeps neither the history nor the state of dropout's random numbers, starts
the data from the beginning, and deletes its backup when training ends with an error.
"""

import contextlib
import csv
import json
import math
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from app import files
from app.cli import InputError

import numpy as np

STATE = "state.npz"
LOCK = ".running"
# Flags that a resumed run must have in common with the interrupted one.
FLAGS = ("data", "image_size", "tiles", "epochs", "frozen_epochs", "batch_size", "learning_rate")
FLAGS += ("backbone_weights", "weights", "precision", "limit", "seed")
BACKEND = "KERAS_BACKEND"
KEPT = ("rows", "seconds", "training_seconds", "last_epoch", "findings", "earlier_score")


class Checkpoint:
    """The finished epochs of a training, kept in its output folder: history.csv and state.npz.

    A lock keeps other runs out of the folder until this process ends, however it ends. A killed run leaves the lock's
    file behind, which shows that the run is not finished.

    Args:
      folder: the output folder.
      model_path: where the best model goes.
      score: the metric that chooses the best model; higher is better, and of equal ones the last.
      is_first: whether this process writes the files.
    Attributes:
      rows: the history, a dict of metrics for each finished epoch.
      best: the highest score.
      seconds, training_seconds: the time spent so far, with and without validation.
      last_epoch: of the `fit` that was interrupted.
      findings: what is known about the data, as JSON; a resumed run need not find it out again.
      earlier_score: on the test split, of the model that this run replaces; None without one.
      variables: of the interrupted run, by kind, until they are restored.
    """

    def __init__(self, folder: pathlib.Path, model_path: pathlib.Path, score: str, is_first: bool = True):
        self.folder = folder
        self.model_path = model_path
        self.score = score
        self.is_first = is_first
        self.settings: dict[str, Any] = {}
        self.rows: list[dict[str, float]] = []
        self.best = -math.inf
        self.seconds = 0.0
        self.training_seconds = 0.0
        self.last_epoch = 0
        self.findings: dict[str, Any] = {}
        self.earlier_score: float | None = None
        self.variables: dict[str, list[np.ndarray]] = {}
        self.lock = None

    def is_finished(self) -> bool:
        """Whether the folder holds a finished run."""
        unfinished = (self.folder / LOCK).exists() or (self.folder / STATE).exists()
        return not unfinished and (self.folder / "metrics.json").exists()

    def begin(self, settings: dict[str, Any], resume: bool) -> None:
        """Locks the folder; with `resume`, takes over the epochs of the run that was interrupted there.

        Raises:
          InputError: if another run is writing to the folder, or the interrupted run had other settings.
        """
        self.settings = settings
        if self.is_first:
            self._acquire_lock()
            files.remove_leftovers(self.folder)
            files.remove_leftovers(self.model_path.parent)
            if not resume:
                (self.folder / STATE).unlink(missing_ok=True)
        facts, self.variables = read_state(self.folder, settings) if resume else ({}, {})
        if not facts:
            return
        for name in KEPT:
            setattr(self, name, facts[name])
        if zipfile.is_zipfile(self.model_path) or (self.model_path / "saved_model.pb").exists():
            self.best = facts["best"]  # otherwise the model of the next epoch is the best

    def _acquire_lock(self) -> None:
        import fcntl  # Linux and macOS only

        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.lock.close()
            advice = "another run is writing there; wait, or name another folder"
            raise InputError(f"--output {self.folder}: {advice}") from error

    @property
    def earlier_model(self) -> pathlib.Path:
        """Where `keep_earlier_model` copies to."""
        return self.model_path.with_name(f"{self.model_path.stem}-before{self.model_path.suffix}")

    def keep_earlier_model(self) -> None:
        """Copies the model of an earlier run, which this one replaces; in case it is the better one."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # no run, or none that was finished
            test = json.loads((self.folder / "metrics.json").read_text())["test"]
            score = float(test[self.score.removeprefix("val_")])
            self.remove_earlier_model()
            copy = shutil.copytree if self.model_path.is_dir() else shutil.copyfile
            copy(self.model_path, self.earlier_model)
            self.earlier_score = score

    def remove_earlier_model(self) -> None:
        if self.earlier_model.is_dir():
            shutil.rmtree(self.earlier_model)
        self.earlier_model.unlink(missing_ok=True)

    def finish_epoch(
        self,
        metrics: dict[str, float],
        variables: dict[str, Sequence],
        save_model: Callable[[], None],
        last_epoch: int,
    ) -> None:
        """Keeps a finished epoch: its metrics, the model if it is the best so far, and the state to resume from.

        Args:
          metrics: the epoch's row of the history.
          variables: of the model and the optimizer, by kind.
          save_model: writes the model to `model_path`.
          last_epoch: of the running `fit`.
        """
        self.last_epoch = last_epoch
        self.rows.append({"epoch": len(self.rows) + 1} | {name: float(value) for name, value in metrics.items()})
        is_best = self.rows[-1][self.score] >= self.best
        if is_best:
            self.best = self.rows[-1][self.score]
        if not self.is_first:
            return
        (self.folder / "metrics.json").unlink(missing_ok=True)  # of an earlier run, whose history is replaced now
        write_history(self.folder / "history.csv", self.rows)
        if is_best:
            save_model()
        # Last, so that an epoch counts as finished only when all of it is written.
        facts = {name: getattr(self, name) for name in ("settings", "best", *KEPT)}
        write_state(self.folder, facts, variables)

    def print_epoch(self, epochs: int, seconds: float, names: Sequence[str] | None = None) -> None:
        """Prints a line about the last finished epoch: its metrics, or those that are named."""
        row = self.rows[-1]
        metrics = ", ".join(f"{name} {row[name]:.4f}" for name in names or row if name != "epoch")
        print(f"epoch {row['epoch']}/{epochs}: {seconds:.0f} s, {metrics}", flush=True)

    def end(self) -> None:
        """Removes the lock and the state of a finished run."""
        if self.lock:
            (self.folder / STATE).unlink(missing_ok=True)
            (self.folder / LOCK).unlink(missing_ok=True)
            self.lock.close()


def write_state(folder: pathlib.Path, facts: dict[str, Any], variables: dict[str, Sequence]) -> None:
    arrays = {"facts": np.array(json.dumps(facts, default=str))}
    for kind, kept in variables.items():
        arrays |= {f"{kind}-{index}": np.array(variable) for index, variable in enumerate(kept)}
    with files.replacing(folder / STATE) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_state(
    folder: pathlib.Path, settings: dict[str, Any], kinds: Sequence[str] = ("model", "optimizer")
) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Reads what `write_state` wrote: the facts, and the variables of these kinds. Both are empty if there is no state.

    Raises:
      InputError: if it is damaged, of another version of this program, or of a run with other settings.
    """
    try:
        with (folder / STATE).open("rb") as opened, np.load(opened) as file:  # verifies checksums
            facts = json.loads(str(file["facts"]))
            facts = {name: facts[name] for name in ("settings", "best", *KEPT)}
            before = {name: facts["settings"].get(name) for name in settings}
            variables = {kind: [file[name] for name in file.files if name.startswith(f"{kind}-")] for kind in kinds}
    except FileNotFoundError:
        return {}, {}
    except PermissionError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and JSON raise many kinds
        reason = "damaged, or of another version of this program"
        raise InputError(f"--resume: {folder / STATE}: {reason}; start again without --resume") from error
    differences = []
    for name, value in json.loads(json.dumps(settings, default=str)).items():
        if before[name] != value:
            flag = f"--{name.replace('_', '-')}" if name in FLAGS else name
            is_short = name in (*FLAGS, BACKEND)
            differences.append(f"{flag} was {before[name]} and is {value}" if is_short else f"the {name} differ")
    if differences:
        advice = "resume with the same flags, or start again without --resume"
        raise InputError(f"--resume: {'; '.join(differences)}; {advice}")
    return facts, variables


def restore(variables: Sequence, arrays: Sequence[np.ndarray]) -> None:
    """Restores the values of a model's or an optimizer's variables; raises InputError if they have other shapes."""
    if [tuple(variable.shape) for variable in variables] != [array.shape for array in arrays]:
        raise InputError("--resume: the saved state is of another network; start again without --resume")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def write_history(path: pathlib.Path, rows: Sequence[dict[str, float]]) -> None:
    """Writes history.csv: a row for each epoch, with its number and its metrics."""
    with files.replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_history(path: pathlib.Path) -> SimpleNamespace:
    """Reads a history.csv as what `fit` returns: `.epoch` counts from 0, `.history` has a list for each metric."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    history = {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}
    return SimpleNamespace(epoch=[int(row["epoch"]) - 1 for row in rows], history=history)
