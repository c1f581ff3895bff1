"""Decodes a photo of any format: upright, 8 bits, in sRGB, with its transparency."""

import contextlib
import functools
import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from app.cli import InputError
from app.decode import colors, tiff
from app.decode.repair import without_metadata

import numpy as np
import pillow_heif
from PIL import Image, PngImagePlugin, UnidentifiedImageError

ORIENTATION = 0x0112  # EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PLAIN = (124, 116, 104)  # behind what is transparent: ImageNet's mean, to a network as inconspicuous as can be
START = 64  # bytes, by which kinds of files are told apart
SCALES = {"L;2": 85, "L;4": 17}  # of the grey values of a PNG of 2 and of 4 bits

PngImagePlugin.MAX_TEXT_CHUNK = 64 << 20  # bytes: by default Pillow refuses PNGs with a profile or text over 1 MB
pillow_heif.register_heif_opener()  # what iPhones take


class Picture(NamedTuple):
    """A decoded photo."""

    pixels: np.ndarray  # uint8 [H, W, 3], RGB; what is transparent shows PLAIN
    transparent: np.ndarray | None  # uint8 [H, W, 4], RGBA, its own colours; None if all of it is opaque


def decode(path: pathlib.Path, white: float | None = None) -> Picture:
    """Decodes a photo; of an animation the first frame. Raises InputError for a raw file, and Pillow's errors.

    `white` is the value that becomes 255 in grey pictures of more than 8 bits; None: that of the format.
    """
    return _with_repair(functools.partial(_decode, white=white), path)


def size(path: pathlib.Path) -> tuple[int, int]:
    """The width and height that `decode` gives, from the first bytes; raises what it raises."""
    return _with_repair(_size, path)


def is_turned(path: pathlib.Path) -> bool:
    """Whether EXIF data turn or mirror a photo; raises what `decode` raises."""
    return _with_repair(_is_turned, path)


def largest_value(path: pathlib.Path) -> tuple[float, bool] | None:
    """The largest value in a picture of more than 8 bits, and whether it has colours; None for others.

    Of colours of 16 bits Pillow reads the upper 8; the value is the largest that they may stand for.
    """
    return _with_repair(_largest_value, path)


def is_raw(path: pathlib.Path) -> bool:
    """Whether a file is a raw file of a camera; not if it cannot be read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return tiff.is_raw(path, file.read(START))
    return False


def _with_repair(function: Callable, path: pathlib.Path) -> Any:
    """Calls it with a path and False; if it fails again with True, as metadata may be all that cannot be read."""
    try:
        return function(path, False)
    except Exception as error:
        try:
            return function(path, True)
        except Exception:
            raise error from None


def _decode(path: pathlib.Path, repair: bool, white: float | None) -> Picture:
    with _opened(path, repair) as image:
        profile = colors.profile_of(image, path)
        _scale_key(image)
        image.load()
        turn = TURNS.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        image, alpha = _split(_with_8_bits(image, white))
        image = colors.to_srgb(image, profile)
        if alpha is None:
            return Picture(np.array(image), None)
        plain = Image.new("RGB", image.size, PLAIN)
        return Picture(np.array(Image.composite(image, plain, alpha)), np.dstack([image, alpha]))


def _largest_value(path: pathlib.Path, repair: bool) -> tuple[float, bool] | None:
    with _opened(path, repair) as image:
        if image.mode.startswith(("I", "F")):
            return float(np.nan_to_num(np.asarray(image, np.float32)).max()), False
        if image.mode == "RGB" and image.tile and ";16" in str(image.tile[0].args):
            return 256.0 * np.asarray(image).max() + 255, True
        return None


def _size(path: pathlib.Path, repair: bool) -> tuple[int, int]:
    with _opened(path, repair) as image:
        width, height = image.size
        is_swapped = image.format == "TIFF" and ORIENTATION in image.tag_v2  # by Pillow
        return (height, width) if _orientation(image) in (5, 6, 7, 8) and not is_swapped else (width, height)


def _is_turned(path: pathlib.Path, repair: bool) -> bool:
    with _opened(path, repair) as image:
        return _orientation(image) != 1


@contextlib.contextmanager
def _opened(path: pathlib.Path, repair: bool) -> Iterator[Image.Image]:
    """Opens a picture; `repair` leaves out metadata that Pillow may stumble at."""
    with path.open("rb") as file:
        start = file.read(START)
        if tiff.is_raw(path, start):
            raise InputError(f"{path}: a raw file of a camera; export it as JPEG")
        if start.startswith(tiff.TIFF_STARTS):
            image = tiff.open_full(path, rebuild=repair)
        elif not repair:
            file.seek(0)
            image = Image.open(file)
        else:
            image = Image.open(io.BytesIO(without_metadata(path.read_bytes())))
        if image.format == "MPEG":  # which Pillow recognizes, but cannot read
            raise UnidentifiedImageError(f"{path}: a video")
        if image.format == "MPO":
            _seek_largest(image)
        if image.format == "PCD":
            raise InputError(f"{path}: a Photo CD, of which only a preview can be read; convert it to JPEG")
        with image:
            yield image


def _seek_largest(image: Image.Image) -> None:
    """Goes to the largest of several pictures in a file, the first of equals."""
    sizes = []
    with contextlib.suppress(EOFError, OSError):
        for number in range(image.n_frames):
            image.seek(number)
            sizes.append(image.width * image.height)
    image.seek(sizes.index(max(sizes)) if sizes else 0)


def _orientation(image: Image.Image) -> int:
    """As in EXIF, 1..8; 1, which is upright, if a picture says nothing valid, or its decoder has turned it already."""
    if image.format == "HEIF":  # its own boxes say so, and libheif heeds them
        return 1
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # odd EXIF data
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def _with_8_bits(image: Image.Image, white: float | None) -> Image.Image:
    """Grey values of 16 bits or more as L or, with transparency, as LA; Pillow would clip them at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, np.float32))
    limits = (65535,) if "16" in image.mode else (1, 255, 65535, values.max())
    full = white or next(limit for limit in limits if values.max() <= limit)
    grey = (values.clip(0, full) * (255 / full)).astype(np.uint8)
    if image.info.get("white_is_zero"):
        grey = 255 - grey
    key = image.info.get("transparency")
    if isinstance(key, int):
        return Image.fromarray(np.dstack([grey, np.where(values == key, 0, 255).astype(np.uint8)]))
    return Image.fromarray(grey)


def _scale_key(image: Image.Image) -> None:
    """The transparent colour of an opened PNG, which Pillow leaves in the file's bits, in 8 bits."""
    key = image.info.get("transparency")
    if image.format != "PNG" or not image.tile or image.mode not in ("L", "RGB") or isinstance(key, bytes | None):
        return
    coding = image.tile[0].args if isinstance(image.tile[0].args, str) else image.tile[0].args[0]
    if image.mode == "L":
        image.info["transparency"] = key * SCALES.get(coding, 1)
    elif "16" in coding:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture without its alpha, in its own colours, and the alpha, L; None if all of it is opaque."""
    if not image.has_transparency_data:
        return image, None
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode[:-1] + "A")
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    alpha = image.getchannel("A")
    smallest, largest = alpha.getextrema()
    is_unused = largest == 0 and image.format in ("BMP", "TGA")
    image = image.convert(image.mode[:-1])
    return image, None if smallest == 255 or is_unused else alpha
