"""--predict: a trained recipe segments a person's own photos and videos, at their own size."""

import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from app import device, photos
from app.cli import InputError
from app.files import shown
from app.predict import cutout, journal, network, png, video
from common import masks

import keras
import numpy as np

MOST_WRITERS = 4  # a photo of 12 megapixels takes 0.3 GB while its pictures are made


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

    A photo gives NAME_mask.png (a palette image of class ids), NAME_overlay.png, NAME_cutout.png (everything but the
    background) and a line of predictions.jsonl; a video gives NAME_overlay.mp4 and such a line.

    Args:
      recipe, build_model: the recipe, and what builds its network.
      paths: photos, folders or videos.
      output: the folder to write to.
      weights: the trained weights; None for those of the recipe.
      shard: (I, N) does the I-th of N parts.
      resume: leaves out what is done already; a shard always does.
    """
    tally = photos.Tally()
    pictures, videos = photos.find_all(paths, output, tally, videos=True)
    if not pictures and not videos:
        return tally.exit_status()
    part, parts = shard or (1, 1)
    pictures, videos = pictures[part - 1 :: parts], videos[part - 1 :: parts]
    found = len(pictures) + len(videos)
    where = device.description(device.start())  # before anything else uses it
    trained = network.from_weights(recipe, build_model, weights)
    lines = journal.Journal(output, trained.class_names, journal.fingerprint(trained.file), shard)
    selected = set(lines.select(pictures + videos, skip_done=bool(resume or shard)))
    pictures, videos = ([item for item in items if item in selected] for items in (pictures, videos))
    tally.succeed(found - len(selected))
    names = ", ".join(trained.class_names[:6]) + (", ..." if len(trained.class_names) > 6 else "")
    what = f"photos: {len(pictures)}, videos: {len(videos)}, done before: {tally.done}"
    print(f"{recipe} | {what} | {shown(trained.file)}, {trained.size} px: {names} | {where}", flush=True)

    for photo, shares, seconds in write_all(trained, pictures, output, tally):
        lines.add(photo.path, photo.pixels.shape[1::-1], shares, seconds)
        tally.succeed()
    for path, name in videos:
        began = time.perf_counter()
        try:
            size, count, shares = video.write(output / f"{name}_overlay.mp4", path, trained)
        except InputError as error:
            tally.fail(str(error))
        else:
            lines.add(path, size, shares, time.perf_counter() - began, frames=count)
            tally.succeed()
    if tally.done:
        lines.print()
        print(f"pictures and {lines.path.name} are in {shown(output)}")
    return tally.exit_status()


def write_all(
    trained: network.Network, pictures: Sequence[photos.Item], output: pathlib.Path, tally: photos.Tally
) -> Iterator[tuple[photos.Photo, np.ndarray, float]]:
    """Writes the pictures of photos; yields each with its shares of the classes and its seconds, in order.

    Reading, the network and writing overlap; the seconds are those of the network and of writing.
    """

    def segmented():
        for batch in network.batches(photos.read_all(pictures, tally), lambda photo: photo.pixels):
            began = time.perf_counter()
            answers = trained.segment([photo.pixels for photo in batch])
            seconds = (time.perf_counter() - began) / len(batch)
            yield from zip(batch, answers, itertools.repeat(seconds))

    def write(item):
        photo, probabilities, seconds = item
        began = time.perf_counter()
        return _write(output, trained.class_names, photo, probabilities), seconds + time.perf_counter() - began

    writers = min(os.cpu_count(), MOST_WRITERS)
    with ThreadPoolExecutor(writers) as pool:
        for (photo, *_), future in photos.in_order(pool, write, segmented(), writers):
            yield photo, *future.result()


def _write(
    folder: pathlib.Path, class_names: Sequence[str], photo: photos.Photo, probabilities: np.ndarray
) -> np.ndarray:
    """Writes the pictures of one photo; returns the share of each class."""
    label, foreground = cutout.enlarge(photo.pixels, probabilities, class_names)
    png.write(folder / f"{photo.name}_mask.png", label, masks.palette(class_names))
    png.write(folder / f"{photo.name}_overlay.png", cutout.overlay(photo.pixels, label, class_names))
    path = folder / f"{photo.name}_cutout.png"
    if foreground is None:
        path.unlink(missing_ok=True)  # left by other weights
    else:
        png.write(path, cutout.cut_out(photo.pixels, foreground))
    return cutout.shares(label, len(class_names))
