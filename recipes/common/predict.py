"""What a trained recipe is for: segments a person's own photos and videos, at their own size."""

import argparse
import contextlib
import errno
import functools
import itertools
import json
import os
import pathlib
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from common import masks, photos
from common.files import ROOT, InputError, print_table, replacing, shown, write_text
from common.runs import CLASSES_FILE, device_name, gpu_details
from common.synthetic import CLASS_NAMES

import cv2
import h5py
import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

BATCH_SIZE = 8
BATCH_PIXELS = 50e6  # of the photos in a batch: few large ones, so that they fit into memory
# Chosen on 100 training photos, where they gave the best outline. Lengths are those in a photo of 500 pixels.
SMOOTHNESS = 100.0  # of the edge-aware filter
EDGE_TOLERANCE = 8.0  # grey levels
BORDER = 8.5  # half of the width of a trimap's border
CONTRAST = 3.0  # of a cutout's edge: its alpha goes from nothing to full in this part of the probability's range
BACKGROUND = "background"
MOST_LINES = 40  # of the table


class Network(NamedTuple):
    """A trained network and what it was trained on."""

    probabilities: Callable  # photos float32 [B, size, size, 3], 0..255, to float32 [B, size, size, classes], 0..1
    size: int
    class_names: tuple[str, ...]
    file: pathlib.Path


