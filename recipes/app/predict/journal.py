"""predictions.jsonl: what was predicted, by which weights, from which file."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from app import files
from app.cli import print_table
from app.photos import Item

import numpy as np

MAX_ROWS = 40  # of the table


class Journal:
    """Appends a line to predictions.jsonl when the pictures of a photo are written; a `shard`, (I, N), has its own."""

    def __init__(
        self, folder: pathlib.Path, class_names: Sequence[str], weights: pathlib.Path, shard: tuple[int, int] | None
    ):
        self.path = folder / ("predictions-{}-of-{}.jsonl".format(*shard) if shard else "predictions.jsonl")
        self.class_names = class_names
        self.weights = hashlib.blake2b(weights.read_bytes(), digest_size=8).hexdigest()
        self.entries = []  # of this run
        self.kept = []  # of earlier runs
        self.states = {}  # {path: state of the file}, taken before the photos are read

    def select(self, items: Sequence[Item], skip_done: bool) -> list[Item]:
        """The photos to do: with `skip_done` those not yet recorded for the same weights and the same file."""
        self.states = {item.path: _state(item.path) for item in items}
        recorded = {}
        if skip_done and self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
                with contextlib.suppress(ValueError):  # the last line may be incomplete
                    entry = json.loads(line)
                    recorded[entry["path"]] = entry
        selected = []
        for item in items:
            entry = recorded.get(_text(item.path), {})
            if (entry.get("weights"), entry.get("file")) != (self.weights, self.states[item.path]):
                selected.append(item)
                recorded.pop(_text(item.path), None)
        self.kept = list(recorded.values())
        return selected

    def add(self, path: pathlib.Path, size: tuple[int, int], fractions: np.ndarray, seconds: float, **more) -> None:
        """Records a photo or video: its size (width, height), the fraction of each class, 0..1, the seconds, `more`."""
        if not self.entries:  # until now the file of the run before is untouched
            files.write_text(self.path, "".join(map(_line, self.kept)))
        shares = {name: round(float(fraction), 5) for name, fraction in zip(self.class_names, fractions, strict=True)}
        entry = {"path": _text(path), "size": size, **more, "shares": shares, "seconds": round(seconds, 3)}
        entry |= {"weights": self.weights, "file": self.states[path]}
        self.entries.append(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))

    def print(self) -> None:
        table = [("photo or video", "size", "seconds", "shares")]
        for entry in self.entries[:MAX_ROWS]:
            largest = sorted(entry["shares"].items(), key=lambda item: -item[1])[:4]
            summary = ", ".join(f"{fraction:.0%} {name}" for name, fraction in largest)
            path = files.shown(pathlib.Path(entry["path"]))
            table.append((str(path), "{} x {}".format(*entry["size"]), f"{entry['seconds']:.1f}", summary))
        print_table(table)
        if len(self.entries) > MAX_ROWS:
            print(f"... and {len(self.entries) - MAX_ROWS} more")


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _state(path: pathlib.Path) -> str | None:
    """The size and the time of modification of a photo; None if there is none."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"
    return None


def _text(path: pathlib.Path) -> str:
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")  # its bytes may not be UTF-8
