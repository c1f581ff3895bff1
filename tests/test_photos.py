"""Photos in the wild: every kind is read upright as 8-bit RGB, and unreadable files are reported."""

import os
import pathlib

from app import photos
from app.cli import InputError
from app.predict import png

import cv2
import numpy as np
import pytest
from pictures import KINDS, PICTURE, UNREADABLE, save
from PIL import Image


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_photo(kind, tmp_path):
    path = KINDS[kind](tmp_path / kind)
    pixels = photos.read(path)
    assert photos.find(tmp_path) == [path] and photos.size(path) == pixels.shape[1::-1]
    assert pixels.dtype == np.uint8
    expected = Image.fromarray(PICTURE).convert("L" if kind in ("grey", "16 bits") else "RGB").convert("RGB")
    expected = np.asarray(expected).astype(int)
    assert pixels.shape == expected.shape
    # Only inside the tiles: JPEG blurs colours at their edges.
    difference = np.abs(pixels.astype(int) - expected)[4:20, 4:28]
    assert difference.max() <= (45 if kind == "cmyk" else 8)


@pytest.mark.parametrize(("kind", "largest"), [("int32", 255), ("int32", 65535), ("float32", 1), ("float32", 65535)])
def test_32_bit_images_are_scaled(tmp_path, kind, largest):
    grey = np.asarray(Image.fromarray(PICTURE).convert("L")) / 255
    Image.fromarray((grey * largest).astype(kind)).save(tmp_path / "scan.tif")
    pixels = photos.read(tmp_path / "scan.tif")
    np.testing.assert_allclose(pixels[..., 0] / pixels.max(), grey / grey.max(), atol=0.02)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_photos_give_the_reason(kind, tmp_path):
    make, words = UNREADABLE[kind]
    make(tmp_path / "bad.png")
    with pytest.raises(InputError, match=f"bad.png: .*{words}"):
        photos.read(tmp_path / "bad.png")


def test_photos_of_a_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "._b.png").write_text("left by a Mac")
    (tmp_path / "paper.pdf").write_text("Pillow can write such, but it is no photo")
    os.mkfifo(tmp_path / "pipe")  # opening it blocks forever
    (tmp_path / "below").mkdir()
    save(tmp_path / "below" / "d")
    with pytest.raises(InputError, match="no picture in this folder"):
        photos.find(tmp_path)
    for name in ("b", "A", "c"):
        save(tmp_path / name)
    (tmp_path / "c.png").rename(tmp_path / "c.dat")  # still a picture
    (tmp_path / "broken.jpeg").write_text("by its ending a picture, so it is reported")
    (tmp_path / "phone.RAF").write_text("a photo that Pillow cannot read, to be reported rather than passed over")
    assert [path.name for path in photos.find(tmp_path)] == ["A.png", "b.png", "broken.jpeg", "c.dat", "phone.RAF"]


def test_output_names_never_collide():
    paths = ["a/cat.jpg", "b/cat.jpg", "c/cat-2.jpg", "a/cat.png", "a/Cat.png", "dog.jpg"]
    names = photos.output_names([pathlib.Path(path) for path in paths])
    assert names == ["cat", "cat-3", "cat-2", "cat-4", "Cat-5", "dog"]


def test_reading_continues_after_a_bad_photo(tmp_path, capfd):
    good = [save(tmp_path / name) for name in ("a", "b", "c", "long" * 60)]
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    counts = photos.Counts()
    items = photos.find_all([tmp_path, tmp_path / "nowhere", good[0]], tmp_path / "output", counts)
    read = [item for item, *_ in photos.read_all(items, counts)]
    assert [item.path for item in read] == good
    assert len(os.fsencode(f".123456-{read[-1].name}_instances.png")) < 255
    counts.done = len(good)
    assert (counts.failed, counts.exit_status()) == (3, 1)
    lines = capfd.readouterr().err.splitlines()
    for line, words in zip(lines, ("nowhere: no such file", "bad.png: not a picture", "loop.jpg: "), strict=True):
        assert words in line


def test_photos_are_never_overwritten(tmp_path):
    save(tmp_path / "cat")
    with pytest.raises(InputError, match=r"--output .* holds photos"):
        photos.find_all([tmp_path], tmp_path, photos.Counts())


def test_png_files_hold_the_pixels(tmp_path):
    path = tmp_path / "a.png"
    alpha = np.dstack([PICTURE, PICTURE[..., :1]])
    numbers = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    for picture in (PICTURE, alpha, PICTURE[..., 0], numbers, PICTURE[:1, :1], PICTURE[:, ::-1]):
        png.write(path, picture)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)


def test_png_files_of_class_ids(tmp_path):
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
