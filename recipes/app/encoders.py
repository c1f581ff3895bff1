"""ImageNet weights of the encoders in keras.applications."""

import pathlib
import sys
import warnings
from collections.abc import Callable

from app.cli import InputError, one_line
from app.files import ROOT, check_writable, replacing, time_limit

import h5py
import keras
from keras.applications import VGG16, MobileNetV2

SITE = "https://storage.googleapis.com/tensorflow/keras-applications"
URLS = {  # of the weights without the classifier
    VGG16: f"{SITE}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    MobileNetV2: f"{SITE}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
}


def weights_file(application: Callable[..., keras.Model], choice: str) -> pathlib.Path | None:
    """The file of an encoder's pretrained weights, for its argument `weights`; None for the choice "none".

    "imagenet" is the file in weights/, downloaded the first time; any other choice is the path of a file.
    """
    if choice == "none":
        return None
    path = pathlib.Path(choice)
    if choice == "imagenet":
        path = ROOT / "weights" / URLS[application].rpartition("/")[2]
        if not path.exists():
            return _download(application, path)
    try:  # now, so that a wrong file is found before the data is read
        with path.open("rb"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras 3.15 warns about each layer of a file from an older Keras 3
            application(include_top=False, weights=path)
    except Exception as error:  # HDF5 and Keras raise half a dozen kinds
        reason = getattr(error, "strerror", None) or "damaged, or it holds other weights"
        raise InputError(
            f"--backbone-weights {choice}: cannot use {path} ({reason}); it has to be a .weights.h5 or .h5 of "
            f"{application.__name__} without its classifier; remove it, name another one, or use none"
        ) from error
    return path


def _download(application: Callable[..., keras.Model], path: pathlib.Path) -> pathlib.Path:
    url = URLS[application]
    check_writable(path.parent, "weights folder")
    print(f"downloading {url}", flush=True)
    if not sys.stdout.isatty():
        keras.utils.disable_interactive_logging()  # no progress bar in a log
    with replacing(path) as temporary:
        try:
            with time_limit():
                keras.utils.get_file(temporary.name, url, cache_dir=path.parent, cache_subdir="")
            if not h5py.is_hdf5(temporary):
                raise ValueError("no weights, but perhaps the page of a login")
            application(include_top=False, weights=temporary)  # the name is for the right file only
        except Exception as error:  # get_file raises plain ones
            raise InputError(
                f"--backbone-weights imagenet: the download failed ({one_line(error)}); put {url} into {path.parent} "
                "by hand, or use --backbone-weights none, which works offline"
            ) from error
    return path
