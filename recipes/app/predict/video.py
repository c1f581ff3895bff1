"""Videos with the overlay of each frame."""

import pathlib
import sys
from typing import Any

from app.cli import InputError
from app.files import replacing
from app.predict import cutout
from app.predict.network import Network, segment_all
from app.video.reader import VideoReader
from app.video.writer import VideoWriter

import numpy as np
from tqdm import tqdm


def write(path: pathlib.Path, source: pathlib.Path, network: Network) -> dict[str, Any]:
    """Writes a video with the overlay of each frame, upright and at its time, with the sound.

    Returns the "size" of the frames (width, height), "frames", their number, and "fractions", the mean of each class.
    Whatever reading or encoding raises becomes an InputError that names the source, except that an OSError of the
    output stays one. Errors of the network and of the overlays are faults of the code, and stay what they are.
    """
    with VideoReader(source) as video:
        count = 0
        fractions = np.zeros(len(network.class_names))
        declared = video.stream.frames or None  # often a guess
        bar = tqdm(total=declared, desc=source.name, unit="frame", file=sys.stdout, disable=None)  # on a terminal only
        with replacing(path) as temporary, bar, VideoWriter(temporary, video) as output:
            for (time, duration), pixels, probabilities, _ in segment_all(network, video.frames()):
                label, _ = cutout.enlarge(pixels, probabilities, network.class_names)
                output.write(cutout.overlay(pixels, label, network.class_names), time, duration)
                fractions += cutout.fractions(label, len(fractions))
                count += 1
                bar.update()
            output.finish()
    if video.seconds < video.expected:
        what = f"it breaks off after {video.seconds:.1f} of {video.expected:.1f} s; {path.name} has those"
        raise InputError(f"{source}: {what}")
    return {"size": pixels.shape[1::-1], "frames": count, "fractions": fractions / count}
