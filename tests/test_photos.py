"""Photos in the wild: every kind is read upright as 8-bit RGB, and unreadable files are reported."""

import functools
import os
import pathlib

from app import photos
from app.cli import InputError
from app.predict import png

import cv2
import numpy as np
import pytest
from PIL import Image

COLORS = np.array([[(250, 10, 20), (30, 240, 40)], [(50, 60, 230), (200, 210, 220)]], np.uint8)
PICTURE = COLORS.repeat(24, axis=0).repeat(32, axis=1)  # four flat tiles, 48 x 64


def rotated(path, ending=".jpg"):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for display; HEIC files say it twice, as phones do
    stored = Image.fromarray(np.rot90(PICTURE).copy())
    stored.save(path.with_suffix(ending), exif=exif.tobytes(), quality=95)
    return path.with_suffix(ending)


def saved(mode, ending, **options):
    def save(path):
        Image.fromarray(PICTURE).convert(mode).save(path.with_suffix(ending), **options)
        return path.with_suffix(ending)

    return save


def palette(path):
    Image.fromarray(PICTURE).quantize(4).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def animated(path):
    frames = [Image.fromarray(frame) for frame in (PICTURE, 255 - PICTURE)]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])
    return path.with_suffix(".gif")


def sixteen_bits(path):
    grey = np.asarray(Image.fromarray(PICTURE).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def wrong_ending(path):
    return saved("RGB", ".png")(path).rename(path.with_suffix(".jpg"))


KINDS = {
    "jpeg": saved("RGB", ".jpg", quality=95),
    "rotated": rotated,
    "iPhone": functools.partial(rotated, ending=".heic"),
    "rotated avif": functools.partial(rotated, ending=".avif"),
    "rotated webp": functools.partial(rotated, ending=".webp"),
    "grey": saved("L", ".png"),
    "black and white": saved("1", ".png"),
    "palette": palette,
    "rgba": saved("RGBA", ".png"),
    "cmyk": saved("CMYK", ".jpg", quality=95),
    "16 bits": sixteen_bits,
    "animated": animated,
    "wrong ending": wrong_ending,
    "ein Hündchen 犬": saved("RGB", ".webp", lossless=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_photo(kind, tmp_path):
    path = KINDS[kind](tmp_path / kind)
    pixels = photos.read(path)
    assert photos.find(tmp_path) == [path] and photos.size(path) == pixels.shape[1::-1]
    assert pixels.dtype == np.uint8
    grey = {"black and white": "1", "grey": "L", "16 bits": "L"}.get(kind, "RGB")
    expected = np.asarray(Image.fromarray(PICTURE).convert(grey).convert("RGB")).astype(int)
    assert pixels.shape == expected.shape
    # Only inside the tiles: JPEG blurs colours at their edges.
    difference = np.abs(pixels.astype(int) - expected)[4:20, 4:28]
    assert difference.max() <= (45 if kind == "cmyk" else 8)


def huge(path):
    Image.new("1", (20000, 20000)).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def cut(path):
    whole = saved("RGB", ".jpg", quality=95)(path)
    whole.write_bytes(whole.read_bytes()[:-300])
    return whole


def text(path):
    path.with_suffix(".jpg").write_text("no picture")
    return path.with_suffix(".jpg")


def empty(path):
    path.with_suffix(".png").touch()
    return path.with_suffix(".png")


def dangling(path):
    path.with_suffix(".png").symlink_to("nowhere")
    return path.with_suffix(".png")


def forbidden(path):
    path = saved("RGB", ".png")(path)
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        return path
    pytest.skip("this user may read every file")


BAD = {
    "huge": (huge, "megapixels"),
    "cut": (cut, "damaged"),
    "text": (text, "not a picture"),
    "empty": (empty, "empty"),
    "dangling": (dangling, "a link to nothing"),
    "forbidden": (forbidden, "Permission denied"),
}


@pytest.mark.parametrize("kind", BAD)
def test_unreadable_photos_give_the_reason(kind, tmp_path):
    make, words = BAD[kind]
    path = make(tmp_path / kind)
    with pytest.raises(InputError, match=f"{path.name}.*{words}"):
        photos.read(path)


def test_photos_of_a_folder(tmp_path):
    for name in ("b", "A", "c"):
        saved("RGB", ".png")(tmp_path / name)
    (tmp_path / "c.png").rename(tmp_path / "c.dat")  # still a picture
    (tmp_path / "broken.jpeg").write_text("broken")  # claims to be one, so it is reported
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "._b.png").write_text("left by a Mac")
    (tmp_path / "paper.pdf").write_text("Pillow can write such, but it is no photo")
    (tmp_path / "phone.HEIC").write_text("a photo that Pillow cannot read: better told than passed over")
    os.mkfifo(tmp_path / "pipe")  # opening it blocks forever
    (tmp_path / "below").mkdir()
    saved("RGB", ".png")(tmp_path / "below" / "d")
    assert [path.name for path in photos.find(tmp_path)] == ["A.png", "b.png", "broken.jpeg", "c.dat", "phone.HEIC"]


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(InputError, match="no picture in this folder"):
        photos.find(tmp_path)


def test_output_names_never_collide():
    paths = ["a/cat.jpg", "b/cat.jpg", "c/cat-2.jpg", "a/cat.png", "a/Cat.png", "dog.jpg"]
    names = photos.output_names([pathlib.Path(path) for path in paths])
    assert names == ["cat", "cat-3", "cat-2", "cat-4", "Cat-5", "dog"]


def test_reading_continues_after_a_bad_photo(tmp_path, capfd):
    good = [saved("RGB", ".png")(tmp_path / name) for name in ("a", "b", "c", "d", "e")]
    bad = text(tmp_path / "c2")
    tally = photos.Tally()
    found, _ = photos.find_all([tmp_path, tmp_path / "nowhere", good[0]], tmp_path / "output", tally)
    assert [photo.path for photo in photos.read_all(found, tally)] == good
    tally.succeed(len(good))
    assert (tally.failed, tally.exit_status()) == (2, 1)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "nowhere: no such file" in lines[0] and f"{bad}: not a picture" in lines[1]


def test_circular_links_and_very_long_names(tmp_path, capfd):
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    saved("RGB", ".png")(tmp_path / ("long" * 60))
    found, _ = photos.find_all([tmp_path], tmp_path / "output", photos.Tally())
    (photo,) = photos.read_all(found, photos.Tally())
    assert len(os.fsencode(f".123456-{photo.name}_instances.png")) < 255
    assert "loop.jpg" in capfd.readouterr().err


def test_photos_are_never_overwritten(tmp_path):
    saved("RGB", ".png")(tmp_path / "cat")
    with pytest.raises(InputError, match=r"--output .* holds photos"):
        photos.find_all([tmp_path], tmp_path, photos.Tally())


@pytest.mark.parametrize(("kind", "largest"), [("int32", 255), ("int32", 65535), ("float32", 1), ("float32", 65535)])
def test_32_bit_images_are_scaled(tmp_path, kind, largest):
    grey = np.asarray(Image.fromarray(PICTURE).convert("L")) / 255
    Image.fromarray((grey * largest).astype(kind)).save(tmp_path / "scan.tif")
    pixels = photos.read(tmp_path / "scan.tif")
    np.testing.assert_allclose(pixels[..., 0] / pixels.max(), grey / grey.max(), atol=0.02)


def test_png_round_trip(tmp_path):
    path = tmp_path / "a.png"
    alpha = np.dstack([PICTURE, PICTURE[..., :1]])
    numbers = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    for picture in (PICTURE, alpha, PICTURE[..., 0], numbers, PICTURE[:1, :1], PICTURE[:, ::-1]):
        png.write(path, picture)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)


def test_png_of_class_ids(tmp_path):
    """The ids are the values, the colours are seen; other readers take the file too."""
    ids, colors = PICTURE[..., 0] % 3, np.array([(230, 140, 20), (36, 62, 110), (250, 240, 170)], np.uint8)
    png.write(tmp_path / "a.png", ids, colors)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()  # the checksums
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), ids)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colors[ids])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], colors[ids])
