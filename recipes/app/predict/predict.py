"""--predict: a trained recipe segments a person's own photos and videos, at their own size."""

import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app import device, photos
from app.cli import InputError, listed
from app.files import shown
from app.predict import cutout, network, png, video
from app.predict.journal import Journal
from common import masks

import keras

MAX_WRITERS = 4  # a photo of 12 megapixels takes 0.3 GB while its pictures are made


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

    `shard` (I, N) selects the I-th of N parts, and skips what is done already, as `resume` does.
    """
    counts = photos.Counts()
    items = photos.find_all(paths, output, counts, with_videos=True)
    if not items:
        return counts.exit_status()
    if shard:
        items = items[shard[0] - 1 :: shard[1]]
    device_name = device.description(device.start())  # before TensorFlow or JAX computes anything
    trained = network.from_weights(recipe, build_model, weights)
    lines = Journal(output, trained.class_names, trained.file, shard)
    selected = lines.select(items, skip_done=resume or shard is not None)
    pictures = [item for item in selected if not item.is_video]
    videos = [item for item in selected if item.is_video]
    counts.done = len(items) - len(selected)
    what = f"photos: {len(pictures)}, videos: {len(videos)}, done before: {counts.done}"
    names = listed(trained.class_names)
    print(f"{recipe} | {what} | {shown(trained.file)}, {trained.size} px: {names} | {device_name}", flush=True)

    photo_results = write_photos(trained, pictures, output, counts)
    video_results = write_videos(trained, videos, output, counts)
    for item, result in itertools.chain(photo_results, video_results):
        lines.add(item.path, **result)
        counts.done += 1
    if counts.done:
        lines.print()
        print(f"pictures and {lines.path.name} are in {shown(output)}")
    return counts.exit_status()


def write_photos(
    trained: network.Network, items: Sequence[photos.Item], output: pathlib.Path, counts: photos.Counts
) -> Iterator[tuple[photos.Item, dict[str, Any]]]:
    """Writes the pictures of photos, and yields each item in order, with what the journal records of it.

    Reading, the network and writing overlap; the seconds are those of the network and of writing.
    """
    class_names = trained.class_names

    def write(segmented):
        item, photo, probabilities, seconds = segmented
        began = time.perf_counter()
        label, foreground = cutout.enlarge(photo, probabilities, class_names)
        png.write(output / f"{item.name}_mask.png", label, masks.palette(class_names))
        png.write(output / f"{item.name}_overlay.png", cutout.overlay(photo, label, class_names))
        path = output / f"{item.name}_cutout.png"
        if foreground is None:
            path.unlink(missing_ok=True)  # left by other weights
        else:
            png.write(path, cutout.cut_out(photo, foreground))
        seconds += time.perf_counter() - began
        return {"size": photo.shape[1::-1], "fractions": cutout.fractions(label, len(class_names)), "seconds": seconds}

    segmented = network.segment_all(trained, photos.read_all(items, counts))
    writers = min(os.cpu_count(), MAX_WRITERS)
    with ThreadPoolExecutor(writers) as pool:
        for (item, *_), result in photos.in_order(pool, write, segmented, writers):
            yield item, result.result()


def write_videos(
    trained: network.Network, items: Sequence[photos.Item], output: pathlib.Path, counts: photos.Counts
) -> Iterator[tuple[photos.Item, dict[str, Any]]]:
    """Writes the overlays of videos; yields each item and what the journal records of it."""
    for item in items:
        began = time.perf_counter()
        try:
            result = video.write(output / f"{item.name}_overlay.mp4", item.path, trained)
            yield item, {**result, "seconds": time.perf_counter() - began}
        except InputError as error:
            counts.fail(str(error))
