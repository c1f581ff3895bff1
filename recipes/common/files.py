"""Files that are whole or not there, and mistakes that are told in one line."""

import contextlib
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

DOWNLOAD_TIMEOUT = 20  # seconds without an answer
HOST = platform.node().partition(".")[0][:20] or "host"  # of several that share a disk
ROOT = pathlib.Path(__file__).resolve().parents[2]  # the project's folder, which holds output/ and weights/


class InputError(Exception):
    """Something a person can put right: a wrong flag, file or folder. Its text says what is wrong and what to do."""


def tell(mistake: str) -> None:
    """Says on stderr, in one line, what is wrong; a progress bar that is on the screen stays whole."""
    tqdm.write(f"{pathlib.Path(sys.argv[0]).name}: {' '.join(mistake.split())}", file=sys.stderr)


def shown(path: pathlib.Path) -> pathlib.Path:
    """A path as a person would type it: from the working directory where it lies below that."""
    path = path.resolve()
    return path.relative_to(pathlib.Path.cwd()) if path.is_relative_to(pathlib.Path.cwd()) else path


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary name beside `path` to write to, and renames it to `path` once the block has succeeded.

    A reader sees the old file or the whole new one, never a half. The temporary name keeps the ending of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{HOST}-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a power failure might leave the name without the content
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None:  # of this file, by the name that people know
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_left_overs(folder: pathlib.Path) -> None:
    """Removes the temporary files of `replacing` whose process was killed."""
    for path in folder.glob(f".{HOST}-*"):
        owner = path.name.removeprefix(f".{HOST}-").partition("-")[0]
        if owner.isdecimal():
            try:
                os.kill(int(owner), 0)  # asks only whether it lives
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except OSError:
                pass


def write_text(path: pathlib.Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of cells in columns of even width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def check_writable(folder: pathlib.Path, flag: str) -> None:
    """Makes sure that files can be put into a folder, before hours of work depend on it. Leaves no trace.

    Raises:
      InputError: which names `flag`, where the folder is a file or cannot be written to.
    """
    missing = []
    try:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        for attempt in range(5):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with tempfile.TemporaryFile(dir=folder):
                    break
            except FileNotFoundError:  # another worker, which checks it too, has just removed it
                if attempt == 4:
                    raise
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{flag} {folder}: {error.filename} is a file; name a folder") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{flag} {folder}: cannot write there ({reason}); name another folder") from error
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


def download(url: str, path: pathlib.Path) -> None:
    """Downloads a URL into a file.

    Raises:
      OSError: where the file cannot be written; and, as requests.RequestException, for a refusal, a wrong address, a
        body that is cut off, or DOWNLOAD_TIMEOUT seconds without a byte.
    """
    print(f"downloading {url}", flush=True)
    with requests.get(url, stream=True, timeout=DOWNLOAD_TIMEOUT) as response, path.open("wb") as file:
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        with tqdm(total=size, unit="B", unit_scale=True, disable=None, file=sys.stdout) as bar:  # on a terminal only
            for block in response.iter_content(2**20):
                file.write(block)
                bar.update(len(block))


@contextlib.contextmanager
def no_endless_waiting() -> Iterator[None]:
    """Gives requests that are made without a timeout, as tensorflow-datasets does, one of DOWNLOAD_TIMEOUT."""
    send = requests.adapters.HTTPAdapter.send

    def send_with_timeout(adapter, request, **options):
        return send(adapter, request, **{**options, "timeout": options.get("timeout") or DOWNLOAD_TIMEOUT})

    requests.adapters.HTTPAdapter.send = send_with_timeout
    try:
        yield
    finally:
        requests.adapters.HTTPAdapter.send = send


def in_one_line(error: Exception) -> str:
    """What an error says, fit to be part of a line."""
    request = getattr(error, "request", None)
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "IncompleteRead" in str(error):
        return "the connection broke in the middle of the file"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        host = urlsplit(request.url).hostname if request else "the server"
        return f"no connection to {host}, or no answer for {DOWNLOAD_TIMEOUT} s"
    return " ".join(str(error).split())[:600] or type(error).__name__