def run(args: argparse.Namespace, build_model: Callable[[int, int], keras.Model]) -> int:
    """Segments what --predict names; returns the exit status.

    A photo gives NAME_mask.png (a palette picture whose values are class ids), NAME_overlay.png, NAME_cutout.png (all
    but the background) and a line of predictions.jsonl; a video gives NAME_overlay.mp4 and such a line.
    """
    reader = photos.Reader(args.predict, args.output, videos=True)
    if not reader.photos and not reader.videos:
        return reader.exit_status()
    part, parts = args.shard or (1, 1)
    reader.photos, reader.videos = reader.photos[part - 1 :: parts], reader.videos[part - 1 :: parts]
    device = device_name(gpu_details())  # before anything else uses it
    network = load(args, build_model)
    journal = Journal(args.output, network.class_names, args.shard, keep=bool(args.resume or args.shard))
    reader.done = journal.skip(reader.photos) + journal.skip(reader.videos)
    names = ", ".join(network.class_names[:6]) + (", ..." if len(network.class_names) > 6 else "")
    where = f"{shown(network.file)}, {network.size} px: {names} | {device}"
    what = f"photos: {len(reader.photos)}, videos: {len(reader.videos)}, done before: {reader.done}"
    print(f"{args.recipe} | {what} | {where}", flush=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in batches(reader, lambda photo: photo.pixels):
            began = time.perf_counter()
            answers = segment(network, [photo.pixels for photo in batch])
            results = list(pool.map(functools.partial(_write_photo, args.output, network), batch, answers))
            seconds = (time.perf_counter() - began) / len(batch)
            for photo, shares in zip(batch, results, strict=True):
                journal.add(photo.path, photo.pixels.shape[1::-1], shares, seconds)
                reader.done += 1
    for path, name in reader.videos:
        began = time.perf_counter()
        try:
            size, count, shares = _write_video(args.output / f"{name}_overlay.mp4", path, network)
        except InputError as error:
            reader.fail(str(error))
        else:
            journal.add(path, size, shares, time.perf_counter() - began, frames=count)
            reader.done += 1
    if reader.done:
        journal.print()
        print(f"pictures and {journal.path.name} are in {shown(args.output)}")
    return reader.exit_status()


class Journal:
    """predictions.jsonl, a line for each photo when its pictures are written. A shard has a file of its own."""

    def __init__(self, folder: pathlib.Path, class_names: Sequence[str], shard: tuple[int, int] | None, keep: bool):
        """With `keep` what is written there already is done, and need not be done again."""
        name = "predictions.jsonl" if shard is None else "predictions-{}-of-{}.jsonl".format(*shard)
        self.path, self.class_names = folder / name, class_names
        self.lines = []  # what this run has written
        self.kept = {}
        if keep and self.path.exists():
            for line in self.path.read_bytes().decode("utf-8", errors="replace").split("\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # the last one may be half
                    self.kept[json.loads(line)["path"]] = line

    def skip(self, items: list[tuple[pathlib.Path, str]]) -> int:
        """Takes what is done out of a list of paths and names; returns how many that were."""
        before = len(items)
        items[:] = [(path, name) for path, name in items if _text(path) not in self.kept]
        return before - len(items)

    def add(self, path: pathlib.Path, size: tuple[int, int], shares: np.ndarray, seconds: float, **more) -> None:
        if not self.lines:  # until now the file of the run before has stayed as it was
            write_text(self.path, "".join(f"{line}\n" for line in self.kept.values()))
        shares = dict(zip(self.class_names, (round(float(share), 5) for share in shares), strict=True))
        entry = {"path": _text(path), "size": list(size), **more, "shares": shares, "seconds": round(seconds, 3)}
        self.lines.append(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def print(self) -> None:
        table = [("photo or video", "size", "seconds", "shares")]
        for entry in self.lines[:MOST_LINES]:
            largest = sorted(entry["shares"].items(), key=lambda item: -item[1])[:4]
            summary = ", ".join(f"{share:.0%} {name}" for name, share in largest)
            name = str(shown(pathlib.Path(entry["path"])))
            table.append((name, "{} x {}".format(*entry["size"]), f"{entry['seconds']:.1f}", summary))
        print_table(table)
        if len(self.lines) > MOST_LINES:
            print(f"... and {len(self.lines) - MOST_LINES} more")


def _text(path: pathlib.Path) -> str:
    """A path as text that any file takes, also where its bytes are no UTF-8."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def load(args: argparse.Namespace, build_model: Callable[[int, int], keras.Model]) -> Network:
    """Loads the trained weights: --weights, or the person's own training, or what comes with the project.

    Raises:
      InputError: where there are none, or they are of another recipe or damaged.
    """
    own = [ROOT / "weights" / f"{args.recipe}{ending}" for ending in (".keras", ".weights.h5")]
    path = args.weights or next((path for path in own if path.exists()), None)
    if path is None:
        raise InputError(f"--predict: there is no {shown(own[0])} yet; train first, or give --weights FILE")
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of each layer that does not fit
            model, names = (_load_weights if path.suffix == ".h5" else _load_model)(path, build_model)
    except InputError:
        raise
    except Exception as error:  # zipfile, HDF5, JSON and Keras raise a dozen kinds
        reason = "damaged, of another recipe or number of classes, or without the attributes named in weights/README.md"
        raise InputError(f"--weights {path}: no weights for {args.recipe} ({reason})") from error
    if model.name != args.recipe:
        raise InputError(f"--weights {path}: of another recipe, {model.name}; this one is {args.recipe}")
    size = model.input_shape[1] if len(model.input_shape) == 4 else None
    if not size or (model.input_shape, model.output_shape) != ((None, size, size, 3), (None, size, size, len(names))):
        raise InputError(
            f"--weights {path}: it does not give {len(names)} classes for each pixel of a square RGB picture"
        )

    answer = tf.function(lambda pixels: keras.ops.softmax(model(pixels, training=False)), reduce_retracing=True)
    return Network(lambda pixels: answer(tf.constant(pixels)).numpy(), size, names, path)


def _load_model(path: pathlib.Path, _) -> tuple[keras.Model, tuple[str, ...]]:
    model = keras.saving.load_model(path, compile=False)  # in safe mode: it runs no code that is in the file
    with zipfile.ZipFile(path) as archive:
        if CLASSES_FILE in archive.namelist():
            return model, tuple(json.loads(archive.read(CLASSES_FILE)))
    return model, tuple(f"class {index}" for index in range(model.output_shape[-1]))


def _load_weights(path: pathlib.Path, build_model: Callable) -> tuple[keras.Model, tuple[str, ...]]:
    """Loads a file of `save_weights` with the attributes "image_size" and "class_names"; see weights/README.md."""
    with h5py.File(path) as file:
        size, names = int(file.attrs["image_size"]), tuple(json.loads(file.attrs["class_names"]))
    model = build_model(size, len(names))
    model.load_weights(path)
    return model, names


def batches(pictures: Iterable, pixels: Callable[[Any], np.ndarray]) -> Iterator[list]:
    """Lists of at most BATCH_SIZE pictures, or fewer large ones; pixels() gives the [H, W, 3] of each."""
    batch, total = [], 0
    for picture in pictures:
        batch.append(picture)
        total += pixels(picture).size / 3
        if len(batch) == BATCH_SIZE or total >= BATCH_PIXELS:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def segment(network: Network, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The class probabilities of pictures, uint8 RGB of any size, at the network's size: [B, size, size, classes]."""
    size = (network.size, network.size)
    pixels = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures])
    return network.probabilities(pixels.astype(np.float32))


def enlarge(
    photo: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Brings probabilities up to a photo's size.

    The photo guides them: they are smoothed along what looks alike and keep their steps where the photo has edges
    (Min et al.: Fast Global Image Smoothing Based on Weighted Least Squares, TIP 2014). A trimap's border is nothing
    that is seen in a photo but a band on both sides of the pet's outline, so it is drawn around the guided outline.

    Args:
      photo: uint8 [H, W, 3].
      probabilities: float32 [h, w, classes], 0..1.
      class_names: one of them may be "background".
    Returns:
      The label map, uint8 [H, W], and the probability of what is not background, float32 [H, W], 0..1; None where
      there is no background among the classes.
    """
    height, width = photo.shape[:2]
    scale = max(height, width) / 500
    edge_aware = cv2.ximgproc.createFastGlobalSmootherFilter(
        np.ascontiguousarray(photo), SMOOTHNESS * scale**2, EDGE_TOLERANCE
    )

    def guided(channel):
        channel = np.ascontiguousarray(channel, np.float32)
        return edge_aware.filter(cv2.resize(channel, (width, height), interpolation=cv2.INTER_LINEAR))

    of = {name: probabilities[..., index] for index, name in enumerate(class_names)}
    if set(of) == set(CLASS_NAMES):
        pet = guided(of["pet"] + of["border"] / 2)  # its outline goes along the middle of the border
        inside = (pet > 0.5).astype(np.uint8)
        to_outline = cv2.distanceTransform(inside, cv2.DIST_L2, 5) + cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
        named = {name: list(class_names).index(name) for name in CLASS_NAMES}
        label = np.where(inside == 1, named["pet"], named["background"])
        return np.where(to_outline <= BORDER * scale, named["border"], label).astype(np.uint8), pet

    label, best = np.zeros((height, width), np.uint8), np.full((height, width), -1, np.float32)
    for index in np.unique(probabilities.argmax(-1)):  # no other can come out on top
        channel = guided(probabilities[..., index])
        label[channel > best] = index
        np.maximum(best, channel, out=best)
    return label, guided(1 - of[BACKGROUND]) if BACKGROUND in of else None


def alpha(foreground: np.ndarray) -> np.ndarray:
    """The opacity of a cutout, uint8 0..255, from the probability of what is not background, 0..1."""
    return np.round(((foreground - 0.5) * CONTRAST + 0.5).clip(0, 1) * 255).astype(np.uint8)


def overlay(photo: np.ndarray, label: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Lays the colours of the classes over a photo, both uint8; the background stays as it is."""
    colored = masks.overlay(photo, label, masks.palette(class_names))
    if BACKGROUND in class_names:
        background = label == list(class_names).index(BACKGROUND)
        colored[background] = photo[background]
    return colored


def _write_photo(folder: pathlib.Path, network: Network, photo: photos.Photo, probabilities: np.ndarray) -> np.ndarray:
    """Writes the pictures of one photo; returns the share of each class."""
    label, foreground = enlarge(photo.pixels, probabilities, network.class_names)
    mask = Image.fromarray(label)
    mask.putpalette(masks.palette(network.class_names).tobytes())
    with replacing(folder / f"{photo.name}_mask.png") as temporary:
        mask.save(temporary)
    photos.write(folder / f"{photo.name}_overlay.png", overlay(photo.pixels, label, network.class_names))
    cutout = folder / f"{photo.name}_cutout.png"
    if foreground is None:
        cutout.unlink(missing_ok=True)  # of an earlier run with other weights
    else:
        photos.write(cutout, np.dstack([photo.pixels, alpha(foreground)]))
    return np.bincount(label.ravel(), minlength=len(network.class_names)) / label.size


def frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 [H, W, 3], RGB."""
    while (frame := video.read()[1]) is not None:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _write_video(path: pathlib.Path, source: pathlib.Path, network: Network) -> tuple[tuple[int, int], int, np.ndarray]:
    """Writes a video with the overlay of each frame, of the same size and frame rate, without its sound.

    Of an odd size the last row or column is left out, for the codec takes even ones only.

    Returns:
      Its size (width, height), the number of frames, and the mean share of each class.
    Raises:
      InputError: for what OpenCV cannot read or write as a video, or what breaks off.
    """
    video = cv2.VideoCapture(str(source))
    pictures = frames(video)
    first = next(pictures, None)
    if first is None:
        raise InputError(f"{source}: not a video, or of a kind that OpenCV cannot read")
    height, width = first.shape[:2]
    rate = video.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate <= 1000 else 25  # what some files say is no rate
    announced = video.get(cv2.CAP_PROP_FRAME_COUNT)
    announced = int(announced) if 0 < announced < 1e8 else None
    count, shares = 0, np.zeros(len(network.class_names))
    with replacing(path) as temporary, tqdm(total=announced, desc=source.name, unit="frame", file=sys.stdout) as bar:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        if not writer.isOpened():
            raise InputError(f"{source}: a video of {width} x {height} at {rate} frames a second cannot be written")
        for batch in batches(itertools.chain([first], pictures), np.asarray):
            for frame, probabilities in zip(batch, segment(network, batch), strict=True):
                label, _ = enlarge(frame, probabilities, network.class_names)
                picture = overlay(frame, label, network.class_names)
                writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                shares += np.bincount(label.ravel(), minlength=len(shares)) / label.size
                count += 1
                bar.update()
        writer.release()
        if sum(1 for _ in frames(cv2.VideoCapture(str(temporary)))) < count:  # the writer itself says nothing
            raise OSError(errno.EIO, "the video could not be written whole; is the disk full?")
    if announced and count < 0.9 * announced:
        raise InputError(f"{source}: it breaks off after {count} of {announced} frames; {path.name} has those")
    return (width, height), count, shares / count
