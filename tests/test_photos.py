"""Photos in the wild: every kind is read upright as 8-bit RGB, and unreadable files are reported."""

from app import photos
from app.cli import InputError
from app.predict import png

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf
from pictures import KINDS, PICTURE, UNREADABLE
from PIL import Image


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_photo(kind, tmp_path):
    path = KINDS[kind](tmp_path / kind)
    pixels = photos.read(path)
    assert photos.size(path) == pixels.shape[1::-1]
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


def test_png_files_hold_the_pixels(tmp_path):
    path = tmp_path / "a.png"
    alpha = np.dstack([PICTURE, PICTURE[..., :1]])
    numbers = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    for picture in (PICTURE, alpha, PICTURE[..., 0], numbers, PICTURE[:1, :1], PICTURE[:, ::-1]):
        png.write(path, picture)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)


def test_png_files_of_class_ids(tmp_path):
    """The ids are the values for whoever reads the file."""
    ids = PICTURE[..., 0] % 3
    png.write(tmp_path / "a.png", ids)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()  # the checksums
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), ids)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_GRAYSCALE), ids)
    decoded = tf.io.decode_png(tf.io.read_file(str(tmp_path / "a.png")), channels=1)
    np.testing.assert_array_equal(decoded[..., 0], ids)
    np.testing.assert_array_equal(plt.imread(tmp_path / "a.png") * 255, ids)
