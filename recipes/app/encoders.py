"""ImageNet weights of the encoders in keras.applications: where they come from."""

import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

from app.cli import InputError, one_line
from app.download import download
from app.files import ROOT, replacing

import keras

SITE = "https://storage.googleapis.com/tensorflow/keras-applications"


class Encoder(NamedTuple):
    """An application of Keras, and where its ImageNet weights without the classifier are."""

    application: Callable[..., keras.Model]
    file: str
    url: str  # of the folder that holds the file


VGG16 = Encoder(keras.applications.VGG16, "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", f"{SITE}/vgg16")
MOBILENETV2 = Encoder(
    keras.applications.MobileNetV2,
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    f"{SITE}/mobilenet_v2",
)


def weights_file(encoder: Encoder, choice: str) -> pathlib.Path | None:
    """The file of an encoder's pretrained weights, for the application's `weights` argument; None for "none".

    Args:
      encoder: which one.
      choice: "imagenet" is the file in weights/, downloaded the first time; otherwise "none", or the path of a weights
        file: .weights.h5 (Keras 3) or .h5 (older).
    Raises:
      InputError: if the file is missing and cannot be downloaded, is damaged, or does not fit the encoder.
    """
    if choice == "none":
        return None
    if choice != "imagenet":
        _check(encoder, pathlib.Path(choice), f"--backbone-weights {choice}", "name another file, or use none")
        return pathlib.Path(choice)
    path, url = ROOT / "weights" / encoder.file, f"{encoder.url}/{encoder.file}"
    by_hand = f"put {url} into {path.parent} by hand, or use --backbone-weights none, which works offline"
    if path.exists():
        _check(encoder, path, "--backbone-weights imagenet", "remove it, and it will be downloaded again")
        return path
    try:
        with replacing(path) as temporary:  # the name is for the right file only
            download(url, temporary)
            _check(encoder, temporary, "--backbone-weights imagenet: the download", by_hand)
    except OSError as error:
        reason = one_line(error)
        raise InputError(f"--backbone-weights imagenet: the download failed ({reason}); {by_hand}") from error
    return path


def _check(encoder: Encoder, path: pathlib.Path, what: str, advice: str) -> None:
    """Loads the weights once, so a wrong file is found before the data is read."""
    try:
        with path.open("rb"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras 3.15 warns about each layer of a file from an older Keras 3
            encoder.application(include_top=False, weights=path)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{what}: cannot read {path} ({error.strerror}); {advice}") from error
    except Exception as error:  # HDF5 and Keras raise half a dozen kinds
        raise InputError(
            f"{what}: {path} is damaged, has another ending than .weights.h5 (Keras 3) or .h5 (older), or holds other "
            f"weights than those of {encoder.application.__name__} without its classifier; {advice}"
        ) from error
