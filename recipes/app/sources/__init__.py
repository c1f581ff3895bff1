"""Where images and label maps come from."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Source(NamedTuple):
    """A data set before decoding: cheap elements, and a function that turns one into an image and its labels."""

    class_names: tuple[str, ...]
    train: tf.data.Dataset
    test: tf.data.Dataset
    decode: Callable[..., tuple[tf.Tensor, tf.Tensor]]  # to uint8 [H, W, 3] and [H, W, 1]
    validation_share: float = 0.1  # of train
    augmented: bool = True  # whether training images are varied anew in each epoch
