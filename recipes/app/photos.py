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

import av
import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

READ_AHEAD = 2  # photos
VIDEOS = {".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
VIDEOS |= {".ogv", ".ts", ".vob", ".webm", ".wmv"}
NO_VIDEOS = {"tty"}  # text, which FFmpeg draws
ORIENTATION = 0x0112  # EXIF

pillow_heif.register_heif_opener()  # what iPhones take
PICTURES = Image.registered_extensions().keys()
PICTURES -= {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps", ".wmf"}  # no photos
# Pillow cannot read these photos; they are reported rather than passed over.
PICTURES |= {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"}
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


def read_all(items: Sequence[Item], counts: Counts) -> Iterator[tuple[Item, np.ndarray]]:
    """Yields each item and its pixels, as `read` returns them, with a progress bar; counts what cannot be read."""
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
    """Whether a file is a video, by its ending, or because it is no picture and FFmpeg finds moving pictures in it.

    Animations (GIF, WebP, APNG) are photos.
    """
    if path.suffix.lower() in VIDEOS:
        return True
    if not path.is_file() or _is_picture(path):
        return False
    try:
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            return container.format.name not in NO_VIDEOS and bool(container.streams.video)
    except Exception:  # each of FFmpeg's formats fails in its own way
        return False


def _is_picture(path: pathlib.Path) -> bool:
    if path.suffix.lower() in PICTURES:
        return not path.is_dir()
    return path.is_file() and size(path) is not None


def read(path: pathlib.Path) -> np.ndarray:
    """Reads a photo as uint8 [H, W, 3], RGB, upright according to its EXIF data; of an animation the first frame.

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
                full = next(limit for limit in limits if values.max() <= limit)
                image = Image.fromarray((values.clip(0) * (255 / full)).astype(np.uint8))
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


def size(path: pathlib.Path) -> tuple[int, int] | None:
    """The width and height of a photo, upright, from its first bytes; None if they cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
            return (height, width) if is_turned else (width, height)
    except Exception:  # each of Pillow's formats fails in its own way
        return None


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
