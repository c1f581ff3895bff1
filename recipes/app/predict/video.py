"""Videos with the overlay of each frame: H.264, which browsers and phones play, with the sound of the source."""

import contextlib
import itertools
import pathlib
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from app.cli import InputError
from app.files import replacing
from app.predict import cutout
from app.predict.network import Network, segment_all

import av
import cv2
import numpy as np
from tqdm import tqdm

SOUND = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}  # what MP4 files can hold; other sound becomes AAC
QUALITY = {"crf": "20", "preset": "veryfast"}  # of x264
MAX_RATE = 1000  # frames a second; some files declare absurd rates


def write(path: pathlib.Path, source: pathlib.Path, network: Network) -> dict[str, Any]:
    """Writes a video with the overlay of each frame, upright and at its time, with the sound.

    Returns the "size" of the frames (width, height), "frames", their number, and "fractions", the mean of each class.
    """
    with _open(source) as video:
        sound: list[av.Packet] = []  # read, but not yet written
        frames = _frames(video, sound)
        first = next(frames, None)
        if first is None:
            raise InputError(f"{source}: not a video, or of a kind that FFmpeg cannot read")
        count = 0
        fractions = np.zeros(len(network.class_names))
        declared = video.streams.video[0].frames or None  # often a guess
        time_base = video.streams.video[0].time_base
        bar = tqdm(total=declared, desc=source.name, unit="frame", file=sys.stdout, disable=None)  # on a terminal only
        options = {"movflags": "faststart"}  # the index comes first: a browser plays it while it is loading
        with replacing(path) as temporary, bar, av.open(str(temporary), "w", "mp4", options) as output:
            pictures = _add_pictures(output, video, first[1])
            audio = next(iter(video.streams.audio), None)
            track = _add_sound(output, audio) if audio else None
            for time, pixels, probabilities, _ in segment_all(network, itertools.chain([first], frames)):
                label, _ = cutout.enlarge(pixels, probabilities, network.class_names)
                frame = _frame(cutout.overlay(pixels, label, network.class_names))
                frame.pts = time
                frame.time_base = time_base
                output.mux(pictures.encode(frame))
                _write_sound(output, track, sound)
                fractions += cutout.fractions(label, len(fractions))
                count += 1
                bar.update()
            output.mux(pictures.encode(None))
            _write_sound(output, track, sound)
            if audio and audio.codec_context.name not in SOUND:
                output.mux(track.encode(None))
        seconds = float(time * time_base)
        expected = float((video.duration or 0) / av.time_base)
    if seconds < 0.9 * expected - 1 / MAX_RATE:
        raise InputError(f"{source}: it breaks off after {seconds:.1f} of {expected:.1f} s; {path.name} has those")
    return {"size": pixels.shape[1::-1], "frames": count, "fractions": fractions / count}


def _open(source: pathlib.Path) -> av.container.InputContainer:
    try:
        return av.open(str(source), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{source}: not a video, or of a kind that FFmpeg cannot read") from error


def _frames(video: av.container.InputContainer, sound: list[av.Packet]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of a video, as far as they can be read; packets of sound between them are added to `sound`.

    Yields the time in units of the stream's time base, and the upright pixels, uint8 [H, W, 3], RGB. A frame whose time
    is missing, or not after the frame before, comes one step after it.
    """
    if not video.streams.video:
        return
    stream = video.streams.video[0]
    stream.thread_type = "AUTO"
    step = max(1, round(1 / (_rate(stream) * stream.time_base)))
    last = None
    with contextlib.suppress(av.FFmpegError):
        for packet in video.demux(stream, *video.streams.audio[:1]):
            if packet.stream is not stream:
                sound.append(packet)
                continue
            with contextlib.suppress(av.error.InvalidDataError):  # a damaged frame is left out
                for frame in packet.decode():
                    time = frame.pts
                    if last is not None and (time is None or time <= last):
                        time = last + step
                    last = time or 0
                    yield last, np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)


def _rate(stream: av.VideoStream) -> Fraction | int:
    rate = stream.average_rate
    return rate if rate and rate <= MAX_RATE else 25


def _add_pictures(
    output: av.container.OutputContainer, source: av.container.InputContainer, pixels: np.ndarray
) -> av.VideoStream:
    stream = source.streams.video[0]
    height, width = pixels.shape[:2]
    pictures = output.add_stream("libx264", rate=_rate(stream), options=QUALITY)
    pictures.height = height + height % 2  # H.264 takes only even sizes
    pictures.width = width + width % 2
    pictures.pix_fmt = "yuv420p"
    codec = pictures.codec_context
    codec.time_base = stream.time_base
    codec.colorspace = codec.color_primaries = codec.color_trc = 1  # BT.709
    codec.color_range = 1  # limited
    if shape := stream.sample_aspect_ratio:
        is_turned = (height > width) != (stream.height > stream.width)
        codec.sample_aspect_ratio = 1 / shape if is_turned else shape
    return pictures


def _frame(pixels: np.ndarray) -> av.VideoFrame:
    """A frame to encode; an odd size is made even by a copy of the last row or column."""
    height, width = pixels.shape[:2]
    pixels = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


def _add_sound(output: av.container.OutputContainer, source: av.AudioStream) -> av.AudioStream:
    if source.codec_context.name in SOUND:
        return output.add_stream_from_template(source)
    return output.add_stream("aac", rate=source.codec_context.sample_rate)


def _write_sound(output: av.container.OutputContainer, track: av.AudioStream, packets: list[av.Packet]) -> None:
    """Writes packets of sound, and empties the list."""
    for packet in packets:
        if packet.stream.codec_context.name not in SOUND:
            with contextlib.suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    output.mux(track.encode(frame))
        elif packet.dts is not None:
            packet.stream = track
            output.mux(packet)
    packets.clear()
