"""A person's own photos and videos: found, and photos read upright as RGB whatever their format."""

import collections
import dataclasses
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from app.cli import InputError, print_error

import cv2
import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

READ_AHEAD = 2  # photos decoded while the current one is worked on
VIDEOS = {".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
VIDEOS |= {".ogv", ".ts", ".vob", ".webm", ".wmv"}
ORIENTATION = 0x0112  # EXIF
QUARTER_TURNS = (5, 6, 7, 8)  # some of them mirrored
LONGEST_NAME = 180  # bytes; file systems stop at 255
# Pillow knows these endings, but they are not photos ...
NO_PICTURES = {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps", ".wmf"}
# ... and these are photos that it cannot read, to be reported rather than passed over.
OTHER_PICTURES = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"}

pillow_heif.register_heif_opener()  # what iPhones take
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata, and pictures close to its size limit


class Item(NamedTuple):
    """A photo or video to work on."""

    path: pathlib.Path
    name: str  # of its output files, unique in a run
    is_video: bool = False


@dataclasses.dataclass
class Counts:
    """How many photos and videos are done, and how many failed."""

    done: int = 0
    failed: int = 0

    def fail(self, message: str) -> None:
        """Counts a failure and prints the reason."""
        self.failed += 1
        print_error(message)

    def exit_status(self) -> int:
        """0 if all went well, 1 if some photos failed, 2 if none could be done."""
        if not self.failed:
            return 0
        return 1 if self.done else 2


def find_all(
    arguments: Sequence[pathlib.Path], output: pathlib.Path, counts: Counts, with_videos: bool = False
) -> list[Item]:
    """Finds photos, and if wanted videos: those named, and those in the folders named; the photos come first.

    What cannot be found is reported and counted.

    Raises:
      InputError: if one of them is in the `output` folder, because it could be overwritten.
    """
    paths = []
    for argument in arguments:
        try:
            paths += find(argument, with_videos)
        except InputError as error:
            counts.fail(str(error))
    paths = list({os.path.realpath(path): path for path in paths}.values())  # each once
    if output.resolve() in {path.parent.resolve() for path in paths}:
        raise InputError(f"--output {output}: this folder holds photos to work on; name another one")
    items = []
    for path, name in zip(paths, output_names(paths), strict=True):
        is_video = with_videos and (_is_video(path) or (not _is_picture(path) and _opens_as_video(path)))
        items.append(Item(path, name, is_video))
    return sorted(items, key=lambda item: item.is_video)


def read_all(items: Sequence[Item], counts: Counts) -> Iterator[tuple[Item, np.ndarray]]:
    """Reads photos, READ_AHEAD of them in advance, with a progress bar; those that cannot be read are counted.

    Yields:
      The item and its pixels, as `read` returns them.
    """
    bar = tqdm(total=len(items), unit="photo", file=sys.stdout, disable=None if items else True)  # on a terminal only
    with bar, ThreadPoolExecutor(READ_AHEAD) as pool:
        for item, pixels in in_order(pool, lambda item: read(item.path), items, READ_AHEAD):
            try:
                yield item, pixels.result()
            except InputError as error:
                counts.fail(str(error))
            bar.update()


def in_order(pool: Executor, function: Callable, items: Iterable, ahead: int) -> Iterator[tuple[Any, Future]]:
    """Each item and the future of function(item), in order, while the pool works on up to `ahead` later ones."""
    waiting: collections.deque[tuple[Any, Future]] = collections.deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def find(argument: pathlib.Path, with_videos: bool = False) -> list[pathlib.Path]:
    """The photo at a path, or the pictures in a folder, ordered by name; subfolders are not searched.

    In a folder a file counts as a picture by its ending, readable or not, or else by its content.

    Raises:
      InputError: if there is nothing at the path, or no picture in the folder.
    """
    try:
        if not argument.is_dir():
            if not argument.exists():
                raise InputError(f"{argument}: no such file or folder")
            return [argument]
        paths = [path for path in sorted(argument.iterdir()) if _is_picture(path) or (with_videos and _is_video(path))]
    except OSError as error:
        raise InputError(f"{argument}: cannot be read ({error.strerror})") from error
    if not paths:
        raise InputError(f"{argument}: no picture in this folder (its subfolders are not searched)")
    return paths


def _is_video(path: pathlib.Path) -> bool:
    return path.suffix.lower() in VIDEOS and not path.name.startswith(".")


def _opens_as_video(path: pathlib.Path) -> bool:
    return path.is_file() and cv2.VideoCapture(str(path)).isOpened()


def _is_picture(path: pathlib.Path) -> bool:
    ending = path.suffix.lower()
    if path.name.startswith(".") or path.is_dir():
        return False
    if ending in OTHER_PICTURES or ending in Image.registered_extensions().keys() - NO_PICTURES:
        return True
    return path.is_file() and size(path) is not None


def read(path: pathlib.Path) -> np.ndarray:
    """Reads a photo as uint8 [H, W, 3], RGB, upright according to its EXIF data; of an animation the first frame.

    Raises:
      InputError: if it is not a picture, is damaged, or has more than 178 million pixels.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'a link to nothing' if path.is_symlink() else 'not a file'}")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith(("I", "F")):  # 16 bits or more, which Pillow would clip at 255
                values = np.nan_to_num(np.asarray(image, np.float32))
                limits = (65535,) if "16" in image.mode else (1, 255, 65535, values.max())
                full = next(limit for limit in limits if values.max() <= limit)
                image = Image.fromarray((values.clip(0) * (255 / full)).astype(np.uint8))
            return np.array(image.convert("RGB"))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        megapixels = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f"{path}: more than {megapixels} megapixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture, or of a kind that Pillow cannot read") from error
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # each of Pillow's formats fails in its own way
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be read, it may be damaged ({reason})") from error


def size(path: pathlib.Path) -> tuple[int, int] | None:
    """The width and height of a photo, upright, from its first bytes; None if they cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION) in QUARTER_TURNS else (width, height)
    except Exception:  # each of Pillow's formats fails in its own way
        return None


def output_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """A unique name for the output files of each photo: its own without the ending, numbered if taken."""
    stems = [os.fsdecode(os.fsencode(path.stem)[:LONGEST_NAME]) for path in paths]
    reserved = {stem.casefold() for stem in stems}
    taken = set()
    names = []
    for stem in stems:
        name = stem
        number = 1
        while name.casefold() in taken or (number > 1 and name.casefold() in reserved):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
