"""--weights in a training: it starts from a network that was trained before."""

import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app import files, models
from app.cli import InputError

import keras
import numpy as np


class Trained(NamedTuple):
    """A trained network's weights, layer by layer."""

    file: pathlib.Path
    class_names: tuple[str, ...]
    layers: list[list[np.ndarray]]  # of those that have weights
    is_of_classes: list[bool]  # whether that layer's shape depends on the number of classes

    def is_for(self, class_names: Sequence[str]) -> bool:
        return self.class_names == tuple(class_names)

    def summary(self, class_names: Sequence[str]) -> str:
        """Says what a network for `class_names` takes over."""
        layers = "layer's" if sum(self.is_of_classes) == 1 else f"{sum(self.is_of_classes)} layers'"
        what = "all weights" if self.is_for(class_names) else f"all weights but the last {layers}"
        return f"starts from {files.shown(self.file)}: {what}"

    def copy_to(self, model: keras.Model, class_names: Sequence[str]) -> None:
        """Copies the weights into a new network; for other classes, all but those of the last layer.

        In fcn_vgg16 the last layer stands for all that compute one map per class.
        """
        is_same = self.is_for(class_names)
        for layer, weights, is_of_classes in zip(_weighted(model), self.layers, self.is_of_classes, strict=True):
            if is_same or not is_of_classes:
                layer.set_weights(weights)


def load(recipe: str, path: pathlib.Path, build_model: Callable[[int, int], keras.Model], image_size: int) -> Trained:
    """Reads the weights from which a training at `image_size` is to start.

    Raises:
      InputError: if the file is missing, damaged, of another recipe, or of a network of another depth.
    """
    model, names = models.load(recipe, path, build_model)
    count, size = len(names), model.input_shape[1]
    layers = _weighted(model)
    # Built for one class more, only the layers that depend on the number of classes differ.
    shapes, larger = _shapes(layers), _shapes(_weighted(build_model(image_size, count + 1)))
    if list(map(len, shapes)) != list(map(len, larger)) or any(
        our != their and (our, their) != (count, count + 1)
        for our, their in zip(itertools.chain(*shapes), itertools.chain(*larger), strict=True)
    ):
        advice = f"; use --image-size {size}" if size != image_size else ""
        raise InputError(
            f"--weights {path}: its network, for {size} px, has other layers than the one for {image_size} px{advice}"
        )
    is_of_classes = [ours != theirs for ours, theirs in zip(shapes, larger, strict=True)]
    return Trained(path, names, [layer.get_weights() for layer in layers], is_of_classes)


def _weighted(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model.layers if layer.weights]


def _shapes(layers: Sequence[keras.Layer]) -> list[list[int]]:
    """The sides of all arrays of each layer, one after the other."""
    return [[side for array in layer.weights for side in array.shape] for layer in layers]
