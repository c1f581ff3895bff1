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

from app.cli import InputError, one_line, print_error
from app.decode import picture, tiff

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

READ_AHEAD = 2  # photos
VIDEOS = {".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
VIDEOS |= {".ogv", ".ts", ".vob", ".webm", ".wmv"}
PICTURES = Image.registered_extensions().keys()
PICTURES -= {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps", ".wmf"}  # no photos
PICTURES |= tiff.RAW_ENDINGS  # they are reported rather than passed over
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata, and pictures close to its size limit


class Item(NamedTuple):
    """A photo or video to work on."""

    path: pathlib.Path
    name: str  # of its output files, unique in a run


@dataclasses.dataclass
class Counts:
    """Counts of photos and videos."""

    done: int = 0
    failed: int = 0

    def fail(self, message: str) -> None:
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
    """Finds photos, and if wanted videos: those named, and those in the folders named.

    Reports and counts what cannot be found. Raises InputError if one is in `output`, because it could be overwritten.
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
    return list(map(Item, paths, output_names(paths)))


def read_all(items: Sequence[Item], counts: Counts) -> Iterator[tuple[Item, np.ndarray, np.ndarray | None]]:
    """Yields each item and what `read_with_alpha` returns, with a progress bar; counts what cannot be read."""
    bar = tqdm(total=len(items), unit="photo", file=sys.stdout, disable=None if items else True)  # on a terminal only
    with bar, ThreadPoolExecutor(READ_AHEAD) as pool:
        for item, photo in in_order(pool, lambda item: read_with_alpha(item.path), items, READ_AHEAD):
            try:
                yield item, *photo.result()
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
    """The photo at a path, or the pictures in a folder, ordered by name. Raises InputError if there is nothing.

    In a folder a file counts as a picture by its ending, readable or not, or else by its content.
    """
    try:
        if argument.exists() and not argument.is_dir():
            return [argument]
        paths = [path for path in sorted(argument.iterdir()) if not path.name.startswith(".")]
        paths = [path for path in paths if _is_picture(path) or (with_videos and path.suffix.lower() in VIDEOS)]
    except OSError as error:
        raise InputError(f"{argument}: {error.strerror.lower()}") from error
    if not paths:
        raise InputError(f"{argument}: no picture in this folder (its subfolders are not searched)")
    return paths


def is_video(path: pathlib.Path) -> bool:
    """Whether a file is a video, by its ending, or because it is no picture and FFmpeg opens it."""
    if path.suffix.lower() in VIDEOS:
        return True
    return path.is_file() and not _is_picture(path) and cv2.VideoCapture(str(path)).isOpened()


def _is_picture(path: pathlib.Path) -> bool:
    if path.suffix.lower() in PICTURES:
        return not path.is_dir()
    return path.is_file() and (size(path) is not None or picture.is_raw(path))


def read(path: pathlib.Path) -> np.ndarray:
    """Reads a photo as uint8 [H, W, 3], sRGB, upright according to its EXIF data; of an animation the first frame.

    What is transparent shows a plain colour. Raises InputError if it is not a picture, is a raw file, is damaged, or
    has more than 178 million pixels.
    """
    return read_with_alpha(path).pixels


def read_with_alpha(path: pathlib.Path) -> picture.Picture:
    """The pixels of `read`, and the photo's own colours with their alpha, uint8 [H, W, 4]; None if it is opaque."""
    try:
        if not path.is_file():  # a pipe would never end
            raise InputError(f"{path}: {'a link to nothing' if path.is_symlink() else 'not a file'}")
        if not path.stat().st_size:
            raise InputError(f"{path}: the file is empty")
        return picture.decode(path)
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


def output_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """A unique name for the output files of each photo: its own without the ending, numbered if taken."""
    stems = [os.fsdecode(os.fsencode(path.stem)[:180]) for path in paths]  # file systems allow 255 bytes
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
