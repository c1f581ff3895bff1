"""Names as annotation tools write them: of files, classes and splits."""

import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator

from app.datasets import BACKGROUND_NAME

SPLIT = re.compile(r"(?:.*[\W_])?(train|val|test)(?:id|idation|ing)?\d*", re.IGNORECASE)
SPLITS = {"train": "train", "val": "validation", "test": "test"}
NO_OBJECT = {"background", "bg", "unlabeled", "unlabelled", "void", "none", "other", "others", "nothing"}


def composed(name: str) -> str:
    """A name in Unicode's form NFC: file systems and tools may write a letter and its accent as one or as two."""
    return unicodedata.normalize("NFC", name)


def of_class(text: str) -> str:
    """The name of a class; labelme's _background_ is the background."""
    name = composed(" ".join(text.split()))
    return BACKGROUND_NAME if name.strip("_").lower() == BACKGROUND_NAME else name


def of_split(text: str) -> str | None:
    """The split that a file or folder is named after, if it is."""
    match = SPLIT.fullmatch(text)
    return SPLITS[match[1].lower()] if match else None


def is_ignored(name: str) -> bool:
    """Whether a class is to be ignored, such as labelme's __ignore__."""
    return name.strip("_ ").lower() in ("ignore", "ignored")


def twins(names: Iterable[str]) -> list[str]:
    """Those names that differ in case only from another one."""
    names = list(names)
    folded = [name.casefold() for name in names]
    return [name for name in names if folded.count(name.casefold()) > 1]


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """The visible files in a folder and its subfolders, sorted; links are followed, each folder is read once."""
    return sorted(_walk(folder))


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    seen = set()
    waiting = [folder]  # links come last, so that a file has the path without them if there is one
    while waiting:
        for place, folders, files in os.walk(waiting.pop(0)):
            if os.path.realpath(place) in seen:
                folders.clear()
                continue
            seen.add(os.path.realpath(place))
            visible = [pathlib.Path(place, name) for name in sorted(folders) if not name.startswith(".")]
            folders[:] = [path.name for path in visible]
            waiting += [path for path in visible if path.is_symlink()]
            yield from (pathlib.Path(place, name) for name in files if not name.startswith("."))
