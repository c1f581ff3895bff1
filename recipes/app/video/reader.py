"""Reads the frames of a video: the right track, upright, in BT.709, each at its time and as long as it is shown."""

import contextlib
import pathlib
from collections.abc import Iterator
from fractions import Fraction

from app.cli import InputError, one_line, plain
from app.video import colors, sound

import av
import cv2
import numpy as np
from av.stream import Disposition

MAX_RATE = 1000  # frames a second; some files declare absurd rates
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails  # tracks that show the cover, or help to seek


@contextlib.contextmanager
def errors_of(source: pathlib.Path, is_output: bool = False) -> Iterator[None]:
    """Makes an InputError of whatever FFmpeg raises in the block; with `is_output` an OSError stays what it is."""
    try:
        yield
    except Exception as error:  # each of its formats fails in its own way
        if isinstance(error, InputError) or (is_output and isinstance(error, OSError)):
            raise
        what = "cannot be encoded" if is_output else "not a video, or of a kind that FFmpeg cannot read"
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{source}: {what} ({reason}); try to convert it to MP4 with H.264") from error


class VideoReader:
    """Reads the frames of a video, and the packets of its sound between them. Closed by `with`."""

    def __init__(self, source: pathlib.Path):
        """Opens a video. Raises InputError if it is none, or if FFmpeg cannot decode its pictures."""
        self.source = source
        with errors_of(source):
            # A file even if it is called pipe:0. Tags may have any encoding.
            self.container = av.open(f"file:{source}", metadata_errors="ignore")
        try:
            with errors_of(source):
                self.stream = self._picture_track()
                self.stream.thread_type = "AUTO"
                self.track, remark = sound.choose(self.container.streams.audio)
        except BaseException:
            self.container.close()
            raise
        if remark:
            print(plain(f"{source.name}: {remark}"), flush=True)
        self.rate = self.stream.average_rate
        if not self.rate or self.rate > MAX_RATE:
            self.rate = Fraction(25)
        self.indexed = len(self.stream.index_entries)  # frames; of AVI those that were not dropped
        self.packets: list[av.Packet] = []  # of sound, read but not yet written
        self.declared_shape = self.stream.sample_aspect_ratio or Fraction(1)  # of pixels: width by height
        self.coded_shape = None  # of the first frame
        self.size = self.pixel_shape = None  # of the first frame, upright
        self.seconds = self.expected = 0.0  # what could be read, and what the file declares; the same if complete

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self.container.close()

    def _picture_track(self) -> av.VideoStream:
        """The track that a player shows: the first that is marked as the default, or else the first; no covers."""
        tracks = [track for track in self.container.streams.video if not track.disposition & NO_FILM]
        if not tracks:
            raise InputError(f"{self.source}: not a video: there are no moving pictures in it")
        decodable = [track for track in tracks if track.codec_context is not None]
        if not decodable:
            advice = "convert it to MP4 with H.264"
            raise InputError(f"{self.source}: FFmpeg has no decoder for its pictures, or it is cut off; {advice}")
        return next((track for track in decodable if track.disposition & Disposition.default), decodable[0])

    def start(self, track: av.stream.Stream) -> int:
        """The time that becomes zero, in units of a track's time base: broadcasts do not start at zero."""
        return round(max(0, self.container.start_time or 0) / (av.time_base * track.time_base))

    def frames(self) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """The frames of a video, as far as they can be read.

        Yields their time and duration in units of the stream's time base, and the upright pixels, uint8 [H, W, 3], RGB,
        all of the first one's size. A frame whose time is missing, or not after the one before, comes one step after
        it. Raises InputError, also if there is no frame.
        """
        step = max(1, round(1 / (self.rate * self.stream.time_base)))
        start = self.start(self.stream)
        last = None
        with errors_of(self.source):
            for frame in self._decoded():
                time = None if frame.pts is None else frame.pts - start
                if last is not None:
                    if time is None or time <= last[0]:
                        time = last[0] + step
                    yield (last[0], time - last[0]), last[1]
                last = (time or 0, self._upright(frame))
                own_duration = frame.duration or step
            if last is None:
                raise InputError(f"{self.source}: not a video, or of a kind that FFmpeg cannot read")
            yield (last[0], self._last_duration(last[0], own_duration)), last[1]

    def _decoded(self) -> Iterator[av.VideoFrame]:
        tracks = [self.stream] + ([self.track] if self.track else [])
        self.count = 0  # packets of pictures
        self.sound_end = 0.0
        with contextlib.suppress(av.FFmpegError):  # what follows cannot be read
            for packet in self.container.demux(*tracks):
                if packet.stream is not self.stream:
                    self.packets.append(packet)
                    if packet.pts is not None:
                        end = packet.pts + (packet.duration or 0) - self.start(self.track)
                        self.sound_end = max(self.sound_end, float(end * self.track.time_base))
                    continue
                self.count += bool(packet.size)
                with contextlib.suppress(av.FFmpegError):  # a damaged frame is left out
                    yield from packet.decode()

    def _last_duration(self, time: int, own: int) -> int:
        """The duration of the last frame, at `time`: its own, or longer if the file says when the pictures end.

        Sets what could be read and what should have been, in seconds.
        """
        stream, base = self.stream, self.stream.time_base
        end = None
        if stream.duration:
            end = (stream.start_time or 0) + stream.duration - self.start(stream)
        elif seconds := _tagged_end(stream):
            end = round(seconds / base) - self.start(stream)
        self.seconds = float((time + own) * base)
        if end is not None:
            self.expected = float(end * base)
        elif self.container.duration:
            self.expected = self.container.duration / av.time_base
            self.seconds = max(self.seconds, self.sound_end)
            end = None if self.track else round(self.expected / base)
        if self._is_complete():
            self.seconds = max(self.seconds, self.expected)
            return max(own, (end or 0) - time)
        self.expected = max(self.expected, float(stream.frames / self.rate))
        return own

    def _is_complete(self) -> bool:
        """Whether the file has not been cut off. A long last frame, or frames that were never taken, are no sign of it.

        Counts frames where a file says how many there are (MP4, AVI), and otherwise compares seconds.
        """
        if self.stream.frames:
            return self.count >= 0.9 * self.stream.frames or self.count == self.indexed
        return self.seconds >= 0.9 * self.expected - 1 / MAX_RATE

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        """The upright pixels of a frame; one of another shape than the first gets black bars."""
        pixels = colors.rgb(frame, self.stream)
        turns = round(frame.rotation / 90)
        if matrix := frame.side_data.get("DISPLAYMATRIX"):
            a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
            if a * d < b * c:  # mirrored, as selfies may be
                pixels = pixels[:, ::-1]
                turns += 2
        pixels = np.rot90(pixels, turns % 4)
        coded_shape = self.stream.codec_context.sample_aspect_ratio or Fraction(1)
        self.coded_shape = self.coded_shape or coded_shape
        shape = self.declared_shape * coded_shape / self.coded_shape  # it may change midway
        shape = 1 / shape if turns % 2 else shape
        if self.size is None:
            self.size, self.pixel_shape = pixels.shape[1::-1], shape
        if (pixels.shape[1::-1], shape) == (self.size, self.pixel_shape):
            return pixels
        return fitted(pixels, self.size, float(shape / self.pixel_shape))


def _tagged_end(stream: av.VideoStream) -> float | None:
    """When a track of a Matroska file ends, in seconds, by its tag, such as 00:01:30.040000000."""
    tag = next((value for name, value in stream.metadata.items() if name.startswith("DURATION")), "")
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = map(float, tag.split(":"))
        return 3600 * hours + 60 * minutes + seconds
    return None


def fitted(pixels: np.ndarray, size: tuple[int, int], pixel_shape: float) -> np.ndarray:
    """Fits pixels, uint8 [h, w, 3], into a picture of a size (width, height), centred between black bars.

    `pixel_shape` is the width of their pixels by the height, relative to the pixels of the result.
    """
    wanted = np.array([pixels.shape[1] * pixel_shape, pixels.shape[0]])
    width, height = np.maximum(np.rint(wanted * min(size / wanted)), 1).astype(int)
    result = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = cv2.resize(np.ascontiguousarray(pixels), (int(width), int(height)), interpolation=cv2.INTER_AREA)
    result[top : top + height, left : left + width] = resized
    return result
