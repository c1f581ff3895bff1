"""Pretrained encoders from keras.applications: where their weights come from and how they get into a model."""

import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

from common.files import ROOT, InputError, download, in_one_line, replacing

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
        weights; anything else is the path of a weights file: .weights.h5 (Keras 3) or .h5 (older).
    Returns:
      The backbone with its weights, or None for "none".
    Raises:
      InputError: where the file is not there and cannot be fetched, or is damaged or of another network.
    """
    if choice == "none":
        return None
    encoder = backbone.application(include_top=False, weights=None)
    if choice != "imagenet":
        _load(encoder, pathlib.Path(choice), f"--backbone-weights {choice}", "name another file, or use none")
        return encoder

    path, url = ROOT / "weights" / backbone.file, f"{backbone.url}/{backbone.file}"
    by_hand = f"put {url} into {path.parent} by hand, or use --backbone-weights none, which works offline"
    if path.exists():
        _load(encoder, path, "--backbone-weights imagenet", "remove it to have it downloaded again")
    else:
        try:
            with replacing(path) as temporary:  # what is not the right file never gets its name
                download(url, temporary)
                _load(encoder, temporary, "--backbone-weights imagenet: what came", by_hand)
        except OSError as error:
            reason = in_one_line(error)
            raise InputError(f"--backbone-weights imagenet: the download failed ({reason}); {by_hand}") from error
    return encoder


def _load(encoder: keras.Model, path: pathlib.Path, what: str, advice: str) -> None:
    try:
        with path.open("rb"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras 3.15 warns about each layer of a file from an older Keras 3
            encoder.load_weights(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{what}: cannot read {path} ({error.strerror}); {advice}") from error
    except Exception as error:  # HDF5 and Keras raise half a dozen kinds
        raise InputError(
            f"{what}: {path} is damaged, has another ending than .weights.h5 (Keras 3) or .h5 (older), or holds "
            f"other weights than those of {encoder.name} without its classifier; {advice}"
        ) from error


def copy_weights(encoder: keras.Model, model: keras.Model) -> None:
    """Copies a backbone's weights into the layers of the same names in a model that was built around such a one."""
    names = {layer.name for layer in model.layers}
    for layer in encoder.layers:
        if layer.name in names:
            model.get_layer(layer.name).set_weights(layer.get_weights())
