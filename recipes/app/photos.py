"""Photos, read upright in sRGB whatever their format."""

import os
import pathlib
import warnings

from app.cli import InputError, one_line
from app.decode import picture, tiff

import numpy as np
from PIL import Image, UnidentifiedImageError

PICTURES = Image.registered_extensions().keys()
PICTURES -= {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps", ".wmf"}  # no photos
PICTURES |= tiff.RAW_ENDINGS  # they are reported rather than passed over
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata, and pictures close to its size limit


def is_picture(path: pathlib.Path) -> bool:
    """Whether a file is a photo: by its ending, readable or not, or else by its content."""
    # Not by pathlib, which raises PermissionError for a folder that may not be entered.
    if path.suffix.lower() in PICTURES:
        return not os.path.isdir(path)  # noqa: PTH112
    return os.path.isfile(path) and (size(path) is not None or picture.is_raw(path))  # noqa: PTH113


def read(path: pathlib.Path, white: float | None = None) -> np.ndarray:
    """Reads a photo as uint8 [H, W, 3], sRGB, upright according to its EXIF data; of an animation the first frame.

    What is transparent shows a plain colour. `white` is the value that becomes 255 in grey pictures of more than 8
    bits; None: that of the format. Raises InputError if it is not a picture, is a raw file, is damaged, or
    has more than 178 million pixels.
    """
    return read_with_alpha(path, white).pixels


def read_with_alpha(path: pathlib.Path, white: float | None = None) -> picture.Picture:
    """The pixels of `read`, and the photo's own colours with their alpha, uint8 [H, W, 4]; None if it is opaque."""
    try:
        if not path.is_file():  # a pipe would never end
            raise InputError(f"{path}: {'a link to nothing' if path.is_symlink() else 'not a file'}")
        if not path.stat().st_size:
            raise InputError(f"{path}: the file is empty")
        return picture.decode(path, white)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: more than 178 megapixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture, or of a kind that Pillow cannot read") from error
    except Exception as error:  # each of Pillow's formats fails in its own way
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path}: damaged, or cannot be read ({reason})") from error


def size(path: pathlib.Path) -> tuple[int, int] | None:
    """The width and height of a photo, upright, from its first bytes; None if they cannot be read."""
    try:
        return picture.size(path)
    except Exception:  # each of Pillow's formats fails in its own way
        return None


def is_turned(path: pathlib.Path) -> bool:
    """Whether `read` turns or mirrors a photo because its EXIF data say so."""
    try:
        return picture.is_turned(path)
    except Exception:  # each of Pillow's formats fails in its own way
        return False


def largest_value(path: pathlib.Path) -> tuple[float, bool] | None:
    """The largest value in a picture of more than 8 bits, and whether it has colours; None for any other file."""
    try:
        return picture.largest_value(path)
    except Exception:  # each of Pillow's formats fails in its own way; `read` says why
        return None
