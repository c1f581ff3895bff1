"""Where images and label maps come from."""

import collections
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Source(NamedTuple):
    """A data set before decoding: cheap elements, and a function that turns one into an image and its labels."""

    class_names: tuple[str, ...]
    train: tf.data.Dataset
    test: tf.data.Dataset
    decode: Callable[..., tuple[tf.Tensor, tf.Tensor]]  # to uint8 [H, W, 3] and [H, W, 1]
    validation: tf.data.Dataset | None = None  # None: a part of train
    validation_share: float = 0.1  # of train, in that case
    augmented: bool = True  # whether training images are varied anew in each epoch


class Example(NamedTuple):
    """An image in a person's own folder, and its labels."""

    image: pathlib.Path
    where: str  # the labels, as a message names them
    read_labels: Callable[[], np.ndarray]  # to uint8 [H, W]
    annotations: list | None = None  # of the instances in it, coco.Annotation, if it has such


class Layout(NamedTuple):
    """What lies in a person's own folder."""

    kind: str  # of its examples: "pairs" or "photos"
    splits: dict[str, list[Example]]  # "train", and what the folder says of "validation", "test" and "neither"
    place: pathlib.Path  # where the labels are
    class_names: tuple[str, ...] | None  # None: to be found out from the labels
    ignores: bool  # whether the label 255 is left out
    problems: list[str]  # what would fail, or silently train wrong
    remarks: list[str]  # harmless oddities
    instances: collections.Counter | None = None  # of each class, if the labels are drawn from annotations
    categories: dict[int, str] | None = None  # of the annotations, names by id


class Scene(NamedTuple):
    """A photo and its instances."""

    image: np.ndarray  # uint8 [H, W, 3]
    classes: np.ndarray  # int32 [n], from 1
    masks: np.ndarray  # bool [n, H, W]; they may overlap
    crowd: np.ndarray | None = None  # bool [H, W], where instances are not told apart; None: nowhere


def empty_scene(image: np.ndarray) -> Scene:
    """A photo, uint8 [H, W, 3], without instances."""
    return Scene(image, np.zeros(0, np.int32), np.zeros((0, *image.shape[:2]), bool))


class Dataset(NamedTuple):
    class_names: tuple
    splits: dict
    decode: Callable
    augmented: bool = True
    categories: dict = {}
    read_scene: Callable | None = None
    max_instances: int = 1
    findings: dict = {}
    readers: dict = {}
