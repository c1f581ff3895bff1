"""predictions.jsonl: what was predicted, by which weights, from which file."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

from app import files
from app.cli import print_table
from app.photos import Item

import numpy as np

MOST_LINES = 40  # of the table


class Journal:
    """Appends a line to predictions.jsonl when the pictures of a photo are written. Each shard has its own file.

    Args:
      folder: where the file goes.
      class_names: of the shares.
      weights: the fingerprint of the weights that predict; see `fingerprint`.
      shard: (I, N), or None for all photos.
    """

    def __init__(
        self, folder: pathlib.Path, class_names: Sequence[str], weights: str, shard: tuple[int, int] | None = None
    ):
        name = "predictions.jsonl" if shard is None else "predictions-{}-of-{}.jsonl".format(*shard)
        self.path, self.class_names, self.weights = folder / name, class_names, weights
        self.lines = []  # of this run
        self.kept = []  # of the runs before
        self.states = {}  # of each photo's file

    def select(self, items: Sequence[Item], skip_done: bool) -> list[Item]:
        """The photos to do: with `skip_done` those not yet recorded for the same weights and the same file."""
        self.states = {_text(item.path): _state(item.path) for item in items}  # before the photos are read
        if not skip_done:
            return list(items)
        done, kept = {}, {}
        if self.path.exists():
            for line in self.path.read_bytes().decode("utf-8", errors="replace").split("\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # the last may be incomplete
                    entry = json.loads(line)
                    kept[entry["path"]], done[entry["path"]] = line, (entry.get("weights"), entry.get("file"))
        selected = [
            item for item in items if done.get(_text(item.path)) != (self.weights, self.states[_text(item.path)])
        ]
        for item in selected:
            kept.pop(_text(item.path), None)
        self.kept = list(kept.values())
        return selected

    def add(self, path: pathlib.Path, size: tuple[int, int], shares: np.ndarray, seconds: float, **more) -> None:
        if not self.lines:  # until now the file of the run before is untouched
            files.write_text(self.path, "".join(f"{line}\n" for line in self.kept))
        shares = dict(zip(self.class_names, (round(float(share), 5) for share in shares), strict=True))
        entry = {"path": _text(path), "size": list(size), **more, "shares": shares, "seconds": round(seconds, 3)}
        entry |= {"weights": self.weights, "file": self.states[_text(path)]}
        self.lines.append(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def print(self) -> None:
        table = [("photo or video", "size", "seconds", "shares")]
        for entry in self.lines[:MOST_LINES]:
            largest = sorted(entry["shares"].items(), key=lambda item: -item[1])[:4]
            summary = ", ".join(f"{share:.0%} {name}" for name, share in largest)
            name = str(files.shown(pathlib.Path(entry["path"])))
            table.append((name, "{} x {}".format(*entry["size"]), f"{entry['seconds']:.1f}", summary))
        print_table(table)
        if len(self.lines) > MOST_LINES:
            print(f"... and {len(self.lines) - MOST_LINES} more")


def fingerprint(weights: pathlib.Path) -> str:
    """Identifies the content of a weights file."""
    digest = hashlib.blake2b(digest_size=8)
    with weights.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _state(path: pathlib.Path) -> str | None:
    """Changes when a photo does: its size and time of modification."""
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"


def _text(path: pathlib.Path) -> str:
    """A path as text, even if its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")
