"""Photos, read upright as RGB whatever their format."""

import functools
import pathlib
import warnings
from collections.abc import Callable

from app.cli import InputError, one_line

import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # EXIF

pillow_heif.register_heif_opener()  # what iPhones take
PICTURES = Image.registered_extensions().keys()
PICTURES -= {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps", ".wmf"}  # no photos
# Pillow cannot read these photos; they are reported rather than passed over.
PICTURES |= {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"}
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata, and pictures close to its size limit


def read(path: pathlib.Path, white: float | None = None) -> np.ndarray:
    """Reads a photo as uint8 [H, W, 3], RGB, upright according to its EXIF data; of an animation the first frame.

    `white` is the value that becomes 255 in grey pictures of more than 8 bits; None: that of the format.
    Raises InputError if it is not a picture, is damaged, or has more than 178 million pixels.
    """
    try:
        if not path.is_file():  # a pipe would never end
            raise InputError(f"{path}: {'a link to nothing' if path.is_symlink() else 'not a file'}")
        if not path.stat().st_size:
            raise InputError(f"{path}: the file is empty")
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith(("I", "F")):  # 16 bits or more, which Pillow would clip at 255
                values = np.nan_to_num(np.asarray(image, np.float32))
                limits = (65535,) if "16" in image.mode else (1, 255, 65535, values.max())
                full = white or next(limit for limit in limits if values.max() <= limit)
                image = Image.fromarray((values.clip(0, full) * (255 / full)).astype(np.uint8))
            return np.array(image.convert("RGB"))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: more than 178 megapixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture, or of a kind that Pillow cannot read") from error
    except Exception as error:  # each of Pillow's formats fails in its own way
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path}: damaged, or cannot be read ({reason})") from error


def reader(white: float | None) -> Callable[[pathlib.Path], np.ndarray]:
    """`read` with this `white`."""
    return functools.partial(read, white=white) if white else read


def size(path: pathlib.Path) -> tuple[int, int] | None:
    """The width and height of a photo, upright, from its first bytes; None if they cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
            return (height, width) if is_turned else (width, height)
    except Exception:  # each of Pillow's formats fails in its own way
        return None


def largest_value(path: pathlib.Path) -> tuple[float, bool] | None:
    """The largest value in a picture of more than 8 bits, and whether it has colours; None for any other file.

    Of colours of 16 bits Pillow reads the upper 8; the value is the largest that they may stand for.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                return float(np.nan_to_num(np.asarray(image, np.float32)).max()), False
            coding = image.tile[0].args if image.tile else ""
            if image.mode == "RGB" and ";16" in str(coding):
                return 256.0 * np.asarray(image).max() + 255, True
    except Exception:  # each of Pillow's formats fails in its own way; `read` says why
        pass
    return None
