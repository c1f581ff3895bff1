"""A trained network, ready to segment pictures of any size."""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from app import backend, files, models
from app.cli import InputError

import cv2
import keras
import numpy as np

BATCH_SIZE = 8
BATCH_PIXELS = 50e6  # per batch: fewer large photos, so that they fit into memory


class Network(NamedTuple):
    """A trained network and what it was trained on."""

    probabilities: Callable  # images float32 [B, size, size, 3], 0..255, to float32 [B, size, size, classes], 0..1
    size: int
    class_names: tuple[str, ...]
    file: pathlib.Path

    def segment(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """The class probabilities of pictures, uint8 RGB of any size: float32 [B, size, size, classes]."""
        size = (self.size, self.size)
        pixels = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures])
        return self.probabilities(pixels.astype(np.float32))


def from_weights(
    recipe: str, build_model: Callable[[int, int], keras.Model], weights: pathlib.Path | None = None
) -> Network:
    """Loads trained weights: the given file, or the user's own training, or what comes with the project.

    Raises:
      InputError: if there are none, or they are damaged or of another recipe.
    """
    own = files.ROOT / "weights" / f"{recipe}.keras"
    path = weights or next((path for path in (own, files.shipped(recipe)) if path.exists()), None)
    if path is None:
        raise InputError(f"--predict: there is no {files.shown(own)} yet; train first, or name --weights FILE")
    model, names = models.load(recipe, path, build_model)
    with_softmax = keras.Model(model.input, keras.ops.softmax(model.output))
    return Network(backend.forward(with_softmax, BATCH_SIZE), model.input_shape[1], names, path)


def batches(pictures: Iterable, pixels: Callable[[Any], np.ndarray]) -> Iterator[list]:
    """Lists of up to BATCH_SIZE pictures, fewer if they are large; pixels() gives the [H, W, 3] of each."""
    batch, total = [], 0
    for picture in pictures:
        batch.append(picture)
        total += pixels(picture).size / 3
        if len(batch) == BATCH_SIZE or total >= BATCH_PIXELS:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
