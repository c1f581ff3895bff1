"""What an interrupted training needs to go on: its state after each epoch, and a lock on its folder.

Keras' BackupAndRestore does not do: it keeps neither the history nor the state of dropout's random numbers, starts
the data from its beginning again, and deletes what it has kept where a training ends with an error.
"""

import fcntl
import json
import os
import pathlib
from typing import Any, NamedTuple

from common.files import InputError, replacing

import keras
import numpy as np

NAME, PREVIOUS = "state.npz", "state-previous.npz"
FLAGS = ("data", "image_size", "epochs", "fine_tune_epochs", "batch_size", "learning_rate")
FLAGS += ("backbone_weights", "precision", "limit", "seed")


class State(NamedTuple):
    """A training after its last finished epoch."""

    facts: dict[str, Any]  # what the callback keeps, in JSON's kinds
    model: list[np.ndarray]  # weights, statistics, and the state of random layers
    optimizer: list[np.ndarray]


def save(folder: pathlib.Path, model: keras.Model, facts: dict[str, Any]) -> None:
    """Writes the state; the one before stays beside it, should this one turn out damaged."""
    arrays = {f"model-{index}": np.array(variable) for index, variable in enumerate(model.variables)}
    arrays |= {f"optimizer-{index}": np.array(variable) for index, variable in enumerate(model.optimizer.variables)}
    with replacing(folder / NAME) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
        if (folder / NAME).exists():
            (folder / PREVIOUS).unlink(missing_ok=True)
            os.link(folder / NAME, folder / PREVIOUS)  # a second name, so that there always is one whole state


def load(folder: pathlib.Path) -> State | None:
    """Reads the last state that is whole; None where there is none.

    Raises:
      InputError: where all there are, are damaged.
    """
    damaged = []
    for path in (folder / NAME, folder / PREVIOUS):
        try:
            with np.load(path) as file:  # its checksums tell a damaged one
                facts = json.loads(str(file["facts"]))
                groups = [
                    [file[f"{kind}-{index}"] for index in range(_count(file, kind))] for kind in State._fields[1:]
                ]
                if damaged:
                    print(f"{damaged[0]} is damaged; going on from {path.name}, the one before", flush=True)
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
    """Raises InputError, which names each difference, where an interrupted run was about something else."""
    now = json.loads(json.dumps(now))
    differences = [
        f"--{name.replace('_', '-')} was {before.get(name)} and is {now.get(name)}"
        if name in FLAGS
        else f"the {name} differ"
        for name in before | now
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise InputError(
            f"--resume: {'; '.join(differences)}; go on with the same flags, or start again without --resume"
        )


def assign(variables: list, arrays: list[np.ndarray]) -> None:
    """Gives variables their values back.

    Raises:
      InputError: where the numbers or the shapes differ.
    """
    if [tuple(variable.shape) for variable in variables] != [array.shape for array in arrays]:
        raise InputError("--resume: the kept state is of another network; start again without --resume")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def remove(folder: pathlib.Path) -> None:
    for name in (NAME, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


class Lock:
    """Keeps other runs out of a folder until this process ends, however it ends.

    Its file stays where a run was killed: it tells that the run is not finished.
    """

    def __init__(self, folder: pathlib.Path):
        """Raises InputError where another run has the lock."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / ".running"
        self.was_interrupted = self.path.exists()
        self.file = self.path.open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.file.close()
            raise InputError(
                f"--output {folder}: another run is at work there; wait, or name another folder"
            ) from error

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        self.file.close()
