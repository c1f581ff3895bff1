"""The sound of a video: its track is copied where MP4 files can hold it, and becomes AAC otherwise."""

import contextlib
import io
from collections.abc import Iterable, Sequence

import av

COPIED = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}  # what MP4 files can hold
# Of AAC, by the number of channels; FFmpeg's encoder marks no others so that every player knows them.
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "5.1", 8: "7.1"}
MOST = "7.1"  # of more channels


class SoundTrack:
    """Writes the packets of one track to another file. All of its methods raise what PyAV raises."""

    def __init__(self, output: av.container.OutputContainer, source: av.AudioStream):
        self.output = output
        self.source = source
        self.is_copied = _is_copyable(source)
        self.last = None  # decoding time of the packet before
        self.kind = None  # of the frames before
        self.resampler = None
        if self.is_copied:
            self.track = output.add_stream_from_template(source)
            return
        rates = av.Codec("aac", "w").audio_rates
        self.rate = min(rates, key=lambda rate: abs(rate - source.codec_context.sample_rate))
        self.layout = LAYOUTS.get(source.codec_context.layout.nb_channels, MOST)
        self.track = output.add_stream("aac", rate=self.rate, layout=self.layout)

    def write(self, packets: Iterable[av.Packet], start: int) -> None:
        """Writes packets; `start`, in units of the source's time base, is the time that becomes zero."""
        for packet in packets:
            if self.is_copied:
                self._copy(packet, start)
                continue
            with contextlib.suppress(av.FFmpegError):  # a damaged packet is left out
                for frame in packet.decode():
                    if frame.pts is not None:
                        frame.pts -= round(start * self.source.time_base / frame.time_base)
                    self._encode(frame)

    def finish(self) -> None:
        if not self.is_copied:
            self._encode(None)
            self.output.mux(self.track.encode(None))

    def _copy(self, packet: av.Packet, start: int) -> None:
        if packet.dts is None or (self.last is not None and packet.dts <= self.last):
            return  # the packet that ends a track; or one that MP4 files cannot hold
        self.last = packet.dts
        packet.dts -= start
        packet.pts = packet.dts if packet.pts is None else packet.pts - start
        packet.stream = self.track
        self.output.mux(packet)

    def _encode(self, frame: av.AudioFrame | None) -> None:
        """Encodes a frame; after the last one, None, what is left. The format of the sound may change midway."""
        kind = frame and (frame.sample_rate, frame.layout.name, frame.format.name)
        if kind != self.kind:
            if self.resampler:
                self._mux(self.resampler.resample(None))
            self.resampler = frame and av.AudioResampler("fltp", self.layout, self.rate)
            self.kind = kind
        if frame:
            self._mux(self.resampler.resample(_known(frame)))

    def _mux(self, frames: Iterable[av.AudioFrame]) -> None:
        for frame in frames:
            self.output.mux(self.track.encode(frame))


def choose(tracks: Sequence[av.AudioStream]) -> tuple[av.AudioStream | None, str]:
    """The first track that can be copied or decoded, or None, and a remark if there is something to say."""
    kept = next((track for track in tracks if _is_decodable(track) or _is_copyable(track)), None)
    if tracks and kept is None:
        return None, "without sound, as FFmpeg has no decoder for it"
    if len(tracks) > 1:
        number = tracks.index(kept) + 1
        language = f" ({kept.language})" if kept.language not in (None, "und") else ""
        return kept, f"of its {len(tracks)} sound tracks number {number}{language} is kept"
    return kept, ""


def _is_copyable(track: av.AudioStream) -> bool:
    """Whether an MP4 file can hold a track as it is; for some, such as MP3 of a low rate, FFmpeg refuses."""
    if track.codec_context is None or track.codec_context.name not in COPIED:
        return False
    trial = av.open(io.BytesIO(), "w", "mp4")
    try:
        trial.add_stream_from_template(track)
        trial.start_encoding()
        return True
    except Exception:  # each of FFmpeg's formats fails in its own way
        return False
    finally:
        with contextlib.suppress(Exception):  # an empty file may be none
            trial.close()


def _is_decodable(track: av.AudioStream) -> bool:
    codec = track.codec_context
    if codec is None or not codec.sample_rate or not codec.layout.nb_channels:
        return False
    try:
        codec.open(strict=False)
        return True
    except Exception:  # as above
        return False


def _known(frame: av.AudioFrame) -> av.AudioFrame:
    """A frame whose layout FFmpeg can convert: for an unusual number of channels without names, the first two."""
    try:
        av.AudioResampler("fltp", "stereo", frame.sample_rate).resample(frame)
        return frame
    except av.FFmpegError:
        planes = av.AudioResampler("fltp", frame.layout, frame.sample_rate).resample(frame)[0]
        pair = av.AudioFrame.from_ndarray(planes.to_ndarray()[:2].copy(), "fltp", "stereo")
        pair.sample_rate, pair.pts, pair.time_base = frame.sample_rate, frame.pts, frame.time_base
        return pair
