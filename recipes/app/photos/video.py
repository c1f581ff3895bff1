"""Videos with the overlay of each frame."""

import errno
import itertools
import pathlib
import sys
from collections.abc import Iterator

from app.cli import InputError
from app.files import replacing
from app.photos import cutout
from app.photos.network import Network, batches

import cv2
import numpy as np
from tqdm import tqdm


def frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 [H, W, 3], RGB."""
    while (frame := video.read()[1]) is not None:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def write(path: pathlib.Path, source: pathlib.Path, network: Network) -> tuple[tuple[int, int], int, np.ndarray]:
    """Writes a video with the overlay of each frame, of the same size and frame rate, without sound.

    Odd sizes lose their last row or column, because the codec takes only even ones.

    Returns:
      Its size (width, height), the number of frames, and the mean share of each class.
    Raises:
      InputError: if OpenCV cannot read or write it, or it breaks off.
    """
    video = cv2.VideoCapture(str(source))
    pictures = frames(video)
    first = next(pictures, None)
    if first is None:
        raise InputError(f"{source}: not a video, or of a kind that OpenCV cannot read")
    height, width = first.shape[:2]
    rate = video.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate <= 1000 else 25  # some files hold nonsense
    announced = video.get(cv2.CAP_PROP_FRAME_COUNT)
    announced = int(announced) if 0 < announced < 1e8 else None
    count, shares = 0, np.zeros(len(network.class_names))
    bar = tqdm(total=announced, desc=source.name, unit="frame", file=sys.stdout, disable=None)  # on a terminal only
    with replacing(path) as temporary, bar:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        if not writer.isOpened():
            raise InputError(f"{source}: a video of {width} x {height} at {rate} frames a second cannot be written")
        for batch in batches(itertools.chain([first], pictures), np.asarray):
            for frame, probabilities in zip(batch, network.segment(batch), strict=True):
                label, _ = cutout.enlarge(frame, probabilities, network.class_names)
                picture = cutout.overlay(frame, label, network.class_names)
                writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                shares += np.bincount(label.ravel(), minlength=len(shares)) / label.size
                count += 1
                bar.update()
        writer.release()
        if sum(1 for _ in frames(cv2.VideoCapture(str(temporary)))) < count:  # the writer reports no errors
            raise OSError(errno.EIO, "the video could not be written completely; is the disk full?")
    if announced and count < 0.9 * announced:
        raise InputError(f"{source}: it breaks off after {count} of {announced} frames; {path.name} has those")
    return (width, height), count, shares / count
