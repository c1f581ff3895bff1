"""Trained models: saved with the names of their classes, and loaded."""

import json
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Sequence

from app import backend
from app.cli import InputError, one_line
from app.cpu import layers
from app.files import replacing

import h5py
import keras

CLASSES_FILE = "classes.json"
SIZE_STEP = 32  # every recipe's image sizes are multiples of it


def save(model: keras.Model, path: pathlib.Path, class_names: Sequence[str]) -> None:
    """Saves a model as float32, uncompiled, so `keras.saving.load_model(path)` needs none of this code.

    A .keras file is a zip archive; CLASSES_FILE in it holds the names of the classes.
    """
    with backend.undistributed(), replacing(path) as temporary:
        layers.swap_out(model).save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(CLASSES_FILE, json.dumps(list(class_names)))


def load(
    recipe: str, path: pathlib.Path, build_model: Callable[[int, int], keras.Model]
) -> tuple[keras.Model, tuple[str, ...]]:
    """Loads a recipe's trained model, a .keras file or .weights.h5 (see weights/README.md), and its class names.

    Raises:
      InputError: if the file is missing, damaged, or belongs to another recipe.
    """
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file")
    if path.suffix == ".h5":
        size, names = _read(path, _attributes, recipe)
        model = build_model(size, len(names))  # outside of _read: a fault in build_model is no damaged file
        _read(path, model.load_weights, recipe)
    else:
        model, names = _read(path, _keras_archive, recipe)
    if model.name != recipe:
        raise InputError(f"--weights {path}: of another recipe, {model.name}; this one is {recipe}")
    size = model.input_shape[1] if len(model.input_shape) == 4 else None
    if not size or (model.input_shape, model.output_shape) != ((None, size, size, 3), (None, size, size, len(names))):
        raise InputError(
            f"--weights {path}: it does not give {len(names)} classes for each pixel of a square RGB image"
        )
    return model, names


def _read(path: pathlib.Path, read: Callable, recipe: str):
    """Calls read(path); zipfile, HDF5, JSON and Keras raise a dozen kinds of errors for a file that does not fit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns about each layer that does not fit
            return read(path)
    except Exception as error:
        reason = "damaged, of another recipe or number of classes, or without the attributes named in weights/README.md"
        raise InputError(
            f"--weights {path}: no weights for {recipe} ({reason}): {type(error).__name__}: {one_line(error)}"
        ) from error


def _attributes(path: pathlib.Path) -> tuple[int, tuple[str, ...]]:
    with h5py.File(path) as file:
        size, names = int(file.attrs["image_size"]), tuple(json.loads(file.attrs["class_names"]))
    if size <= 0 or size % SIZE_STEP or len(names) < 2:
        raise ValueError(f"its attributes name {size} pixels and {len(names)} classes")
    return size, names


def _keras_archive(path: pathlib.Path) -> tuple[keras.Model, tuple[str, ...]]:
    model = keras.saving.load_model(path, compile=False)  # in safe mode: no code in the file is run
    with zipfile.ZipFile(path) as archive:
        if CLASSES_FILE in archive.namelist():
            return model, tuple(json.loads(archive.read(CLASSES_FILE)))
    return model, tuple(f"class {index}" for index in range(model.output_shape[-1]))
