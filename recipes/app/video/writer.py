"""Writes frames as H.264, which browsers and phones play, with the sound of the video they come from."""

import contextlib
import pathlib

from app.video import sound
from app.video.reader import VideoReader, errors_of

import av
import cv2
import numpy as np

QUALITY = {"crf": "20", "preset": "veryfast"}  # of x264


class VideoWriter:
    """Writes frames and the sound of a video to an MP4 file. Leaving `with` closes the file."""

    def __init__(self, path: pathlib.Path, video: VideoReader):
        """Opens the file; methods raise InputError if FFmpeg cannot encode, and OSError, as for a full disk."""
        self.video = video
        self.pictures = self.sound = None  # added with the first frame
        self.first = None  # presentation and decoding time of the first packet
        self.end = 0  # of the last frame
        options = {"movflags": "faststart"}  # the index comes first: a browser plays it while it is loading
        self.container = av.open(f"file:{path}", "w", "mp4", options)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            with errors_of(self.video.source, is_output=True):
                self.container.close()
            return
        with contextlib.suppress(Exception):  # the error that ended the block matters, not what follows from it
            self.container.close()

    def write(self, pixels: np.ndarray, time: int, duration: int) -> None:
        """Writes a frame, uint8 RGB [H, W, 3], with a time and duration in units of the source's time base."""
        with errors_of(self.video.source, is_output=True):
            if self.pictures is None:
                self._add_tracks()
            frame = _frame(pixels)
            frame.pts, frame.time_base = time, self.video.stream.time_base
            self._mux(self.pictures.encode(frame))
            self.end = time + duration
            self._write_sound()

    def finish(self) -> None:
        with errors_of(self.video.source, is_output=True):
            packets = self.pictures.encode(None)
            # FFmpeg ends the track with the packet stored last, which need not be the frame shown last.
            last = packets[-1]
            first_time, first_dts = self.first or (packets[0].pts, packets[0].dts)
            last.duration = max(self.end - last.pts, self.end - first_time - (last.dts - first_dts))
            self._mux(packets)
            self._write_sound()
            if self.sound:
                self.sound.finish()

    def _mux(self, packets: list[av.Packet]) -> None:
        if packets and self.first is None:
            self.first = packets[0].pts, packets[0].dts
        self.container.mux(packets)

    def _add_tracks(self) -> None:
        width, height = self.video.size
        self.pictures = self.container.add_stream("libx264", rate=self.video.rate, options=QUALITY)
        self.pictures.height = height + height % 2  # H.264 takes only even sizes
        self.pictures.width = width + width % 2
        self.pictures.pix_fmt = "yuv420p"
        codec = self.pictures.codec_context
        codec.time_base = self.video.stream.time_base
        codec.colorspace = codec.color_primaries = codec.color_trc = 1  # BT.709
        codec.color_range = 1  # limited
        codec.sample_aspect_ratio = self.video.pixel_shape
        if self.video.track:
            self.sound = sound.SoundTrack(self.container, self.video.track)

    def _write_sound(self) -> None:
        if self.sound:
            self.sound.write(self.video.packets, self.video.start(self.video.track))
        self.video.packets.clear()


def _frame(pixels: np.ndarray) -> av.VideoFrame:
    """A frame to encode; an odd size is made even by a copy of the last row or column."""
    height, width = pixels.shape[:2]
    pixels = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
