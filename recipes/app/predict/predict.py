"""--predict: a trained recipe segments a person's own photos and videos, at their own size."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app import device, files, inputs
from app.cli import InputError, listed, percent, print_table
from app.predict import cutout, network, png, video

import keras
import numpy as np

MAX_ROWS = 40  # of the table


def run(
    recipe: str,
    build_model: Callable[[int, int], keras.Model],
    paths: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    weights: pathlib.Path | None = None,
    shard: tuple[int, int] | None = None,
    resume: bool = False,
) -> int:
    """Segments photos, folders of them, and videos; returns the exit status.

    `shard` (I, N) selects the I-th of N parts, and skips what is done already, as `resume` does.
    """
    inputs.check_output(output, "detections.json", "mask_rcnn_hub.py")
    counts = inputs.Counts()
    items = inputs.find_all(paths, output, counts, with_videos=True)
    if not items:
        return counts.exit_status()
    films = {item.path for item in items if inputs.is_video(item.path)}
    items.sort(key=lambda item: item.path in films)  # photos first, so that each part gets some of both
    device_name = device.description(device.start())  # before TensorFlow or JAX computes anything
    trained = network.from_weights(recipe, build_model, weights)
    items = inputs.give_names(items, output)
    if shard:
        items = items[shard[0] - 1 :: shard[1]]
    journal = Journal(output, trained.class_names, trained.file, shard)
    selected = journal.select(items, skip_done=resume or shard is not None)
    pictures = [item for item in selected if item.path not in films]
    videos = [item for item in selected if item.path in films]
    counts.done = len(items) - len(selected)
    what = f"photos: {len(pictures)}, videos: {len(videos)}, done before: {counts.done}"
    names = listed(trained.class_names)
    print(f"{recipe} | {what} | {files.shown(trained.file)}, {trained.size} px: {names} | {device_name}", flush=True)

    photo_results = write_photos(trained, pictures, output, counts, trained.white)
    video_results = write_videos(trained, videos, output, counts)
    for item, result in itertools.chain(photo_results, video_results):
        journal.add(item, **result)
        counts.done += 1
    if journal.entries:
        journal.finish()
    if counts.done:
        journal.print()
        print(f"pictures and {journal.path.name} are in {files.shown(output)}")
    return counts.exit_status()


def write_photos(
    trained: network.Network,
    items: Sequence[inputs.Item],
    output: pathlib.Path,
    counts: inputs.Counts,
    white: float | None = None,
) -> Iterator[tuple[inputs.Item, dict[str, Any]]]:
    """Writes the mask, the overlay and the cutout of photos; yields each item in order, and what the journal records.

    Reading, the network and writing overlap; the seconds are those of the network and of writing. `white` is that of
    photos.read.
    """
    class_names = trained.class_names

    def write(segmented):
        (item, transparent), photo, probabilities, seconds = segmented
        began = time.perf_counter()
        label, foreground = cutout.enlarge(photo, probabilities, class_names)
        png.write(output / f"{item.name}_mask.png", label)
        png.write(output / f"{item.name}_overlay.png", cutout.overlay(photo, label, class_names))
        path = output / f"{item.name}_cutout.png"
        if foreground is None:
            path.unlink(missing_ok=True)  # left by other weights
        else:
            png.write(path, cutout.cut_out(photo, foreground, transparent))
        seconds += time.perf_counter() - began
        return {"size": photo.shape[1::-1], "fractions": cutout.fractions(label, len(class_names)), "seconds": seconds}

    pictures = (((item, transparent), photo) for item, photo, transparent in inputs.read_all(items, counts, white))
    segmented = network.segment_all(trained, pictures)
    writers = min(os.cpu_count(), 4)  # a photo of 12 megapixels takes 0.3 GB while its pictures are made
    with ThreadPoolExecutor(writers) as pool:
        for ((item, _), *_), result in inputs.in_order(pool, write, segmented, writers):
            try:
                yield item, result.result()
            except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
                counts.fail(f"{item.path}: its results cannot be written, {error.filename} is in the way")


def write_videos(
    trained: network.Network, items: Sequence[inputs.Item], output: pathlib.Path, counts: inputs.Counts
) -> Iterator[tuple[inputs.Item, dict[str, Any]]]:
    """Writes the overlays of videos; yields each item and what the journal records of it."""
    for item in items:
        began = time.perf_counter()
        try:
            result = video.write(output / f"{item.name}_overlay.mp4", item.path, trained)
            yield item, {**result, "seconds": time.perf_counter() - began}
        except InputError as error:
            counts.fail(str(error))


class Journal:
    """predictions.jsonl: a line for each photo whose results are in the folder; a `shard`, (I, N), has its own."""

    def __init__(
        self, folder: pathlib.Path, class_names: Sequence[str], weights: pathlib.Path, shard: tuple[int, int] | None
    ):
        self.path = folder / ("predictions-{}-of-{}.jsonl".format(*shard) if shard else "predictions.jsonl")
        self.class_names = class_names
        self.weights = hashlib.blake2b(weights.read_bytes(), digest_size=8).hexdigest()
        self.entries = []  # of this run
        self.states = {}  # {name: state of the file}, taken before the photos are read

    def select(self, items: Sequence[inputs.Item], skip_done: bool) -> list[inputs.Item]:
        """The photos to do: with `skip_done` those not yet recorded for the same weights and the same file."""
        self.states = {item.name: _state(item.path) for item in items}
        if not skip_done:
            return list(items)
        recorded = {}
        for path in sorted(self.path.parent.glob("predictions*.jsonl")):  # also those of other parts
            recorded |= _entries(path)
        states = {name: (entry.get("weights"), entry.get("file")) for name, entry in recorded.items()}
        return [item for item in items if states.get(_text(item.name)) != (self.weights, self.states[item.name])]

    def add(self, item: inputs.Item, size: tuple[int, int], fractions: np.ndarray, seconds: float, **more) -> None:
        """Records a photo or video: its size (width, height), the fraction of each class, 0..1, the seconds, `more`."""
        shares = {name: round(float(fraction), 8) for name, fraction in zip(self.class_names, fractions, strict=True)}
        entry = {"path": _text(item.path), "name": _text(item.name), "size": size, **more, "shares": shares}
        entry |= {"seconds": round(seconds, 3), "weights": self.weights, "file": self.states[item.name]}
        self.entries.append(entry)
        with inputs.locked(self.path.parent), self.path.open("a+b") as file:
            file.seek(max(0, file.tell() - 1))
            is_complete = file.read() in (b"", b"\n")  # otherwise a run was killed in the middle of a line
            file.write((b"" if is_complete else b"\n") + _line(entry))

    def finish(self) -> None:
        """Removes the lines that later ones replace."""
        with inputs.locked(self.path.parent):
            lines = b"".join(map(_line, _entries(self.path).values()))
            if self.path.read_bytes() != lines:
                with files.replacing(self.path) as temporary:
                    temporary.write_bytes(lines)

    def print(self) -> None:
        table = [("photo or video", "size", "seconds", "shares")]
        for entry in self.entries[:MAX_ROWS]:
            largest = sorted(entry["shares"].items(), key=lambda item: -item[1])[:4]
            summary = ", ".join(f"{percent(fraction, 0)} {name}" for name, fraction in largest)
            table.append((entry["path"], "{} x {}".format(*entry["size"]), f"{entry['seconds']:.1f}", summary))
        print_table(table)
        if len(self.entries) > MAX_ROWS:
            print(f"... and {len(self.entries) - MAX_ROWS} more")


def _line(entry: dict[str, Any]) -> bytes:
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode()


def _entries(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The last entry of each photo in a journal, by its name."""
    entries = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # cut off, or not ours
                entry = json.loads(line)
                name = entry.get("name", entry["path"])
                entries.pop(name, None)  # the order is that of the last lines
                entries[name] = entry
    return entries


def _state(path: pathlib.Path) -> str | None:
    """The size and the time of modification of a photo; None if there is none."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"
    return None


def _text(path: str | pathlib.Path) -> str:
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")  # its bytes may not be UTF-8
