"""Videos, from the command line to what a browser shows."""

import fractions
import functools
import json
import os
import resource
import shutil
import subprocess
import threading
import types

from app import hdr, inputs
from app.cli import InputError
from app.predict import cutout, video
from app.video import colors, writer

import av
import numpy as np
import pytest
import unet_scratch
from av.codec.context import Flags
from av.stream import Disposition
from conftest import QuietHandler, QuietServer
from PIL import Image

SIZE = (160, 120)
GREEN, RED, BLUE = (40, 200, 40), (200, 40, 40), (30, 30, 220)
MILLISECONDS = fractions.Fraction(1, 1000)
UNEVEN = [40 * number + (500 if number > 10 else 0) for number in range(30)]  # a pause after the eleventh frame


def film(path, size=SIZE, codec="libx264", sound="aac", times=range(0, 1200, 40), rate=25, options=None):
    """Writes a video, red with a green left quarter and a blue corner at the upper right, and a tone.

    The times are in milliseconds.
    """
    width, height = size
    picture = np.full((height, width, 3), RED, np.uint8)
    picture[:, : width // 4], picture[: height // 4, -height // 4 :] = GREEN, BLUE
    with av.open(str(path), "w", options=options or {}) as output:
        pictures = output.add_stream(codec, rate=rate)
        pictures.width, pictures.height = size
        pictures.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        pictures.codec_context.time_base = MILLISECONDS
        tone = output.add_stream(sound, rate=44100) if sound else None
        for time in times:
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, MILLISECONDS
            output.mux(pictures.encode(frame))
        output.mux(pictures.encode(None))
        for part in range(len(times) * 44100 // 25 // 1024 if sound else 0):
            wave = (8000 * np.sin(np.arange(1024) / 20)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave.repeat(2)[np.newaxis], "s16", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44100, 1024 * part, fractions.Fraction(1, 44100)
            output.mux(tone.encode(frame))
        if sound:
            output.mux(tone.encode(None))


def turn(path):
    """Marks an MP4 file as taken by a phone held upright: to be shown turned by 90 degrees, clockwise."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    one = 1 << 16
    content[matrix : matrix + 36] = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (0, one, 0, -one, 0, 0, SIZE[1] * one, 0, 1 << 30)
    )
    path.write_bytes(content)


def frames(path):
    with av.open(str(path)) as opened:
        return [(round(1000 * frame.time), frame.to_ndarray(format="rgb24")) for frame in opened.decode(video=0)]


def test_videos_keep_their_times_and_sound(command_line, weights, tmp_path):
    sounds = {"aac": "aac", "pcm_s16le": "aac", "none": None}  # in the source and in the result
    for sound, codec in sounds.items():
        film(tmp_path / f"{sound}.mkv", sound=sound if codec else None, times=UNEVEN)
    output = tmp_path / "output"
    status, _, err = command_line(unet_scratch, "--predict", tmp_path, "--weights", weights, "--output", output)
    assert (status, err) == (0, "")
    for sound, codec in sounds.items():
        result = output / f"{sound}_overlay.mp4"
        assert [time for time, _ in frames(result)] == UNEVEN
        content = result.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")  # a browser can start at once
        with av.open(str(tmp_path / f"{sound}.mkv")) as before, av.open(str(result)) as after:
            stream = after.streams.video[0]
            kind = (stream.codec_context.name, stream.pix_fmt, stream.width, stream.height)
            assert kind == ("h264", "yuv420p", *SIZE)
            assert [one.codec_context.name for one in after.streams.audio] == ([codec] if codec else [])
            if sound == "aac":  # the very packets
                packets = [[bytes(packet) for packet in one.demux(audio=0) if packet.size] for one in (before, after)]
                assert packets[0] == packets[1]
            elif codec:
                samples = [sum(frame.samples for frame in one.decode(audio=0)) for one in (before, after)]
                assert abs(samples[1] - samples[0]) <= 2 * 1024
    lines = (output / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["frames"] for line in lines] == [len(UNEVEN)] * 3


class Unchanged:
    """A network that finds nothing, so that the overlay is the frame itself."""

    class_names = ("pet", "background")

    def segment(self, pictures):
        return np.tile(np.float32([0, 1]), (len(pictures), 8, 8, 1))


def test_a_phone_held_upright(tmp_path):
    film(tmp_path / "phone.mp4")
    turn(tmp_path / "phone.mp4")
    result = video.write(tmp_path / "upright.mp4", tmp_path / "phone.mp4", Unchanged())
    assert (result["size"], result["frames"]) == (SIZE[::-1], 30)
    (_, picture), *_ = frames(tmp_path / "upright.mp4")
    assert picture.shape == (SIZE[0], SIZE[1], 3)
    # The left has become the top, and the upper right corner the lower right one.
    for row, column, color in ((10, 60, GREEN), (-10, -10, BLUE), (-10, 20, RED)):
        assert np.abs(picture[row, column].astype(int) - color).max() < 12


def test_colours_are_kept(tmp_path):
    film(tmp_path / "film.mp4")
    video.write(tmp_path / "same.mp4", tmp_path / "film.mp4", Unchanged())
    for (_, one), (_, other) in zip(frames(tmp_path / "film.mp4"), frames(tmp_path / "same.mp4"), strict=True):
        assert np.abs(one.astype(int) - other)[40:-20, 60:-40].max() <= 6


def test_odd_and_broken_videos(command_line, weights, tmp_path):
    """What can be read is written, and a line says what is wrong with each of the others."""
    film(tmp_path / "odd size.avi", (161, 121), "mjpeg", sound=None)
    film(tmp_path / "odd rate.avi", codec="mjpeg", sound=None, times=range(12), rate=90000)
    film(tmp_path / "cut.mp4", times=range(0, 4000, 40), options={"movflags": "faststart"})
    content = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "header.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(2000))
    output = tmp_path / "output"
    status, _, err = command_line(unet_scratch, "--predict", tmp_path, "--weights", weights, "--output", output)
    assert status == 1, err
    first, *others = err.splitlines()
    assert "cut.mp4: it breaks off after" in first and "of 4.0 s" in first
    for line, name in zip(others, ("empty", "header", "text"), strict=True):
        assert f"{name}.mp4: not a video" in line
    written = {path.name.removesuffix("_overlay.mp4") for path in output.glob("*.mp4")}
    assert written == {"odd size", "odd rate", "cut"}
    assert 25 < len(frames(output / "cut_overlay.mp4")) < 95
    assert len(frames(output / "odd rate_overlay.mp4")) == 12
    result = frames(output / "odd size_overlay.mp4")
    assert result[0][1].shape == (122, 162, 3) and len(result) == 30
    lines = (output / "predictions.jsonl").read_text().splitlines()
    assert {json.loads(line)["frames"] for line in lines} == {12, 30}


def test_a_full_disk(command_line, weights, tmp_path, monkeypatch):
    """One line, and no half of a video. Here it is a limit on the size of files, which the system keeps."""
    film(tmp_path / "film.mp4")
    write, limits = video.write, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        try:
            return write(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(video, "write", limited)
    flags = ("--weights", weights, "--output", tmp_path / "output")
    status, _, err = command_line(unet_scratch, "--predict", tmp_path / "film.mp4", *flags)
    assert status == 1 and err.count("\n") == 1 and "film_overlay.mp4: " in err, err
    assert not list((tmp_path / "output").rglob("*.mp4"))


PAGE = """<video id=v muted src="film_overlay.mp4"></video><pre id=out></pre><script>
v.onloadeddata = () => { v.currentTime = 0.6 };
v.onseeked = () => {
  const c = document.createElement("canvas"); c.width = v.videoWidth; c.height = v.videoHeight;
  const g = c.getContext("2d"); g.drawImage(v, 0, 0);
  out.textContent = JSON.stringify({duration: v.duration, size: [c.width, c.height],
    left: [...g.getImageData(10, 60, 1, 1).data], corner: [...g.getImageData(150, 10, 1, 1).data]});
};
v.onerror = () => { out.textContent = JSON.stringify({error: v.error.message}) };
</script>"""


def test_a_browser_plays_it(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    film(tmp_path / "film.mkv", times=UNEVEN)
    video.write(tmp_path / "film_overlay.mp4", tmp_path / "film.mkv", Unchanged())
    (tmp_path / "page.html").write_text(PAGE)
    handler = functools.partial(QuietHandler, directory=tmp_path)
    server = QuietServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=20000", "--timeout=20000", "--dump-dom"]
    command.append(f"http://127.0.0.1:{server.server_port}/page.html")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    server.shutdown()
    server.server_close()
    shown = json.loads(done.stdout.split('<pre id="out">')[1].split("</pre>")[0])
    assert shown["duration"] == pytest.approx(1.7, abs=0.1) and shown["size"] == list(SIZE), shown
    for place, color in (("left", GREEN), ("corner", BLUE)):
        assert np.abs(np.subtract(shown[place][:3], color)).max() < 25, shown


def test_a_video_without_an_ending(command_line, weights, tmp_path):
    film(tmp_path / "film.mp4", sound=None)
    path = (tmp_path / "film.mp4").rename(tmp_path / "film")
    flags = ("--weights", weights, "--output", tmp_path / "output")
    status, out, err = command_line(unet_scratch, "--predict", path, *flags)
    assert (status, err) == (0, "") and "videos: 1" in out
    assert len(frames(tmp_path / "output" / "film_overlay.mp4")) == 30


def upright_frames(path):
    """The frames of a result, converted as a player does: by their tags."""
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        return [frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in opened.decode(stream)]


def length(path, kind="video"):
    """The seconds that a track of a result lasts."""
    with av.open(str(path)) as opened:
        stream = getattr(opened.streams, kind)[0]
        return float(stream.duration * stream.time_base)


def blocks(size=(160, 120)):
    """A picture of greys and colours, float 0..1 [H, W, 3], as on an sRGB screen."""
    colors = [(v, v, v) for v in (0, 25, 60, 90, 128, 160, 200, 255)] + [RED, GREEN, BLUE, (200, 170, 140)] * 2
    small = np.float64(colors).reshape(4, 4, 3) / 255
    width, height = size
    return small.repeat(height // 4, 0).repeat(width // 4, 1)


def linear(signal):
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def screen(light):
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def pq(light):
    """SMPTE ST 2084: the signal of a light, 1 at 10,000 cd/m2."""
    power = light**0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light):
    """BT.2100: the signal of the light of a scene, 0..1."""
    logarithm = 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-9)) + 0.55991073
    return np.where(light <= 1 / 12, np.sqrt(3 * light), logarithm)


def hlg_display(light):
    """The HLG signal that a display with a peak of 1000 cd/m2 shows as a light, 1 at 203 cd/m2."""
    luminance = np.maximum(light @ [0.2627, 0.6780, 0.0593], 1e-9)[..., np.newaxis]
    return hlg(0.265 * light * luminance ** (1 / 1.2 - 1))


def yuv(values, matrix, is_full):
    """A frame of 10 bits from RGB values, 0..1 [H, W, 3]: H.273, without FFmpeg's scaler."""
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    luma = values @ [red, 1 - red - blue, blue]
    differences = [(values[..., 2] - luma) / (2 - 2 * blue), (values[..., 0] - luma) / (2 - 2 * red)]
    planes = [1023 * luma, *(512 + 1023 * one for one in differences)]
    if not is_full:
        planes = [64 + 876 * luma, *(512 + 896 * one for one in differences)]
    frame = av.VideoFrame(values.shape[1], values.shape[0], "yuv444p10le")
    for plane, samples in zip(frame.planes, planes, strict=True):
        assert plane.line_size == 2 * values.shape[1]
        plane.update(np.rint(samples).clip(0, 1023).astype("<u2").tobytes())
    return frame


TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
TO_P3 = np.array([[0.8225, 0.1774, 0.0001], [0.0332, 0.9669, -0.0001], [0.0171, 0.0724, 0.9105]])
SAME = np.eye(3)
ANY = (2, 2, 2, 0)  # no tags
# name: (primaries, signal of light, matrix, is full range, tags, greatest mean error)
# The tags are matrix, primaries, transfer function, range.
LOOKS = {
    "pq": (TO_BT2020, lambda light: pq(light * 203 / 10000), 9, False, (9, 9, 16, 1), 4),
    "pq, full range": (TO_BT2020, lambda light: pq(light * 203 / 10000), 9, True, (9, 9, 16, 2), 4),
    "pq, half of its tags": (TO_BT2020, lambda light: pq(light * 203 / 10000), 9, False, (2, 2, 16, 0), 4),
    "hlg by scene": (TO_BT2020, lambda light: hlg(0.265 * light), 9, False, (9, 9, 18, 1), 8),
    "hlg by display": (TO_BT2020, hlg_display, 9, False, (9, 9, 18, 1), 8),
    "bt.2020": (TO_BT2020, screen, 9, False, (9, 9, 14, 1), 3),
    "p3": (TO_P3, screen, 1, False, (1, 12, 1, 1), 3),
    "bt.601": (SAME, screen, 5, False, (6, 6, 6, 1), 3),
    "bt.709": (SAME, screen, 1, False, (1, 1, 1, 1), 3),
    "bt.709, half of its tags": (SAME, screen, 1, False, (2, 1, 2, 0), 3),
    "full range": (SAME, screen, 1, True, (1, 1, 1, 2), 3),
    "no tags": (SAME, screen, 5, False, ANY, 3),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_picture_looks_the_same_in_each_kind_of_colours(look, tmp_path):
    primaries, signal, matrix, is_full, tags, limit = LOOKS[look]
    wanted = blocks()
    values = np.clip(signal(np.clip(linear(wanted) @ primaries.T, 0, None)), 0, 1)
    frame = yuv(values, matrix, is_full)
    with av.open(str(tmp_path / "film.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv444p10le"
        codec = stream.codec_context
        for one in (frame, codec):
            one.colorspace, one.color_primaries, one.color_trc, one.color_range = tags
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    video.write(tmp_path / "same.mp4", tmp_path / "film.mkv", Unchanged())
    (shown,) = upright_frames(tmp_path / "same.mp4")
    error = np.abs(shown - 255 * wanted).mean()
    assert error <= limit, error
    with av.open(str(tmp_path / "same.mp4")) as opened:
        codec = opened.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)


def test_highlights_keep_their_order():
    """Light above HDR's reference white is compressed, not clipped; its hue stays."""
    light = np.array([0.5, 0.8, 1, 1.5, 2.5])[:, np.newaxis] * [1, 0.9, 0.8]
    signal = np.rint(pq(light @ TO_BT2020.T * 203 / 10000) * 65535).astype(np.uint16)
    result = colors.to_bt709(signal[np.newaxis], colors.BT2020, hdr.PQ)[0].astype(int)
    assert (np.diff(result, axis=0) >= 0).all() and 245 <= result[2, 0] < result[3, 0] <= 255
    assert (np.diff(result, axis=1) < 0).all()


@pytest.mark.parametrize(
    ("size", "matrix"),
    [
        *(((1280, 720), 1), ((720, 1280), 1), ((960, 720), 1), ((1280, 536), 1), ((3840, 2160), 1)),
        *(((640, 480), 5), ((720, 576), 5), ((480, 854), 5)),
    ],
)
def test_the_size_tells_the_colours_of_untagged_frames(size, matrix):
    frame = av.VideoFrame(*size, "yuv420p")
    unknown = types.SimpleNamespace(colorspace=2, color_primaries=2, color_trc=2, color_range=0)
    assert colors.tags(frame, types.SimpleNamespace(codec_context=unknown)) == (matrix, 2, 2, False)


def add_picture(output, codec, color, size, times, disposition=0):
    """Adds a track with frames of one colour; returns a function that writes them."""
    stream = output.add_stream(codec, rate=25)
    stream.width, stream.height = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    stream.codec_context.time_base = MILLISECONDS
    if disposition:
        stream.disposition = disposition

    def fill():
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), color, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, MILLISECONDS
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))

    return fill


@pytest.mark.parametrize("place", [0, 1])
def test_cover_pictures_are_passed_over(place, tmp_path):
    cover = ("mjpeg", RED, (64, 48), [0], Disposition.attached_pic)
    film_track = ("libx264", GREEN, SIZE, range(0, 400, 40))
    tracks = [film_track]
    tracks.insert(place, cover)
    with av.open(str(tmp_path / "film.mp4"), "w") as output:
        for fill in [add_picture(output, *track) for track in tracks]:
            fill()
    result = video.write(tmp_path / "same.mp4", tmp_path / "film.mp4", Unchanged())
    assert (result["size"], result["frames"]) == (SIZE, 10)
    assert np.abs(upright_frames(tmp_path / "same.mp4")[0][60, 80].astype(int) - GREEN).max() < 12


def test_of_several_picture_tracks_the_default_is_taken(tmp_path):
    with av.open(str(tmp_path / "film.mkv"), "w") as output:
        first = add_picture(output, "libx264", RED, (64, 48), range(0, 400, 40))
        second = add_picture(output, "libx264", GREEN, SIZE, range(0, 400, 40), Disposition.default)
        first(), second()
    assert video.write(tmp_path / "same.mp4", tmp_path / "film.mkv", Unchanged())["size"] == SIZE


def test_only_a_cover_is_no_video(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as output:
        add_picture(output, "mjpeg", RED, (64, 48), [0], Disposition.attached_pic)()
    with pytest.raises(InputError, match="no moving pictures"):
        video.write(tmp_path / "same.mp4", tmp_path / "song.mp4", Unchanged())
    assert [path.name for path in tmp_path.iterdir()] == ["song.mp4"]


@pytest.mark.parametrize("name", ["slides.mp4", "slides.mkv", "slides.mov"])
@pytest.mark.parametrize("times", [[0, 1000, 3000], [0], [0, 40, 80, 120, 160]])
def test_the_last_frame_stays_as_long_as_it_was(name, times, tmp_path):
    last = 40 if len(times) > 3 else 5000
    ends = [*times[1:], times[-1] + last]
    with av.open(str(tmp_path / name), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = MILLISECONDS
        stream.codec_context.flags |= Flags.frame_duration
        for time, end in zip(times, ends, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE[1], SIZE[0], 3), RED, np.uint8), "rgb24")
            frame.pts, frame.duration, frame.time_base = time, end - time, MILLISECONDS
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    before = frames(tmp_path / name)
    result = video.write(tmp_path / "same.mp4", tmp_path / name, Unchanged())
    assert result["frames"] == len(before)
    assert [time for time, _ in frames(tmp_path / "same.mp4")] == [time for time, _ in before]
    assert length(tmp_path / "same.mp4") == pytest.approx(ends[-1] / 1000, abs=0.04)


def test_sound_may_be_longer_than_the_pictures(tmp_path):
    film(tmp_path / "film.mkv", times=[*range(0, 400, 40), *range(10000, 10400, 40)])
    with av.open(str(tmp_path / "film.mkv")) as opened, av.open(str(tmp_path / "long.mkv"), "w") as output:
        tracks = [output.add_stream_from_template(stream) for stream in opened.streams]
        for packet in opened.demux():
            if packet.size and not (packet.stream.type == "video" and packet.pts > 300):
                packet.stream = tracks[packet.stream.index]
                output.mux(packet)
    result = video.write(tmp_path / "same.mp4", tmp_path / "long.mkv", Unchanged())
    assert result["frames"] == 8 and length(tmp_path / "same.mp4") == pytest.approx(0.32, abs=0.04)
    assert length(tmp_path / "same.mp4", "audio") == pytest.approx(0.79, abs=0.05)


def sounding(path, codec, rate=44100, layout="stereo", seconds=1, count=1):
    """Writes a video of red frames with a tone in `count` sound tracks."""
    with av.open(str(path), "w") as output:
        fill = add_picture(
            output, "libx264" if path.suffix == ".ts" else "mjpeg", RED, SIZE, range(0, 1000 * seconds, 40)
        )
        tracks = [output.add_stream(codec, rate=rate, layout=layout) for _ in range(count)]
        fill()
        channels = tracks[0].layout.nb_channels
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate * seconds) / rate)
        for track in tracks:
            for first in range(0, len(wave) - 1023, 1024):
                values = np.float32(wave[first : first + 1024]).repeat(channels)[np.newaxis]
                frame = av.AudioFrame.from_ndarray(values, "flt", layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, first, fractions.Fraction(1, rate)
                resampler = av.AudioResampler(track.format, layout, rate)
                for part in resampler.resample(frame) + resampler.resample(None):
                    output.mux(track.encode(part))
            output.mux(track.encode(None))


def heard(path):
    """The codec, rate and layout of the sound of a result, its seconds, and its frequency in Hz."""
    with av.open(str(path)) as opened:
        (stream,) = opened.streams.audio
        codec = stream.codec_context
        resampler = av.AudioResampler("flt", "mono", codec.sample_rate)  # PyAV crashes on eight planes
        mono = [part.to_ndarray()[0] for frame in opened.decode(stream) for part in resampler.resample(frame)]
        samples = np.concatenate(mono)
        middle = samples[len(samples) // 4 : len(samples) * 3 // 4]
        frequency = np.count_nonzero(np.diff(np.signbit(middle))) / 2 / len(middle) * codec.sample_rate
        return codec.name, codec.sample_rate, codec.layout.name, len(samples) / codec.sample_rate, frequency


SOUNDS = {  # name: (codec, rate, layout), (codec, rate, layout) of the result
    "rate.avi": (("pcm_u8", 11024, "mono"), ("aac", 11025, "mono")),
    "fast.mov": (("pcm_s24le", 192000, "stereo"), ("aac", 96000, "stereo")),
    "slow.mkv": (("pcm_s16le", 6000, "mono"), ("aac", 7350, "mono")),
    "float.mkv": (("pcm_f32le", 48000, "stereo"), ("aac", 48000, "stereo")),
    "side.mov": (("pcm_s16le", 48000, "5.1(side)"), ("aac", 48000, "5.1")),
    "cinema.mov": (("pcm_s16le", 48000, "7.1"), ("aac", 48000, "7.1")),
    "quad.mov": (("pcm_s16le", 48000, "quad"), ("aac", 48000, "4.0")),
    "many.mkv": (("pcm_s16le", 48000, "hexadecagonal"), ("aac", 48000, "7.1")),
    "nine.mkv": (("pcm_s16le", 48000, "9 channels"), ("aac", 48000, "7.1")),
    "mp2.ts": (("mp2", 48000, "stereo"), ("aac", 48000, "stereo")),
    "slow mp3.mkv": (("libmp3lame", 11025, "mono"), ("aac", 11025, "mono")),
    "adts.ts": (("aac", 44100, "stereo"), ("aac", 44100, "stereo")),
    "opus.mkv": (("libopus", 48000, "stereo"), ("opus", 48000, "stereo")),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_that_mp4_lacks_becomes_aac(name, tmp_path):
    source, wanted = SOUNDS[name]
    sounding(tmp_path / name, *source)
    result = video.write(tmp_path / "same.mp4", tmp_path / name, Unchanged())
    assert result["frames"] == 25
    codec, rate, layout, seconds, frequency = heard(tmp_path / "same.mp4")
    assert (codec, rate, layout) == wanted
    assert seconds == pytest.approx(1, abs=0.2)
    assert frequency == pytest.approx(440, rel=0.05)


def rename(path, kind):
    """Changes a code of four letters in an MP4 file to that of a codec that nobody knows."""
    content = path.read_bytes()
    assert kind in content
    path.write_bytes(content.replace(kind, b"zzzz"))


def test_the_first_sound_track_that_works_is_kept(tmp_path, capsys):
    sounding(tmp_path / "two.mov", "pcm_s16le", count=2)
    video.write(tmp_path / "same.mp4", tmp_path / "two.mov", Unchanged())
    assert capsys.readouterr().out == "two.mov: of its 2 sound tracks number 1 is kept\n"
    content = (tmp_path / "two.mov").read_bytes()
    (tmp_path / "one.mov").write_bytes(content.replace(b"sowt", b"zzzz", 1))
    video.write(tmp_path / "same.mp4", tmp_path / "one.mov", Unchanged())
    assert capsys.readouterr().out == "one.mov: of its 2 sound tracks number 2 is kept\n"
    assert heard(tmp_path / "same.mp4")[-1] == pytest.approx(440, rel=0.05)
    (tmp_path / "none.mov").write_bytes(content.replace(b"sowt", b"zzzz"))
    video.write(tmp_path / "same.mp4", tmp_path / "none.mov", Unchanged())
    assert capsys.readouterr().out == "none.mov: without sound, as FFmpeg has no decoder for it\n"
    with av.open(str(tmp_path / "same.mp4")) as opened:
        assert not opened.streams.audio and len(list(opened.decode(video=0))) == 25


def test_sound_may_change_its_format(tmp_path):
    """And recordings may be joined: the times of the second one start again."""
    sounding(tmp_path / "one.ts", "mp2", 48000, "stereo")
    sounding(tmp_path / "two.ts", "mp2", 32000, "mono")
    (tmp_path / "film.ts").write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    result = video.write(tmp_path / "same.mp4", tmp_path / "film.ts", Unchanged())
    assert result["frames"] == 50 and length(tmp_path / "same.mp4") == pytest.approx(2, abs=0.1)
    codec, rate, layout, seconds, frequency = heard(tmp_path / "same.mp4")
    assert (codec, rate, layout) == ("aac", 48000, "stereo")
    assert seconds == pytest.approx(2, abs=0.2) and frequency == pytest.approx(440, rel=0.05)


NAMES = ["12:30:00.mp4", "-x.mp4", "100%d.mp4", "pipe:0.mp4", "concat:a|b.mp4", "two\nlines.mp4", b"\xff\xe9.mp4"]


def test_any_name_of_a_file(command_line, weights, tmp_path, monkeypatch):
    """As relative paths, which FFmpeg could take for addresses."""
    film(tmp_path / "film.mp4", times=range(0, 120, 40), sound=None)
    folder = tmp_path / "12:00"
    folder.mkdir()
    names = [os.fsdecode(name) for name in NAMES]
    for name in names:
        shutil.copy(tmp_path / "film.mp4", folder / name)
    shutil.copy(tmp_path / "film.mp4", folder / "no:ending")
    monkeypatch.chdir(folder)
    paths = [name if name[0] != "-" else f"./{name}" for name in [*names, "no:ending"]]
    status, out, err = command_line(unet_scratch, "--predict", *paths, "--weights", weights, "--output", "a:b")
    assert (status, err) == (0, ""), out
    results = sorted(path.name for path in (folder / "a:b").glob("*.mp4"))
    assert results == sorted(name.removesuffix(".mp4") + "_overlay.mp4" for name in [*names, "no:ending"])


def test_animations_are_photos_and_texts_no_videos(tmp_path):
    pictures = [Image.new("RGB", (32, 24), color) for color in (RED, GREEN)]
    for name in ("film.gif", "film.webp", "film.png"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
        assert not inputs.is_video(tmp_path / name)
        shutil.copy(tmp_path / name, tmp_path / "film")
        assert not inputs.is_video(tmp_path / "film")
    (tmp_path / "notes.txt").write_text("no film\n" * 100)
    assert not inputs.is_video(tmp_path / "notes.txt")


def test_a_size_that_changes_midway(tmp_path):
    """Later frames keep their proportions, between black bars."""
    for name, size in (("one", (160, 120)), ("two", (120, 160))):
        with av.open(str(tmp_path / f"{name}.ts"), "w") as output:
            add_picture(output, "libx264", GREEN, size, range(0, 400, 40))()
    (tmp_path / "film.ts").write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    result = video.write(tmp_path / "same.mp4", tmp_path / "film.ts", Unchanged())
    assert (result["size"], result["frames"]) == (SIZE, 20)
    last = upright_frames(tmp_path / "same.mp4")[-1].astype(int)
    assert np.abs(last[60, 80] - GREEN).max() < 12
    columns = np.flatnonzero(last[60, :, 1] > 100)  # 90 of them, as 120 x 160 becomes 90 x 120
    assert abs(columns[0] - 35) <= 1 and abs(columns[-1] - 124) <= 1
    assert last[:, :30].max() < 30 and last[:, -30:].max() < 30 and last[2, 80, 1] > 100


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_pixels_that_are_not_square(angle, tmp_path):
    """A square of pixels twice as wide as high is shown twice as wide, and turned twice as high."""
    size = (128, 128)
    with av.open(str(tmp_path / "film.mp4"), "w") as output:
        fill = add_picture(output, "libx264", GREEN, size, range(0, 120, 40))
        output.streams.video[0].codec_context.sample_aspect_ratio = 2
        output.streams.video[0].set_display_rotation(angle)
        fill()
    video.write(tmp_path / "same.mp4", tmp_path / "film.mp4", Unchanged())
    with av.open(str(tmp_path / "same.mp4")) as opened:
        stream = opened.streams.video[0]
        wanted = fractions.Fraction(2) if angle in (0, 180) else fractions.Fraction(1, 2)
        assert (stream.width, stream.height, stream.sample_aspect_ratio) == (*size, wanted)


@pytest.mark.parametrize(("options", "corner"), [((0, True, False), (0, 0)), ((0, False, True), (-1, -1))])
def test_mirrored_videos(options, corner, tmp_path):
    """The blue corner is at the upper right until the video is mirrored."""
    film(tmp_path / "film.mp4", sound=None, times=range(0, 120, 40))
    with av.open(str(tmp_path / "film.mp4")) as opened, av.open(str(tmp_path / "mirror.mp4"), "w") as output:
        track = output.add_stream_from_template(opened.streams.video[0])
        track.set_display_rotation(*options)
        for packet in opened.demux():
            if packet.size:
                packet.stream = track
                output.mux(packet)
    video.write(tmp_path / "same.mp4", tmp_path / "mirror.mp4", Unchanged())
    picture = upright_frames(tmp_path / "same.mp4")[0].astype(int)
    row, column = (10 if place == 0 else -10 for place in corner)
    assert np.abs(picture[row, column] - BLUE).max() < 16


def test_one_video_that_fails_ends_in_one_line(command_line, weights, tmp_path, monkeypatch):
    film(tmp_path / "a.mp4", times=range(0, 120, 40))
    rename(tmp_path / "a.mp4", b"avc1")
    film(tmp_path / "b.mp4", times=range(0, 120, 40))
    film(tmp_path / "c.mp4", times=range(0, 120, 40))
    encode = writer.VideoWriter._add_tracks

    def failing(output):
        if output.video.source.name == "b.mp4":
            raise ValueError("this encoder has its own errors")
        encode(output)

    monkeypatch.setattr(writer.VideoWriter, "_add_tracks", failing)
    output = tmp_path / "output"
    status, _, err = command_line(unet_scratch, "--predict", tmp_path, "--weights", weights, "--output", output)
    first, second = err.splitlines()
    assert status == 1 and "a.mp4: FFmpeg has no decoder for its pictures" in first
    assert "b.mp4: cannot be encoded (this encoder has its own errors)" in second
    assert [path.name for path in output.glob("*.mp4")] == ["c_overlay.mp4"]
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")]


def test_faults_of_the_code_keep_their_traceback(tmp_path, monkeypatch):
    film(tmp_path / "film.mp4", times=range(0, 120, 40))
    monkeypatch.setattr(cutout, "enlarge", lambda: None)
    with pytest.raises(TypeError):
        video.write(tmp_path / "same.mp4", tmp_path / "film.mp4", Unchanged())
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
