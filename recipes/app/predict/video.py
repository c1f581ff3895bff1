"""Videos with the overlay of each frame: H.264, which browsers and phones play, with the sound of the source."""

import contextlib
import itertools
import pathlib
import sys
from collections.abc import Iterator
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
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the usual colours and range
USUAL_RATE, MAX_RATE = 25, 1000  # frames a second; some files declare absurd rates


def write(path: pathlib.Path, source: pathlib.Path, network: Network) -> dict[str, Any]:
    """Writes a video with the overlay of each frame, upright and at its time, with the sound.

    Returns:
      "size" of the frames (width, height), "frames", their number, and "fractions", the mean fraction of each class.
    Raises:
      InputError: if the source is no video, or breaks off.
    """
    with _open(source) as video:
        sound: list[av.Packet] = []
        frames = _frames(video, sound)
        first = next(frames, None)
        if first is None:
            raise InputError(f"{source}: not a video, or of a kind that FFmpeg cannot read")
        count = 0
        fractions = np.zeros(len(network.class_names))
        declared = video.streams.video[0].frames or None  # often a guess
        bar = tqdm(total=declared, desc=source.name, unit="frame", file=sys.stdout, disable=None)  # on a terminal only
        # With its index at the beginning, a browser plays it while it is loading.
        options = {"format": "mp4", "options": {"movflags": "faststart"}}
        with replacing(path) as temporary, bar, av.open(str(temporary), "w", **options) as output:
            writer = _Writer(output, video, first)
            for time, frame, probabilities, _ in segment_all(network, itertools.chain([first], frames)):
                label, _ = cutout.enlarge(frame, probabilities, network.class_names)
                writer.add(cutout.overlay(frame, label, network.class_names), time)
                writer.add_sound(sound)
                fractions += cutout.fractions(label, len(fractions))
                count += 1
                bar.update()
            writer.add_sound(sound)
            writer.finish()
        seconds = float(writer.time * writer.time_base)
        expected = float((video.duration or 0) / av.time_base)
    if seconds < 0.9 * expected - 1 / MAX_RATE:
        raise InputError(f"{source}: it breaks off after {seconds:.1f} of {expected:.1f} s; {path.name} has those")
    return {"size": frame.shape[1::-1], "frames": count, "fractions": fractions / count}


def _open(source: pathlib.Path) -> av.container.InputContainer:
    try:
        return av.open(str(source), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{source}: not a video, or of a kind that FFmpeg cannot read") from error


def _frames(video: av.container.InputContainer, sound: list[av.Packet]) -> Iterator[tuple[int | None, np.ndarray]]:
    """The frames of a video, as far as they can be read; packets of sound between them are added to `sound`.

    Yields:
      The time in units of the stream's time base, if it has one, and the upright pixels, uint8 [H, W, 3], RGB.
    """
    if not video.streams.video:
        return
    pictures = video.streams.video[0]
    pictures.thread_type = "AUTO"
    with contextlib.suppress(av.FFmpegError):
        for packet in video.demux(pictures, *video.streams.audio[:1]):
            if packet.stream is not pictures:
                sound.append(packet)
                continue
            with contextlib.suppress(av.error.InvalidDataError):  # a damaged frame is left out
                for frame in packet.decode():
                    yield frame.pts, np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)


class _Writer:
    """Writes a video with the times, the shape of pixels and the sound of its source.

    Attributes:
      time: of the last frame written, in units of `time_base`.
    """

    def __init__(
        self,
        output: av.container.OutputContainer,
        source: av.container.InputContainer,
        first: tuple[int | None, np.ndarray],
    ):
        self.output = output
        stream = source.streams.video[0]
        rate = stream.average_rate if stream.average_rate and stream.average_rate <= MAX_RATE else USUAL_RATE
        time, pixels = first
        height, width = pixels.shape[:2]
        self.pictures = output.add_stream("libx264", rate=rate, options=QUALITY)
        self.pictures.height = height + height % 2  # H.264 takes only even sizes
        self.pictures.width = width + width % 2
        self.pictures.pix_fmt = "yuv420p"
        self.time_base = stream.time_base
        codec = self.pictures.codec_context
        codec.time_base = self.time_base
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED
        if shape := stream.sample_aspect_ratio:
            is_turned = (height > width) != (stream.height > stream.width)
            codec.sample_aspect_ratio = 1 / shape if is_turned else shape
        self.time = -1 if time is None else time - 1
        self.step = max(1, round(1 / (rate * self.time_base)))
        self.sound = None
        if source.streams.audio:
            sound = source.streams.audio[0]
            self.is_copied = sound.codec_context.name in SOUND
            if self.is_copied:
                self.sound = output.add_stream_from_template(sound)
            else:
                self.sound = output.add_stream("aac", rate=sound.codec_context.sample_rate)

    def add(self, picture: np.ndarray, time: int | None) -> None:
        """Adds a picture, uint8 [H, W, 3], RGB; if its time is missing or not after the last one, a step later."""
        self.time = time if time is not None and time > self.time else self.time + self.step
        height, width = picture.shape[:2]
        picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = self.time, self.time_base
        self.output.mux(self.pictures.encode(frame))

    def add_sound(self, packets: list[av.Packet]) -> None:
        """Adds packets of sound, and empties the list."""
        for packet in packets:
            if not self.is_copied:
                with contextlib.suppress(av.error.InvalidDataError):
                    for frame in packet.decode():
                        self.output.mux(self.sound.encode(frame))
            elif packet.dts is not None:
                packet.stream = self.sound
                self.output.mux(packet)
        packets.clear()

    def finish(self) -> None:
        self.output.mux(self.pictures.encode(None))
        if self.sound and not self.is_copied:
            self.output.mux(self.sound.encode(None))
