"""The sound of a video: its track is copied where MP4 files can hold it, and becomes AAC otherwise."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from fractions import Fraction

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
        self.last = self.end = None  # seconds: the time of what was written last, and its end
        self.shift = Fraction(0)  # seconds
        self.kind = None  # of the frames before
        self.is_known = True  # whether FFmpeg can convert their layout
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
            if not self.is_copied:
                frames = []
                with contextlib.suppress(av.FFmpegError):  # a damaged packet is left out
                    frames = packet.decode()
                for frame in frames:
                    self._encode(self._at_its_time(frame, start))
            elif packet.dts is not None:
                self._copy(packet, start)

    def finish(self) -> None:
        if not self.is_copied:
            self._encode(None)
            self.output.mux(self.track.encode(None))

    def _copy(self, packet: av.Packet, start: int) -> None:
        base = self.source.time_base
        delay = (packet.pts or packet.dts) - packet.dts
        packet.dts = round(self._in_order((packet.dts - start) * base, (packet.duration or 0) * base) / base)
        packet.pts = packet.dts + delay
        packet.stream = self.track
        self.output.mux(packet)

    def _in_order(self, time: Fraction, duration: Fraction) -> Fraction:
        """The time of a packet or frame, in seconds; it goes on where the source's goes back, as in joined files."""
        if self.last is not None and time + self.shift <= self.last:
            self.shift = self.end - time
        self.last = time + self.shift
        self.end = self.last + max(duration, Fraction(1, 1000))
        return self.last

    def _at_its_time(self, frame: av.AudioFrame, start: int) -> av.AudioFrame:
        time = (self.end or Fraction(0)) - self.shift  # without a time it follows the one before
        if frame.pts is not None:
            time = frame.pts * frame.time_base - start * self.source.time_base
        time = self._in_order(time, Fraction(frame.samples, frame.sample_rate))
        frame.time_base = Fraction(1, frame.sample_rate)
        frame.pts = round(time / frame.time_base)
        return frame

    def _encode(self, frame: av.AudioFrame | None) -> None:
        """Encodes a frame; after the last one, None, what is left. The format of the sound may change midway."""
        kind = frame and (frame.sample_rate, frame.layout.name, frame.format.name)
        if kind != self.kind:
            if self.resampler:
                self._mux(self.resampler.resample(None))
            self.resampler = frame and av.AudioResampler("fltp", self.layout, self.rate)
            self.is_known = frame is None or _is_known(frame)
            self.kind = kind
        if frame:
            self._mux(self.resampler.resample(frame if self.is_known else _first_two(frame)))

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


def _is_known(frame: av.AudioFrame) -> bool:
    """Whether FFmpeg can convert the layout of a frame; not for unusual numbers of channels without names."""
    try:
        av.AudioResampler("fltp", "stereo", frame.sample_rate).resample(frame)
        return True
    except av.FFmpegError:
        return False


def _first_two(frame: av.AudioFrame) -> av.AudioFrame:
    """The first two channels of a frame, as stereo."""
    (packed,) = av.AudioResampler("flt", frame.layout, frame.sample_rate).resample(frame)
    samples = packed.to_ndarray().reshape(frame.samples, -1)  # PyAV crashes on more than eight planes
    pair = av.AudioFrame.from_ndarray(samples[:, :2].reshape(1, -1), "flt", "stereo")
    pair.sample_rate, pair.pts, pair.time_base = frame.sample_rate, frame.pts, frame.time_base
    return pair
