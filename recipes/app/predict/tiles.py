"""Photos of any size, segmented at their own resolution in tiles that overlap by half.

The overlap-tile strategy (Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, figure 2): beyond its edges a photo is
mirrored. Each pixel is the mean of four tiles, weighted towards their middle, where a network sees most of the
surroundings. Only one row of tiles is in memory at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

from app.cli import InputError

import numpy as np
import tensorflow as tf


class Segmentation(NamedTuple):
    """A photo's classes at its own resolution."""

    label: np.ndarray  # uint8 [H, W]
    foreground: np.ndarray | None  # the probability of what is opaque in a cutout, uint8 [H, W]; 255 is 1


def segment(
    photo: np.ndarray, probabilities: Callable, size: int, batch_size: int, opacities: np.ndarray | None
) -> Segmentation:
    """Segments a photo, uint8 [H, W, 3].

    Args:
      probabilities: takes float32 images [B, size, size, 3], 0..255, to float32 [B, size, size, classes], 0..1.
      size: side of a tile in pixels, an even number.
      batch_size: the largest B.
      opacities: of each class in a cutout, float32 [classes], 0..1; None without a cutout.
    Raises:
      InputError: if the memory is not enough.
    """
    try:
        return _segment(photo, probabilities, size, batch_size, opacities)
    except MemoryError as error:
        pixels = f"{photo.shape[1]} x {photo.shape[0]} pixels in tiles of {size} px"
        raise InputError(f"a photo of {pixels}: not enough memory; make some free, or cut the photo up") from error


def _segment(photo: np.ndarray, probabilities: Callable, size: int, batch_size: int, opacities) -> Segmentation:
    height, width = photo.shape[:2]
    step = size // 2
    margin = step // 2  # of the first tiles before the photo: its edge, too, is in the middle of a tile
    rows, columns = -(-height // step), -(-width // step)
    label = np.empty((height, width), np.uint8)
    foreground = None if opacities is None else np.empty((height, width), np.uint8)
    x = mirrored(np.arange((columns + 1) * step) - margin, width)
    window = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size)) / step  # neighbours add up to 1
    window = np.outer(window, window).astype(np.float32)[..., np.newaxis]
    sums = None  # of the tiles of a row and of those above: their first `step` lines are complete
    for row in range(rows):
        top = row * step - margin
        pixels = photo[mirrored(np.arange(top, top + size), height)][:, x]
        for first in range(0, columns, batch_size):
            lefts = range(first * step, min(first + batch_size, columns) * step, step)
            batch = np.stack([pixels[:, left : left + size] for left in lefts]).astype(np.float32)
            for left, tile in zip(lefts, _in_parts(probabilities, batch), strict=True):
                if sums is None:
                    sums = np.zeros((size, len(x), tile.shape[-1]), np.float32)
                sums[:, left : left + size] += tile * window
        complete = slice(max(0, -top), min(step if row < rows - 1 else size, height - top))
        lines = slice(top + complete.start, top + complete.stop)
        part = sums[complete, margin : margin + width]
        label[lines] = part.argmax(axis=-1)
        if foreground is not None:
            foreground[lines] = np.rint(255 * (part @ opacities) / part.sum(axis=-1))
        sums[:step] = sums[step:]
        sums[step:] = 0
    return Segmentation(label, foreground)


def mirrored(places: np.ndarray, length: int) -> np.ndarray:
    """The places in a line of pixels that show up at these places if the line is mirrored at its ends for ever."""
    places = places % (2 * length)
    return np.minimum(places, 2 * length - 1 - places)


def _in_parts(probabilities: Callable, batch: np.ndarray) -> np.ndarray:
    """probabilities(batch), in smaller batches if the device has not enough memory; at last raises MemoryError."""
    try:
        return probabilities(batch)
    except tf.errors.ResourceExhaustedError as error:
        half = len(batch) // 2
        if not half:
            raise MemoryError from error
    return np.concatenate([_in_parts(probabilities, part) for part in (batch[:half], batch[half:])])
