"""Videos, from the command line to what a browser shows."""

import fractions
import functools
import json
import resource
import shutil
import subprocess
import threading

from app.predict import video

import av
import numpy as np
import pytest
import unet_scratch
from conftest import QuietHandler, QuietServer

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
