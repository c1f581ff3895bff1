"""A person's own photos: found, read upright as RGB, whatever they are stored as."""

import collections
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from common.files import InputError, replacing, tell

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

READ_AHEAD = 2  # photos that are decoded while the one before is worked on
VIDEOS = {".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
VIDEOS |= {".ogv", ".ts", ".vob", ".webm", ".wmv"}
LONGEST_NAME = 180  # bytes; file systems stop at 255
# Pillow knows these endings, but they are no photos, ...
NO_PICTURES = {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".pdf", ".ps", ".wmf"}
# ... and these are photos that it cannot read, which is better said than passed over.
OTHER_PICTURES = {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".nef", ".orf", ".raf", ".rw2"}

warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd metadata, and pictures half as large as its limit


class Photo(NamedTuple):
    """A photo, and the name to call its output files by, which no other photo of the run has."""

    path: pathlib.Path
    name: str
    pixels: np.ndarray  # uint8 [H, W, 3], RGB, upright


class Reader:
    """Iterates over photos, reading ahead, with a progress bar. What cannot be read is told in one line and left out.

    Attributes:
      photos, videos: path and name of each that was found.
      done, failed: how many went well, which whoever works on them counts, and how many did not.
    """

    def __init__(self, arguments: Sequence[pathlib.Path], output: pathlib.Path, videos: bool = False):
        """Finds the photos, and videos if they are wanted: files as they are, of a folder the pictures in it.

        Raises:
          InputError: where the `output` folder holds one of them, for it might be overwritten.
        """
        self.done = self.failed = 0
        paths = []
        for argument in arguments:
            try:
                paths += find(argument, videos)
            except InputError as error:
                self.fail(str(error))
        paths = list({os.path.realpath(path): path for path in paths}.values())  # each once
        if output.resolve() in {path.parent.resolve() for path in paths}:
            raise InputError(f"--output {output}: this folder holds photos to work on; name another one")
        self.photos, self.videos = [], []
        for path, name in zip(paths, output_names(paths), strict=True):
            is_video = videos and (_is_video(path) or (not _is_picture(path) and opens_as_video(path)))
            (self.videos if is_video else self.photos).append((path, name))

    def __iter__(self) -> Iterator[Photo]:
        bar = tqdm(total=len(self.photos), unit="photo", file=sys.stdout, disable=not self.photos)
        waiting: collections.deque[tuple[pathlib.Path, str, Future]] = collections.deque()
        with bar, ThreadPoolExecutor(READ_AHEAD) as pool:
            upcoming = iter(self.photos)
            while True:
                for path, name in upcoming:
                    waiting.append((path, name, pool.submit(read, path)))
                    if len(waiting) > READ_AHEAD:
                        break
                if not waiting:
                    return
                path, name, future = waiting.popleft()
                try:
                    photo = Photo(path, name, future.result())
                except InputError as error:
                    self.fail(str(error))
                else:
                    yield photo
                bar.update()

    def fail(self, mistake: str) -> None:
        """Counts a photo that could not be done, and says why."""
        self.failed += 1
        tell(mistake)

    def exit_status(self) -> int:
        """0 where all went well, 1 where some photos failed, 2 where none could be done."""
        return 0 if not self.failed else 1 if self.done else 2


def find(argument: pathlib.Path, videos: bool = False) -> list[pathlib.Path]:
    """The photo at a path, or the pictures in a folder, in the order of their names; its subfolders are left alone.

    In a folder a picture is what has a picture's ending, readable or not, and what is one whatever its ending. With
    `videos` what has a video's ending is taken too.

    Raises:
      InputError: where there is nothing, or no picture in the folder.
    """
    try:
        if not argument.is_dir():
            if not argument.exists():
                raise InputError(f"{argument}: no such file or folder")
            return [argument]
        found = [path for path in sorted(argument.iterdir()) if _is_picture(path) or (videos and _is_video(path))]
    except OSError as error:
        raise InputError(f"{argument}: cannot be read ({error.strerror})") from error
    if not found:
        raise InputError(f"{argument}: no picture in this folder (its subfolders are not searched)")
    return found


def _is_video(path: pathlib.Path) -> bool:
    return path.suffix.lower() in VIDEOS and not path.name.startswith(".")


def opens_as_video(path: pathlib.Path) -> bool:
    return path.is_file() and cv2.VideoCapture(str(path)).isOpened()


def _is_picture(path: pathlib.Path) -> bool:
    ending = path.suffix.lower()
    if path.name.startswith(".") or path.is_dir():
        return False
    if ending in OTHER_PICTURES or ending in Image.registered_extensions().keys() - NO_PICTURES:
        return True
    if not path.is_file():
        return False
    try:
        with Image.open(path):
            return True
    except Exception:  # whatever it is, it does not say that it is a picture
        return False


def read(path: pathlib.Path) -> np.ndarray:
    """Reads a photo as uint8 [H, W, 3], RGB, upright as its EXIF data say. Of an animation it is the first frame.

    Raises:
      InputError: for what is no picture, or a damaged one, or one of more than 178 million pixels.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'a link to nothing' if path.is_symlink() else 'not a file'}")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith(("I", "F")):  # 16 bits and more, which Pillow would cut off at 255
                values = np.nan_to_num(np.asarray(image, np.float32))
                limits = (65535,) if "16" in image.mode else (1, 255, 65535, values.max())
                full = next(limit for limit in limits if values.max() <= limit)
                image = Image.fromarray((values.clip(0) * (255 / full)).astype(np.uint8))
            return np.array(image.convert("RGB"))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels; make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture, or of a kind that Pillow cannot read") from error
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # each format of Pillow has its own ways to fail
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be read, it may be damaged ({reason})") from error


def write(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a PNG: uint8 [H, W, 3] as RGB, [H, W, 4] as RGBA, uint8 or uint16 [H, W] as grey."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(picture.shape[-1]) if picture.ndim == 3 else None
    # OpenCV encodes photos four times as fast as Pillow, in files that are no larger.
    _, png = cv2.imencode(".png", picture if order is None else cv2.cvtColor(picture, order))
    with replacing(path) as temporary:
        temporary.write_bytes(png)


def output_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """A name for each photo to call its output files by: its own without the ending, numbered where two share it."""
    own = [os.fsdecode(os.fsencode(path.stem)[:LONGEST_NAME]) for path in paths]
    stems, taken, names = {stem.casefold() for stem in own}, set(), []
    for stem in own:
        name, number = stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in stems):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
