"""What a trained recipe is for: segments a person's own photos and videos, at their own size."""

import argparse
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
from typing import NamedTuple

from common import masks, photos
from common.files import ROOT, InputError, print_table, replacing, shown
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
# Strength and tolerance of the edge-aware filter: chosen on 60 training photos, where they gave the best outline.
SMOOTHNESS = 200.0  # for a photo of 500 pixels
EDGE_TOLERANCE = 8.0  # grey levels
CONTRAST = 3.0  # of a cutout's edge: its alpha goes from nothing to full in this part of the probability's range
BACKGROUND = "background"


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
    network = load(args, build_model)
    names = ", ".join(network.class_names[:6]) + (", ..." if len(network.class_names) > 6 else "")
    where = f"{shown(network.file)}, {network.size} px: {names} | {device_name(gpu_details())}"
    print(f"{args.recipe} | photos: {len(reader.photos)}, videos: {len(reader.videos)} | {where}", flush=True)

    args.output.mkdir(parents=True, exist_ok=True)
    rows = [("photo or video", "size", "seconds", "shares")]
    with (args.output / "predictions.jsonl").open("w", encoding="utf-8") as lines:

        def record(path, size, shares, seconds, **more):
            width, height = size
            shares = dict(zip(network.class_names, (round(float(share), 5) for share in shares), strict=True))
            entry = {"path": str(path), "size": [width, height], **more, "shares": shares, "seconds": round(seconds, 3)}
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            lines.flush()
            largest = sorted(shares.items(), key=lambda item: -item[1])[:4]
            summary = ", ".join(f"{share:.0%} {name}" for name, share in largest)
            rows.append((str(shown(path)), f"{width} x {height}", f"{seconds:.1f}", summary))
            reader.done += 1

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in batches(reader, BATCH_SIZE):
                began = time.perf_counter()
                answers = _answer(network, [photo.pixels for photo in batch])
                results = list(pool.map(functools.partial(_write_photo, args.output, network), batch, answers))
                seconds = (time.perf_counter() - began) / len(batch)
                for photo, shares in zip(batch, results, strict=True):
                    record(photo.path, photo.pixels.shape[1::-1], shares, seconds)
        for path, name in reader.videos:
            began = time.perf_counter()
            try:
                size, frames, shares = _write_video(args.output / f"{name}_overlay.mp4", path, network)
            except InputError as error:
                reader.fail(str(error))
            else:
                record(path, size, shares, time.perf_counter() - began, frames=frames)
    if reader.done:
        print_table(rows)
        print(f"pictures and predictions.jsonl are in {shown(args.output)}")
    return reader.exit_status()


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
        reason = "damaged, of another recipe or of another number of classes"
        raise InputError(f"--weights {path}: no weights for {args.recipe} ({reason})") from error
    if model.name != args.recipe:
        raise InputError(f"--weights {path}: of another recipe, {model.name}; this one is {args.recipe}")

    answer = tf.function(lambda pixels: keras.ops.softmax(model(pixels, training=False)), reduce_retracing=True)
    return Network(lambda pixels: answer(tf.constant(pixels)).numpy(), model.input_shape[1], names, path)


def _load_model(path: pathlib.Path, _) -> tuple[keras.Model, tuple[str, ...]]:
    model = keras.saving.load_model(path, compile=False)  # in safe mode: it runs no code that is in the file
    with zipfile.ZipFile(path) as archive:
        if CLASSES_FILE in archive.namelist():
            return model, tuple(json.loads(archive.read(CLASSES_FILE)))
    return model, tuple(f"class {index}" for index in range(model.output_shape[-1]))


