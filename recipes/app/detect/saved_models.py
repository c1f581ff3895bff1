"""SavedModels from TensorFlow Hub, Kaggle, an archive or a folder; those fetched or unpacked are kept in weights/."""

import contextlib
import gzip
import hashlib
import lzma
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
import zlib

from app import files
from app.cli import InputError, one_line

import tensorflow_hub as hub
from tensorflow_hub import compressed_module_resolver

CHECKPOINTS = "*/checkpoint"  # in the model zoo's archives: as large as the SavedModel, and not needed

os.environ.setdefault("TFHUB_CACHE_DIR", str(files.ROOT / "weights" / "tfhub"))
compressed_module_resolver.LOCK_FILE_TIMEOUT_SEC = files.TIMEOUT  # a killed download leaves its lock behind


def load(handle: str):
    """Loads a SavedModel from a folder, a .tar.gz (file or URL), or the URL of a model on TensorFlow Hub or Kaggle."""
    try:
        if handle.startswith(("http://", "https://")):
            folder = download(handle)
        elif pathlib.Path(handle).is_file():
            folder = _unpack(pathlib.Path(handle))
        else:
            folder = pathlib.Path(handle)
        saved_model = _find_saved_model(folder, handle)
        size = sum(path.stat().st_size for path in saved_model.rglob("*") if path.is_file())
    except OSError as error:
        raise InputError(f"model {handle}: cannot be read ({one_line(error)})") from error
    print(f"loading {files.shown(saved_model)}, {size / 1e6:.0f} MB", flush=True)
    try:
        return hub.load(str(saved_model))
    except Exception as error:  # protobuf, TensorFlow and the file system raise many kinds
        advice = "" if folder == pathlib.Path(handle) else f"; remove {folder} to fetch or unpack it again"
        raise InputError(f"model {handle}: its SavedModel cannot be loaded ({one_line(error)}){advice}") from error


def cache_folder(url: str) -> pathlib.Path:
    """Where tensorflow-hub keeps a model, once it is downloaded."""
    return pathlib.Path(os.environ["TFHUB_CACHE_DIR"], hashlib.sha1(url.encode()).hexdigest())


def download(url: str) -> pathlib.Path:
    """Downloads a model, unless it is there already, and returns its folder; raises InputError if that fails."""
    folder = cache_folder(url)
    if folder.exists():
        return folder
    files.check_writable(folder.parent, "weights folder")
    print(f"downloading {url}", flush=True)
    os.environ["TFHUB_DOWNLOAD_PROGRESS"] = "yes" if sys.stdout.isatty() else ""
    try:
        with files.time_limit():
            hub.resolve(url)
        _find_saved_model(folder, url)
    except Exception as error:  # of urllib, sockets and tarfile; it may be the page of a login instead
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # if it is empty
        raise InputError(f"model {url}: the download failed ({one_line(error)})") from error
    killed_downloads = folder.parent.glob(f"{folder.name}.*.tmp")
    for rest in (*folder.glob(CHECKPOINTS), *killed_downloads):
        shutil.rmtree(rest, ignore_errors=True)
    return folder


def _unpack(archive: pathlib.Path) -> pathlib.Path:
    """Unpacks an archive into weights/, unless it is there already, under its name and checksum."""
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    folder = files.ROOT / "weights" / f"{archive.name.split('.')[0]}-{checksum[:12]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacked-") as temporary:
        unpacked = pathlib.Path(temporary, "model")
        try:
            with tarfile.open(archive) as tar:
                unpacked.mkdir()
                tar.extractall(unpacked, filter="data")  # nothing outside of the folder
                while tar.fileobj.read(2**20):  # up to the checksum at the end
                    pass
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(f"model {archive}: not a complete .tar.gz archive ({one_line(error)})") from error
        _find_saved_model(unpacked, str(archive))
        for rest in unpacked.glob(CHECKPOINTS):
            shutil.rmtree(rest, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run has just unpacked it
            unpacked.rename(folder)
    return folder


def _find_saved_model(folder: pathlib.Path, handle: str) -> pathlib.Path:
    """The folder of saved_model.pb: this one, or one or two levels below, as in the model zoo's archives."""
    if not folder.exists():
        raise InputError(f"model {handle}: no such file or folder")
    for pattern in ("saved_model.pb", "*/saved_model.pb", "*/*/saved_model.pb"):
        for path in sorted(folder.glob(pattern)):
            return path.parent
    raise InputError(f"model {handle}: no SavedModel in it (a file saved_model.pb and a folder variables)")
