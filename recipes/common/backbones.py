"""Pretrained encoders from keras.applications: where their weights come from and how they get into a model."""

import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

from common.files import ROOT, InputError, in_one_line, replacing

import keras

SITE = "https://storage.googleapis.com/tensorflow/keras-applications"


class Backbone(NamedTuple):
    """An application of Keras, and the place of its ImageNet weights without the classifier on top."""

    application: Callable[..., keras.Model]
    file: str
    url: str  # of the folder with the file


VGG16 = Backbone(keras.applications.VGG16, "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", f"{SITE}/vgg16")
MOBILENETV2 = Backbone(
    keras.applications.MobileNetV2,
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    f"{SITE}/mobilenet_v2",
)


def pretrained(backbone: Backbone, choice: str) -> keras.Model | None:
    """Builds a backbone, as keras.applications does, with pretrained weights.

    Args:
      backbone: which one.
      choice: "imagenet" takes the file in weights/ and downloads it to there the first time; "none" wants no
        weights; anything else is the path of a weights file, in Keras' old or new format.
    Returns:
      The backbone with its weights, or None for "none".
    Raises:
      InputError: where the file is not there and cannot be fetched, or is damaged or of another network.
    """
    if choice == "none":
        return None
    path = _fetch(backbone) if choice == "imagenet" else pathlib.Path(choice)
    if not path.is_file():
        raise InputError(f"--backbone-weights {choice}: no such file; name one, or use imagenet or none")
    encoder = backbone.application(include_top=False, weights=None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras 3.15 warns about each layer of a file from an older Keras 3
            encoder.load_weights(path)
    except Exception as error:  # HDF5 and Keras raise half a dozen kinds
        raise InputError(
            f"--backbone-weights {choice}: {path} is damaged or holds other weights than "
            f"{backbone.application.__name__}'s without the classifier; name another file, or use none"
        ) from error
    return encoder


def _fetch(backbone: Backbone) -> pathlib.Path:
    path, url = ROOT / "weights" / backbone.file, f"{backbone.url}/{backbone.file}"
    if not path.exists():
        try:
            with replacing(path) as temporary:
                keras.utils.get_file(temporary.name, url, cache_dir=ROOT, cache_subdir=path.parent.name)
        except Exception as error:
            reason = in_one_line(error).rpartition(" -- ")[2]  # Keras repeats the URL before it
            raise InputError(
                f"--backbone-weights imagenet: cannot download {url} ({reason}); put that file into "
                f"{path.parent} by hand, or use --backbone-weights none, which works offline"
            ) from error
    return path


def copy_weights(encoder: keras.Model, model: keras.Model) -> None:
    """Copies a backbone's weights into the layers of the same names in a model that was built around such a one."""
    names = {layer.name for layer in model.layers}
    for layer in encoder.layers:
        if layer.name in names:
            model.get_layer(layer.name).set_weights(layer.get_weights())
