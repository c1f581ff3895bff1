"""What an interrupted training needs to resume: its state after each epoch, and a lock on its folder.

Keras' BackupAndRestore is not enough: it keeps neither the history nor the state of dropout's random numbers, starts
the data from the beginning, and deletes its backup when training ends with an error.
"""

import json
import os
import pathlib
from typing import Any, NamedTuple

from app.cli import InputError
from app.files import replacing

import keras
import numpy as np

NAME, PREVIOUS = "state.npz", "state-previous.npz"
FLAGS = ("data", "image_size", "epochs", "frozen_epochs", "batch_size", "learning_rate")
FLAGS += ("backbone_weights", "weights", "precision", "limit", "seed")
BACKEND = "KERAS_BACKEND"


class State(NamedTuple):
    """A training after its last finished epoch."""

    facts: dict[str, Any]  # what the recorder keeps, as JSON
    model: list[np.ndarray]  # weights, statistics, and the state of random layers
    optimizer: list[np.ndarray]


def save(folder: pathlib.Path, model: keras.Model, facts: dict[str, Any]) -> None:
    """Writes the state; the previous one stays beside it, in case this one turns out damaged."""
    arrays = {f"model-{index}": np.array(variable) for index, variable in enumerate(model.variables)}
    arrays |= {f"optimizer-{index}": np.array(variable) for index, variable in enumerate(model.optimizer.variables)}
    with replacing(folder / NAME) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps(facts, default=str)), **arrays)
        if (folder / NAME).exists():
            (folder / PREVIOUS).unlink(missing_ok=True)
            os.link(folder / NAME, folder / PREVIOUS)  # a second name, so one complete state always exists


def last(folder: pathlib.Path) -> State | None:
    """Reads the last complete state; None if there is none.

    Raises:
      InputError: if all states are damaged.
    """
    damaged = []
    for path in (folder / NAME, folder / PREVIOUS):
        try:
            with np.load(path) as file:  # verifies checksums
                facts = json.loads(str(file["facts"]))
                groups = [
                    [file[f"{kind}-{index}"] for index in range(_count(file, kind))] for kind in State._fields[1:]
                ]
                if damaged:
                    print(f"{damaged[0]} is damaged; resuming from the one before, {path.name}", flush=True)
                return State(facts, *groups)
        except FileNotFoundError:
            pass
        except PermissionError:
            raise
        except Exception:  # zipfile, zlib, NumPy and JSON raise many kinds
            damaged.append(path)
    if damaged:
        raise InputError(f"--resume: {' and '.join(map(str, damaged))} cannot be read; start again without --resume")
    return None


def _count(file, kind: str) -> int:
    return sum(name.startswith(f"{kind}-") for name in file.files)


def check(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises InputError, naming each difference, if the interrupted run had other settings."""
    now = json.loads(json.dumps(now, default=str))
    if BACKEND in now:  # a state once had no such entry
        before = {BACKEND: "tensorflow"} | before
    shown = {name: f"--{name.replace('_', '-')}" for name in FLAGS} | {BACKEND: BACKEND}
    differences = [
        f"{shown[name]} was {before.get(name)} and is {now.get(name)}" if name in shown else f"the {name} differ"
        for name in before | now
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise InputError(
            f"--resume: {'; '.join(differences)}; resume with the same flags, or start again without --resume"
        )


def assign(variables: list, arrays: list[np.ndarray]) -> None:
    """Restores the values of variables.

    Raises:
      InputError: if numbers or shapes differ.
    """
    if [tuple(variable.shape) for variable in variables] != [array.shape for array in arrays]:
        raise InputError("--resume: the saved state is of another network; start again without --resume")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def remove(folder: pathlib.Path) -> None:
    for name in (NAME, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


class Lock:
    """Keeps other runs out of a folder until this process ends, however it ends.

    A killed run leaves the lock's file behind, which shows that the run is not finished.
    """

    def __init__(self, folder: pathlib.Path):
        self.path = folder / ".running"
        self.file = None

    def acquire(self) -> bool:
        """Takes the lock; returns whether the run before was interrupted. Raises InputError if another run has it."""
        import fcntl  # Linux and macOS only

        self.path.parent.mkdir(parents=True, exist_ok=True)
        was_interrupted = self.path.exists()
        self.file = self.path.open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.file.close()
            raise InputError(
                f"--output {self.path.parent}: another run is writing there; wait, or name another folder"
            ) from error
        return was_interrupted

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        self.file.close()
