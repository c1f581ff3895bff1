"""Files that are either complete or absent, and a time limit for downloads."""

import contextlib
import json
import os
import pathlib
import platform
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

from app.cli import InputError

import requests

HOST = platform.node().partition(".")[0][:20] or "host"  # several machines may share a disk
ROOT = pathlib.Path(__file__).resolve().parents[2]  # the project's folder, with output/ and weights/
TIMEOUT = 20  # seconds without an answer to a download


def shipped(recipe: str) -> pathlib.Path:
    """The path of the trained weights that come with the project; not every recipe has them."""
    return ROOT / "weights" / f"{recipe}.weights.h5"


def shown(path: pathlib.Path) -> pathlib.Path:
    """A path as a person would type it: relative to the working directory if it lies below."""
    path = path.resolve()
    return path.relative_to(pathlib.Path.cwd()) if path.is_relative_to(pathlib.Path.cwd()) else path


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, with the same ending, and renames it to `path` if the block succeeds.

    A reader sees the old file or the complete new one, never a partial one. An OSError names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{HOST}-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power failure could leave the name without the content
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes the temporary files of `replacing` whose process was killed."""
    for path in folder.glob(f".{HOST}-*"):
        owner = path.name.removeprefix(f".{HOST}-").partition("-")[0]
        if owner.isdecimal():
            try:
                os.kill(int(owner), 0)  # only asks whether the process exists
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except OSError:
                pass  # it exists, and belongs to another user


def write_text(path: pathlib.Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as JSON; a path in it becomes text."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def check_writable(folder: pathlib.Path, flag: str) -> None:
    """Checks that a folder can be written to, or made, before hours of work depend on it. Leaves no trace.

    Raises:
      InputError: which names `flag`, if the folder is a file or cannot be written to.
    """
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryDirectory(dir=nearest) as temporary:
            pathlib.Path(temporary, folder.relative_to(nearest)).mkdir(parents=True, exist_ok=True)
    except NotADirectoryError as error:
        raise InputError(f"{flag} {folder}: {nearest} is a file; name a folder") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{flag} {folder}: cannot write there ({reason}); name another folder") from error


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Applies TIMEOUT to connections that libraries open without a limit, by urllib or by requests."""
    send = requests.adapters.HTTPAdapter.send
    default = socket.getdefaulttimeout()

    def send_with_timeout(adapter, request, **options):
        return send(adapter, request, **{**options, "timeout": options.get("timeout") or TIMEOUT})

    requests.adapters.HTTPAdapter.send = send_with_timeout
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        requests.adapters.HTTPAdapter.send = send
        socket.setdefaulttimeout(default)
