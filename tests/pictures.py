"""One picture in every kind of file that a person may have, and files that cannot be read."""

import functools

import numpy as np
import pytest
from PIL import Image

COLORS = np.array([[(250, 10, 20), (30, 240, 40)], [(50, 60, 230), (200, 210, 220)]], np.uint8)
PICTURE = COLORS.repeat(24, axis=0).repeat(32, axis=1)  # four flat tiles, 48 x 64


def save(path, ending=".png", mode="RGB", **options):
    """Saves the picture; returns its path, which gets the ending."""
    path = path.with_suffix(ending)
    Image.fromarray(PICTURE).convert(mode).save(path, **options)
    return path


def rotated(path, ending=".jpg"):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for display; HEIC files say it twice, as phones do
    path = path.with_suffix(ending)
    Image.fromarray(np.rot90(PICTURE).copy()).save(path, exif=exif.tobytes(), quality=95)
    return path


def animated(path):
    frames = [Image.fromarray(frame) for frame in (PICTURE, 255 - PICTURE)]
    path = path.with_suffix(".gif")
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def sixteen_bits(path):
    grey = np.asarray(Image.fromarray(PICTURE).convert("L")).astype(np.uint16) * 257
    path = path.with_suffix(".png")
    Image.fromarray(grey).save(path)
    return path


KINDS = {
    "jpeg": functools.partial(save, ending=".jpg", quality=95),
    "rotated": rotated,
    "iPhone": functools.partial(rotated, ending=".heic"),
    "rotated avif": functools.partial(rotated, ending=".avif"),
    "rotated webp": functools.partial(rotated, ending=".webp"),
    "grey": functools.partial(save, mode="L"),
    "rgba": functools.partial(save, mode="RGBA"),
    "cmyk": functools.partial(save, ending=".jpg", mode="CMYK", quality=95),
    "16 bits": sixteen_bits,
    "animated": animated,
    "wrong ending": lambda path: save(path).rename(path.with_suffix(".jpg")),
    "ein Hündchen 犬": functools.partial(save, ending=".webp", lossless=True),
}


def huge(path):
    Image.new("1", (20000, 20000)).save(path)


def cut(path):
    save(path)
    path.write_bytes(path.read_bytes()[:-60])


def forbidden(path):
    save(path)
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        return
    pytest.skip("this user may read every file")


UNREADABLE = {  # what makes a .png, and a part of the message
    "huge": (huge, "megapixels"),
    "cut": (cut, "damaged"),
    "text": (lambda path: path.write_text("no picture"), "not a picture"),
    "empty": (lambda path: path.touch(), "empty"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
    "forbidden": (forbidden, "Permission denied"),
}
