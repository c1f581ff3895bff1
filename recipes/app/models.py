"""Trained models: saved with the names of their classes, loaded, and taken as the start of a training."""

import itertools
import json
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from app import backend, files
from app.cli import InputError, one_line
from app.cpu import layers

import h5py
import keras
import numpy as np

CLASSES_FILE = "classes.json"
ORIGIN_FILE = "origin.json"
SIZE_STEP = 32  # every recipe's image sizes are multiples of it


def save(
    model: keras.Model, path: pathlib.Path, class_names: Sequence[str], origin: dict[str, Any] | None = None
) -> None:
    """Saves a model as float32, uncompiled, so `keras.saving.load_model(path)` needs none of this code.

    A .keras file is a zip archive; CLASSES_FILE in it holds the names of the classes, and ORIGIN_FILE on what it was
    trained: "data", a name or the path of a folder, "white", see datasets.LabeledImage, and "tiles": true, or
    nothing.
    """
    with backend.undistributed(), files.replacing(path) as temporary:
        layers.as_plain_keras(model).save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(CLASSES_FILE, json.dumps(list(class_names)))
            archive.writestr(ORIGIN_FILE, json.dumps(origin or {}))


def origin(path: pathlib.Path) -> dict[str, Any]:
    """What `save` recorded about a model, a .keras file or a detector's folder; empty if nothing is known."""
    try:
        if path.is_dir():
            return json.loads((path / ORIGIN_FILE).read_bytes())
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(ORIGIN_FILE))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return {}


def load(
    recipe: str, path: pathlib.Path, build_model: Callable[[int, int], keras.Model]
) -> tuple[keras.Model, tuple[str, ...]]:
    """Loads a recipe's trained model, a .keras file or .weights.h5 (see weights/README.md), and its class names.

    Raises:
      InputError: if the file is missing, damaged, or belongs to another recipe.
    """
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file; train first, or name another one")
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


class Trained(NamedTuple):
    """A trained network from which a training starts."""

    path: pathlib.Path
    class_names: tuple[str, ...]
    weights: list[list[np.ndarray]]  # of each layer
    is_of_classes: list[bool]  # whether the layer's shape depends on the number of classes

    def is_for(self, class_names: Sequence[str]) -> bool:
        return self.class_names == tuple(class_names)

    def summary(self, class_names: Sequence[str]) -> str:
        """Says which weights a network for `class_names` takes over."""
        what = "all weights"
        if not self.is_for(class_names):
            count = sum(self.is_of_classes)
            what += " but the last layer's" if count == 1 else f" but the last {count} layers'"
        return f"starts from {files.shown(self.path)}: {what}"

    def copy_to(self, model: keras.Model, class_names: Sequence[str]) -> None:
        """Copies the weights into a new network; for other classes, all but those of the last layer.

        In fcn_vgg16 the last layer stands for all that compute one map per class.
        """
        for layer, weights, is_of_classes in zip(model.layers, self.weights, self.is_of_classes, strict=True):
            if self.is_for(class_names) or not is_of_classes:
                layer.set_weights(weights)


def load_as_start(
    recipe: str, path: pathlib.Path, build_model: Callable[[int, int], keras.Model], image_size: int
) -> Trained:
    """Reads the weights from which a training at `image_size` is to start.

    Raises:
      InputError: if the file is missing, damaged, of another recipe, or of a network of another depth.
    """
    model, class_names = load(recipe, path, build_model)
    count = len(class_names)
    sides = [_sides(layer) for layer in model.layers]
    # Built for one class more, only the layers that depend on the number of classes differ.
    larger = [_sides(layer) for layer in build_model(image_size, count + 1).layers]
    pairs = zip(itertools.chain(*sides), itertools.chain(*larger), strict=False)
    fits = all(ours == theirs or (ours, theirs) == (count, count + 1) for ours, theirs in pairs)
    if not fits or list(map(len, sides)) != list(map(len, larger)):
        size = model.input_shape[1]
        advice = f"; use --image-size {size}" if size != image_size else ""
        raise InputError(
            f"--weights {path}: its network, for {size} px, has other layers than the one for {image_size} px{advice}"
        )
    is_of_classes = [ours != theirs for ours, theirs in zip(sides, larger, strict=True)]
    return Trained(path, class_names, [layer.get_weights() for layer in model.layers], is_of_classes)


def _sides(layer: keras.Layer) -> list[int]:
    """The sides of all weights of a layer, one after the other."""
    return [side for variable in layer.weights for side in variable.shape]
