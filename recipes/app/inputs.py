"""A person's own photos and videos: found in folders, read in order, and named in the output folder."""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TextIO

from app import photos
from app.cli import InputError, plain, print_error

import av
import numpy as np
from tqdm import tqdm

READ_AHEAD = 2  # photos
NAMES = "photo_names.jsonl"  # in an output folder: whose results have which name
LONGEST = 180  # bytes of a name; file systems allow 255, and endings are added
VIDEOS = {".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
VIDEOS |= {".3g2", ".divx", ".dv", ".m2v", ".mxf", ".ogm", ".ogv", ".qt", ".vob", ".webm", ".wmv", ".y4m"}
# The first bytes of MP4, Matroska, AVI and MPEG-TS files.
STARTS = re.compile(
    rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI |\x47.{187}\x47", re.DOTALL
)  # of MP4, Matroska, AVI, MPEG-TS
NO_VIDEOS = {"tty"}  # text, which FFmpeg draws


class Item(NamedTuple):
    """A photo or video to work on."""

    path: pathlib.Path
    name: str  # of its output files, without their endings; photos of subfolders have them in their names


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


def check_output(output: pathlib.Path, pattern: str, recipe: str) -> None:
    """Raises InputError if an output folder has files of `pattern`, by which another recipe tells of its results."""
    if any(output.glob(pattern)):
        raise InputError(f"--output {output}: holds results of {recipe}, with the same names; name another folder")


def find_all(
    arguments: Sequence[pathlib.Path], output: pathlib.Path, counts: Counts, with_videos: bool = False
) -> list[Item]:
    """Finds photos, and if wanted videos: those named, and those in the folders named and their subfolders.

    Reports and counts what cannot be found. Names are those of the files; `give_names` makes them unique.

    Raises:
      InputError: if results would lie beside the photos, because they could replace one.
    """
    items = {}
    searched = set()
    for argument in arguments:
        try:
            for path in find(argument, counts, with_videos, searched):
                below = path.relative_to(argument) if path != argument else pathlib.Path(path.name)
                items.setdefault(absolute(path), Item(path, _cleaned(below)))
        except InputError as error:
            counts.fail(str(error))
    places = {(output / item.name).parent.resolve() for item in items.values()}
    if places & {item.path.parent.resolve() for item in items.values()}:
        raise InputError(f"--output {output}: this folder holds photos to work on; name another one")
    return list(items.values())


def find(argument: pathlib.Path, counts: Counts, with_videos: bool, searched: set[str]) -> list[pathlib.Path]:
    """The photo at a path, or the pictures in a folder and its subfolders, ordered by name.

    In a folder a file counts as a picture by its ending, readable or not, or else by its content. Hidden files and
    folders are left out, and so are subfolders with results of these programs, and links to a folder that has been
    `searched`, to which all are added.

    Raises:
      InputError: if there is nothing.
    """
    try:
        if argument.exists() and not argument.is_dir():
            return [argument]
        os.scandir(argument).close()
    except OSError as error:
        raise InputError(f"{argument}: {error.strerror.lower()}") from error

    def report(error):
        counts.fail(f"{error.filename}: {error.strerror.lower()}")

    paths = []
    waiting = [argument]  # the folder, and links to others, which are searched after it
    while waiting:
        top = waiting.pop(0)
        if top != argument and os.path.realpath(top) in searched:
            print(plain(f"{top}: a link to a folder that is searched already, left out"), flush=True)
            continue
        for place, folders, names in os.walk(top, onerror=report):
            searched.add(os.path.realpath(place))
            if NAMES in names and pathlib.Path(place) != argument:
                print(plain(f"{place}: results of an earlier run, left out"), flush=True)
                folders.clear()
                continue
            below = [pathlib.Path(place, name) for name in folders if not name.startswith(".")]
            waiting += sorted(path for path in below if path.is_symlink())
            folders[:] = [path.name for path in below]
            visible = [pathlib.Path(place, name) for name in names if not name.startswith(".")]
            paths += [path for path in visible if photos.is_picture(path) or (with_videos and _looks_like_video(path))]
    if not paths:
        raise InputError(f"{argument}: no picture in this folder or its subfolders")
    return sorted(paths)


def is_video(path: pathlib.Path) -> bool:
    """Whether a file is a video, by its ending, or because it is no picture and FFmpeg finds moving pictures in it.

    Animations (GIF, WebP, APNG) are photos.
    """
    if not os.path.isfile(path):  # noqa: PTH113  see photos.is_picture
        return False
    if path.suffix.lower() in VIDEOS:
        return True
    if photos.is_picture(path):
        return False
    try:
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            return container.format.name not in NO_VIDEOS and bool(container.streams.video)
    except Exception:  # each of FFmpeg's formats fails in its own way
        return False


def _looks_like_video(path: pathlib.Path) -> bool:
    """Whether a file in a folder is a video, by its ending or, quickly, by how it starts."""
    if path.suffix.lower() in VIDEOS:
        return True
    with contextlib.suppress(OSError):
        if path.is_file():  # a pipe would never end
            with path.open("rb") as file:
                return bool(STARTS.match(file.read(189)))
    return False


def absolute(path: pathlib.Path) -> str:
    """What identifies a photo: its place and name, of a link those of the link."""
    place = path.parent.resolve() if ".." in path.parts else path.parent
    return str(place.absolute() / path.name)


def _cleaned(path: pathlib.Path) -> str:
    """The name of a photo's results: its path without the ending."""
    return "/".join(_shortened(part) for part in (*path.parts[:-1], path.stem))


def _shortened(name: str) -> str:
    """The beginning of a name, in whole letters, that a file system takes."""
    coded = os.fsencode(name)
    if len(coded) <= LONGEST:
        return name
    return os.fsdecode(coded[:LONGEST]).rstrip("".join(map(chr, range(0xDC80, 0xDD00))))  # a part of a letter


@contextlib.contextmanager
def locked(output: pathlib.Path) -> Iterator[TextIO]:
    """Makes other runs with the same output folder wait; yields its file of names."""
    import fcntl  # Linux and macOS only

    output.mkdir(parents=True, exist_ok=True)
    with (output / NAMES).open("a+", encoding="utf-8", errors="replace") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def give_names(items: Sequence[Item], output: pathlib.Path) -> list[Item]:
    """The items with names that no other photo's results in `output` have, now or later.

    A file in `output` keeps whose name is whose: a photo has the same name in each run, and runs at the same time
    agree. A name that is taken gets a number. Names that differ only in case count as the same.
    """
    names = {}
    line = "\n"
    with locked(output) as file:
        for line in file:
            with contextlib.suppress(ValueError, TypeError):  # the last line may be incomplete
                path, name = map(str, json.loads(line))
                names[path] = name
        new = [item for item in items if absolute(item.path) not in names]
        taken = {_comparable(name) for name in names.values()}
        own = {_comparable(item.name) for item in new}
        numbers = collections.Counter()  # the last one for each name
        for item in new:
            name = item.name
            while _comparable(name) in taken or (name != item.name and _comparable(name) in own):
                numbers[item.name] += 1
                name = f"{item.name}-{1 + numbers[item.name]}"
            taken.add(_comparable(name))
            names[absolute(item.path)] = name
        if not line.endswith("\n"):
            file.write("\n")
        file.writelines(json.dumps([absolute(item.path), names[absolute(item.path)]]) + "\n" for item in new)
    numbered = [item for item in new if item.name != names[absolute(item.path)]]
    if numbered:
        example = f"{names[absolute(numbered[0].path)]} for {numbered[0].path}"
        print(plain(f"names with a number, because other photos have theirs: {len(numbered)} ({example})"), flush=True)
    return [item._replace(name=names[absolute(item.path)]) for item in items]


def _comparable(name: str) -> str:
    """The same for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def read_all(
    items: Sequence[Item], counts: Counts, white: float | None = None
) -> Iterator[tuple[Item, np.ndarray, np.ndarray | None]]:
    """Yields each item and what photos.read_with_alpha returns, with a progress bar; counts what cannot be read."""
    bar = tqdm(total=len(items), unit="photo", file=sys.stdout, disable=None if items else True)  # on a terminal only
    with bar, ThreadPoolExecutor(READ_AHEAD) as pool:
        read = functools.partial(photos.read_with_alpha, white=white) if white else photos.read_with_alpha
        for item, photo in in_order(pool, lambda item: read(item.path), items, READ_AHEAD):
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
