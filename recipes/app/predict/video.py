"""Videos with the overlay of each frame: H.264, which browsers and phones play, with the sound of the source."""

import contextlib
import itertools
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

from app.cli import InputError
from app.files import replacing
from app.predict import cutout
from app.predict.network import Network, batches

import av
import cv2
import numpy as np
from tqdm import tqdm

SOUND = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}  # what MP4 files can hold; other sound becomes AAC
QUALITY = {"crf": "20", "preset": "veryfast"}  # of x264
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the usual colours and range
USUAL_RATE, HIGHEST_RATE = 25, 1000  # frames a second; some files tell nonsense


class Frame(NamedTuple):
    """A frame of a video."""

    pixels: np.ndarray  # uint8 [H, W, 3], RGB, upright
    time: int | None  # in units of the stream's time base
    is_turned: bool  # by 90 degrees, against how it is stored


def write(path: pathlib.Path, source: pathlib.Path, network: Network) -> tuple[tuple[int, int], int, np.ndarray]:
    """Writes a video with the overlay of each frame, upright and at its time, with the sound.

    The codec takes only even sizes: an odd one gets a copy of its last row or column.

    Returns:
      The size of the frames (width, height), their number, and the mean share of each class.
    Raises:
      InputError: if the source is no video, or breaks off.
    """
    with _opened(source) as video:
        sound: list[av.Packet] = []
        frames = _frames(video, sound)
        first = next(frames, None)
        if first is None:
            raise InputError(f"{source}: not a video, or of a kind that FFmpeg cannot read")
        height, width = first.pixels.shape[:2]
        announced = video.streams.video[0].frames or None  # often a guess
        count, shares = 0, np.zeros(len(network.class_names))
        bar = tqdm(total=announced, desc=source.name, unit="frame", file=sys.stdout, disable=None)  # on a terminal only
        with replacing(path) as temporary, bar, _system_errors(), _Writer(temporary, video, first) as writer:
            for batch in batches(itertools.chain([first], frames), lambda frame: frame.pixels):
                for frame, probabilities in zip(batch, network.segment([one.pixels for one in batch]), strict=True):
                    label, _ = cutout.enlarge(frame.pixels, probabilities, network.class_names)
                    writer.add(cutout.overlay(frame.pixels, label, network.class_names), frame.time)
                    shares += cutout.shares(label, len(shares))
                    count += 1
                    bar.update()
                writer.add_sound(sound)
                sound.clear()
            writer.add_sound(sound)
        seconds, expected = float(writer.last * writer.time_base), float((video.duration or 0) / av.time_base)
    if seconds < 0.9 * expected - 1 / HIGHEST_RATE:
        raise InputError(f"{source}: it breaks off after {seconds:.1f} of {expected:.1f} s; {path.name} has those")
    return (width, height), count, shares / count


@contextlib.contextmanager
def _opened(source: pathlib.Path) -> Iterator[av.container.InputContainer]:
    try:
        video = av.open(str(source), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{source}: not a video, or of a kind that FFmpeg cannot read") from error
    with video:
        if not video.streams.video:
            raise InputError(f"{source}: there are no pictures in it")
        yield video


def _frames(video: av.container.InputContainer, sound: list[av.Packet]) -> Iterator[Frame]:
    """The frames of a video, as far as they can be read; packets of sound between them are added to `sound`."""
    pictures = video.streams.video[0]
    pictures.thread_type = "AUTO"
    packets = video.demux(pictures, *video.streams.audio[:1])
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if packet.stream is not pictures:
            sound.append(packet)
            continue
        with contextlib.suppress(av.error.InvalidDataError):  # a damaged frame is left out
            for frame in packet.decode():
                turns = round(frame.rotation / 90) % 4
                yield Frame(np.rot90(frame.to_ndarray(format="rgb24"), turns), frame.pts, turns % 2 == 1)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Raises FFmpeg's errors of the disk as the system's, which can be given the name of the file."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror) from error
        raise


class _Writer:
    """Writes a video, frame by frame.

    Args:
      path: the file to write.
      source: whose times, shape of pixels, and sound it takes over.
      first: its first frame.
    """

    def __init__(self, path: pathlib.Path, source: av.container.InputContainer, first: Frame):
        # With its index at the beginning, a browser plays it while it is loading.
        self.output = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        stream = source.streams.video[0]
        rate = stream.average_rate if stream.average_rate and stream.average_rate <= HIGHEST_RATE else USUAL_RATE
        height, width = first.pixels.shape[:2]
        self.margins = height % 2, width % 2
        self.pictures = self.output.add_stream("libx264", rate=rate, options=QUALITY)
        self.pictures.height, self.pictures.width = height + self.margins[0], width + self.margins[1]
        self.pictures.pix_fmt = "yuv420p"
        codec = self.pictures.codec_context
        codec.time_base = self.time_base = stream.time_base
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED
        if shape := stream.sample_aspect_ratio:
            codec.sample_aspect_ratio = 1 / shape if first.is_turned else shape
        self.last = -1 if first.time is None else first.time - 1
        self.step = max(1, round(1 / (rate * self.time_base)))
        self.sound = None
        if source.streams.audio:
            sound = source.streams.audio[0]
            self.is_copied = sound.codec_context.name in SOUND
            self.sound = (
                self.output.add_stream_from_template(sound)
                if self.is_copied
                else self.output.add_stream("aac", rate=sound.codec_context.sample_rate)
            )

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.output.mux(self.pictures.encode(None))
            if self.sound and not self.is_copied:
                self.output.mux(self.sound.encode(None))
        self.output.close()

    def add(self, picture: np.ndarray, time: int | None) -> None:
        """Adds a picture, uint8 [H, W, 3], RGB; without a time, or with one that is over, at the next."""
        self.last = time if time is not None and time > self.last else self.last + self.step
        if any(self.margins):
            picture = cv2.copyMakeBorder(picture, 0, self.margins[0], 0, self.margins[1], cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = self.last, self.time_base
        self.output.mux(self.pictures.encode(frame))

    def add_sound(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if not self.is_copied:
                with contextlib.suppress(av.error.InvalidDataError):
                    for frame in packet.decode():
                        self.output.mux(self.sound.encode(frame))
            elif packet.dts is not None:
                packet.stream = self.sound
                self.output.mux(packet)
