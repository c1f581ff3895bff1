"""A trained network, ready to segment pictures of any size."""

import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from app import backend, files, models
from app.cli import InputError
from app.predict import cutout, tiles

import cv2
import keras
import numpy as np

BATCH_SIZE = 8
TILES = 16  # in a batch, if they have at most 256 px: fewer larger ones, so that they fit into memory
BATCH_BYTES = 150e6  # bytes: a batch has fewer large photos, so that they fit into memory


class Network(NamedTuple):
    probabilities: Callable  # images float32 [B, size, size, 3], 0..255, to float32 [B, size, size, classes], 0..1
    size: int
    class_names: tuple[str, ...]
    file: pathlib.Path
    white: float | None = None  # of the pictures of more than 8 bits that it was trained on, see photos.read
    tiles_in_batch: int = 0  # 0: not trained on tiles

    def segment(self, pictures: Sequence[np.ndarray]) -> Sequence[np.ndarray | tiles.Segmentation]:
        """What cutout.enlarge needs of pictures, uint8 RGB of any size, for each of them.

        That is the class probabilities, float32 [size, size, classes], of a resized picture. A network that was trained
        on tiles gives the classes of each pixel.
        """
        if self.tiles_in_batch:
            opacities = cutout.opacities(self.class_names)
            options = (self.probabilities, self.size, self.tiles_in_batch, opacities)
            return [tiles.segment(picture, *options) for picture in pictures]
        size = (self.size, self.size)
        pixels = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures])
        return self.probabilities(pixels.astype(np.float32))


def from_weights(
    recipe: str, build_model: Callable[[int, int], keras.Model], weights: pathlib.Path | None = None
) -> Network:
    """Loads trained weights: the given file, or the user's own training, or what comes with the project."""
    own = files.ROOT / "weights" / f"{recipe}.keras"
    path = weights or next((path for path in (own, files.shipped(recipe)) if path.exists()), None)
    if path is None:
        raise InputError(f"--predict: there is no {files.shown(own)} yet; train first, or name --weights FILE")
    model, names = models.load(recipe, path, build_model)
    with_softmax = keras.Model(model.input, keras.ops.softmax(model.output))
    origin = models.origin(path)
    size = model.input_shape[1]
    tiles_in_batch = max(1, min(TILES, TILES * 256**2 // size**2)) if origin.get("tiles") else 0
    probabilities = backend.forward(with_softmax, tiles_in_batch or BATCH_SIZE)
    return Network(probabilities, size, names, path, origin.get("white"), tiles_in_batch)


def segment_all(
    network: Network, pictures: Iterable[tuple[Any, np.ndarray]]
) -> Iterator[tuple[Any, np.ndarray, np.ndarray, float]]:
    """Segments pictures in batches, each given by a key and its pixels, uint8 [H, W, 3].

    Yields the key, the pixels, what Network.segment returns for it, and the seconds of the network.
    """
    pictures = iter(pictures)
    while True:
        batch = []
        for key, pixels in pictures:
            batch.append((key, pixels))
            if len(batch) == BATCH_SIZE or sum(pixels.size for _, pixels in batch) >= BATCH_BYTES:
                break
        if not batch:
            return
        began = time.perf_counter()
        probabilities = network.segment([pixels for _, pixels in batch])
        seconds = (time.perf_counter() - began) / len(batch)
        for (key, pixels), own in zip(batch, probabilities, strict=True):
            yield key, pixels, own, seconds