def _load_weights(path: pathlib.Path, build_model: Callable) -> tuple[keras.Model, tuple[str, ...]]:
    """Loads what `save_weights` writes; the attributes "image_size" and "class_names" say what the network is for."""
    with h5py.File(path) as file:
        size = int(file.attrs.get("image_size", 256))
        names = tuple(json.loads(file.attrs.get("class_names", json.dumps(CLASS_NAMES))))
    model = build_model(size, len(names))
    model.load_weights(path)
    return model, names


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, the last one may be shorter."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _answer(network: Network, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The class probabilities of pictures, uint8 RGB of any size, at the network's size: [B, size, size, classes]."""
    size = (network.size, network.size)
    pixels = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures])
    return network.probabilities(pixels.astype(np.float32))


def enlarge(
    photo: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Brings probabilities up to a photo's size.

    The photo guides them: they are smoothed along what looks alike and keep their steps where the photo has edges
    (Min et al.: Fast Global Image Smoothing Based on Weighted Least Squares, TIP 2014). A trimap's border is no part
    of the picture but a band drawn around the pet, which the filter would wipe out: so its classes are enlarged
    bilinearly, and the guided outline of the pet goes along the middle of the band.

    Args:
      photo: uint8 [H, W, 3].
      probabilities: float32 [h, w, classes], 0..1.
      class_names: one of them may be "background".
    Returns:
      The label map, uint8 [H, W], and the guided probability of what is not background, float32 [H, W], 0..1; None
      where there is no background among the classes.
    """
    height, width = photo.shape[:2]
    strength = SMOOTHNESS * (max(height, width) / 500) ** 2
    edge_aware = cv2.ximgproc.createFastGlobalSmootherFilter(np.ascontiguousarray(photo), strength, EDGE_TOLERANCE)

    def bilinear(channel):
        return cv2.resize(np.ascontiguousarray(channel), (width, height), interpolation=cv2.INTER_LINEAR)

    def guided(channel):
        return edge_aware.filter(bilinear(channel))

    is_trimap = set(class_names) == set(CLASS_NAMES)
    label, best = np.zeros((height, width), np.uint8), np.full((height, width), -1, np.float32)
    for index in np.unique(probabilities.argmax(-1)):  # no other can come out on top
        channel = (bilinear if is_trimap else guided)(probabilities[..., index])
        label[channel > best] = index
        np.maximum(best, channel, out=best)

    of = {name: probabilities[..., index] for index, name in enumerate(class_names)}
    if is_trimap:
        return label, guided(of["pet"] + of["border"] / 2)
    if BACKGROUND in of:
        return label, guided(1 - of[BACKGROUND])
    return label, None


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
    if foreground is not None:
        photos.write(folder / f"{photo.name}_cutout.png", np.dstack([photo.pixels, alpha(foreground)]))
    return np.bincount(label.ravel(), minlength=len(network.class_names)) / label.size


def frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 [H, W, 3], RGB."""
    while (frame := video.read()[1]) is not None:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _write_video(path: pathlib.Path, source: pathlib.Path, network: Network) -> tuple[tuple[int, int], int, np.ndarray]:
    """Writes a video with the overlay of each frame, of the same size and frame rate, without its sound.

    Returns:
      Its size (width, height), the number of frames, and the mean share of each class.
    Raises:
      InputError: for what OpenCV cannot open as a video.
    """
    video = cv2.VideoCapture(str(source))
    pictures = frames(video)
    first = next(pictures, None)
    if first is None:
        raise InputError(f"{source}: not a video, or of a kind that OpenCV cannot read")
    height, width = first.shape[:2]
    count, shares = 0, np.zeros(len(network.class_names))
    total = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    with replacing(path) as temporary, tqdm(total=total, desc=source.name, unit="frame", file=sys.stdout) as bar:
        rate = video.get(cv2.CAP_PROP_FPS) or 25
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        for batch in batches(itertools.chain([first], pictures), BATCH_SIZE):
            for frame, probabilities in zip(batch, _answer(network, batch), strict=True):
                label, _ = enlarge(frame, probabilities, network.class_names)
                picture = overlay(frame, label, network.class_names)
                writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                shares += np.bincount(label.ravel(), minlength=len(shares)) / label.size
                count += 1
                bar.update()
        writer.release()
    return (width, height), count, shares / count
