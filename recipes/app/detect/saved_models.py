"""SavedModels from TensorFlow Hub, Kaggle or an archive: fetched once, kept under weights/, loaded."""

import contextlib
import gzip
import hashlib
import lzma
import pathlib
import re
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from app.cli import InputError, one_line
from app.download import download
from app.files import ROOT, shown

import requests
import tensorflow_hub as hub

ARCHIVES = (".tar.gz", ".tgz")
CHECKPOINT = "checkpoint"  # a folder in the model zoo's archives, as large as the SavedModel and not needed here


class Unavailable(InputError):
    """A model could not be downloaded."""


def first_available(handles: Sequence[str]):
    """Loads the first SavedModel that is available; those downloaded before come first.

    Args:
      handles: each the URL of a model on TensorFlow Hub or Kaggle, a folder with a SavedModel, or a .tar.gz with
        one, as a file or a URL. What is downloaded or unpacked is kept under weights/.
    Returns:
      What `tf.saved_model.load` gives.
    Raises:
      Unavailable: if none could be downloaded; it lists why.
      InputError: if one of them is damaged, or is no model.
    """
    errors: list[InputError] = []
    ordered = sorted(handles, key=lambda handle: not (_is_url(handle) and _kept(handle).exists()))
    for handle in ordered:
        try:
            return _load(handle)
        except InputError as error:
            errors.append(error)
        except (OSError, ValueError) as error:  # an unreadable file, an invalid address
            errors.append(InputError(f"{handle}: cannot be read ({one_line(error)})"))
        if handle != ordered[-1]:
            print(errors[-1], flush=True)
    kind = Unavailable if all(isinstance(error, Unavailable) for error in errors) else InputError
    raise kind("; ".join(map(str, errors)))


def _load(handle: str):
    folder, advice = pathlib.Path(handle), ""
    if _is_url(handle):
        folder = _fetch(handle)
        advice = f"; remove {folder}, and it will be downloaded again"
    elif folder.is_file():
        folder = _unpack_once(folder)
        advice = f"; remove {folder}, and it will be unpacked again"
    elif not folder.is_dir():
        raise InputError(f"{handle}: no such file or folder")
    saved_model = _saved_model(folder, handle)
    size = sum(path.stat().st_size for path in saved_model.rglob("*") if path.is_file())
    print(f"loading {shown(saved_model)}, {size / 1e6:.0f} MB", flush=True)
    try:
        return hub.load(str(saved_model))
    except Exception as error:  # protobuf, TensorFlow and the file system raise many kinds
        raise InputError(f"{handle}: its SavedModel cannot be loaded ({one_line(error)}){advice}") from error


def _is_url(handle: str) -> bool:
    return handle.lower().startswith(("http://", "https://"))


def _kept(url: str) -> pathlib.Path:
    """Where a downloaded model is kept: a folder named after its address."""
    name = re.sub(r"[^\w.-]+", "_", url.split("://")[1]).strip("_.").removesuffix(".tar.gz")
    return ROOT / "weights" / (name[-150:] or "model")


def _fetch(url: str) -> pathlib.Path:
    """Downloads and unpacks a model, unless it is there already. Only a complete one gets the name."""
    folder, address = _kept(url), url
    if folder.exists():
        return folder
    if not urlsplit(url).hostname:
        raise InputError(f"{url}: not an address")
    if not urlsplit(url).path.endswith(ARCHIVES):  # a handle: TensorFlow Hub serves its files like this
        address += ("&" if urlsplit(url).query else "?") + "tf-hub-format=compressed"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as temporary:
            archive = pathlib.Path(temporary, "archive")
            try:
                download(address, archive)
                _unpack_into(folder, archive, address)
            except (requests.RequestException, InputError) as error:  # it may be the page of a login instead
                raise Unavailable(f"{url}: the download failed ({one_line(error)})") from error
    except OSError as error:
        raise InputError(f"{url}: cannot be kept in {shown(folder.parent)} ({one_line(error)})") from error
    return folder


def _unpack_once(archive: pathlib.Path) -> pathlib.Path:
    """Unpacks an archive into weights/, unless it is there already, under its name and checksum."""
    checksum = hashlib.sha256()
    with archive.open("rb") as file:
        while part := file.read(2**20):
            checksum.update(part)
    name = archive.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
    folder = ROOT / "weights" / f"{name}-{checksum.hexdigest()[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _unpack_into(folder, archive, str(archive))
    return folder


def _unpack_into(folder: pathlib.Path, archive: pathlib.Path, origin: str) -> None:
    """Unpacks an archive; only a complete one with a SavedModel gets the name of the folder."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacked-") as temporary:
        unpacked = pathlib.Path(temporary, "model")
        _unpack(archive, unpacked, origin)
        _saved_model(unpacked, origin)
        with contextlib.suppress(FileExistsError):  # another run has just unpacked it
            unpacked.rename(folder)


def _unpack(archive: pathlib.Path, folder: pathlib.Path, origin: str) -> None:
    def plain(member, _):
        path = pathlib.PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
            raise InputError(f"{origin}: not unpacked, {member.name} is a link or leads out of the archive")
        if CHECKPOINT in path.parts:
            return None
        return tarfile.data_filter(member, folder)

    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter=plain)
            while tar.fileobj.read(2**20):  # up to the checksum at the end
                pass
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{origin}: not a whole .tar.gz archive") from error


def _saved_model(folder: pathlib.Path, origin: str) -> pathlib.Path:
    """The folder of saved_model.pb: this one, or one or two levels below, as in the model zoo's archives."""
    for pattern in ("saved_model.pb", "*/saved_model.pb", "*/*/saved_model.pb"):
        if found := sorted(folder.glob(pattern)):
            return found[0].parent
    raise InputError(f"{origin}: no SavedModel in it (a file saved_model.pb and a folder variables)")
