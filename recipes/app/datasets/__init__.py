"""Data sets: photos with label maps to train networks, photos with instances to train detectors."""

import os
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from app import photos
from common.data import Array
from common.scores import BACKGROUND, TRIMAP

import numpy as np
import tensorflow as tf
from pycocotools import mask as coco_masks

BACKGROUND_NAME = TRIMAP[BACKGROUND]  # the class of what is no object, in every data set


class Masks(Sequence):
    """Masks bool [n, H, W], each decoded when it is taken: those of a large photo may not fit into memory together."""

    def __init__(self, regions: Sequence[dict[str, Any]], size: tuple[int, int]):
        """`regions` are compressed run lengths, as pycocotools takes them, and `size` is H and W."""
        self.regions = regions
        self.shape = len(regions), *size

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int) -> np.ndarray:
        return coco_masks.decode(self.regions[index]).view(bool)


class Scene(NamedTuple):
    """A photo and its instances."""

    image: np.ndarray  # uint8 [H, W, 3]
    classes: np.ndarray  # int32 [n], from 1
    masks: np.ndarray | Masks  # bool [n, H, W]; they may overlap
    crowd: np.ndarray | None = None  # bool [H, W], where instances are not told apart; None: nowhere

    @property
    def regions(self) -> Sequence[dict[str, Any]]:
        """The masks as compressed run lengths, as pycocotools takes them."""
        return self.masks.regions if isinstance(self.masks, Masks) else [run_lengths(mask) for mask in self.masks]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask [H, W] as compressed run lengths."""
    return coco_masks.encode(np.asfortranarray(mask, np.uint8))


def empty_scene(image: np.ndarray) -> Scene:
    """A photo, uint8 [H, W, 3], without instances."""
    return Scene(image, np.zeros(0, np.int32), np.zeros((0, *image.shape[:2]), bool))


class Dataset(NamedTuple):
    """Cheap elements, such as numbers or encoded photos, and functions that turn one into a training example."""

    class_names: tuple[str, ...]  # of the label maps
    splits: dict[str, tf.data.Dataset]  # elements of "train", "validation" and "test"
    decode: Callable[[Any], tuple[tf.Tensor, tf.Tensor]]  # to image uint8 [H, W, 3] and class ids uint8 [H, W, 1]
    augmented: bool = True  # whether training images are varied anew in each epoch
    categories: dict[int, str] = {}  # noqa: RUF012  names by id, of the scenes' classes 1, 2, ...; empty: no instances
    read_scene: Callable[[Any], Scene] | None = None  # of an element as NumPy
    max_instances: int = 1  # in a photo
    arrays: tuple[Array, Array] | None = None  # images and class ids; elements are places in them
    findings: dict[str, Any] = {}  # noqa: RUF012  of the check of a folder, as JSON: spares a resumed run the check
    white: float | None = None  # of a folder's pictures of more than 8 bits, see LabeledImage
    pixels: Sequence[int] = ()  # of each class in the labels of a folder
    size: Callable[[Any], tuple[int, int]] | None = None  # the width and height of an element as NumPy


def decode_by(read: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> Callable:
    """The `decode` of elements that are numbers; `read` gives an image, uint8 [H, W, 3], and labels, uint8 [H, W]."""

    def read_with_channel(number):
        image, label = read(number)
        return image, label[..., np.newaxis]

    def decode(number):
        image, label = tf.numpy_function(read_with_channel, [number], [tf.uint8, tf.uint8])
        return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(label, (None, None, 1))

    return decode


def with_threads(pipeline: tf.data.Dataset) -> tf.data.Dataset:
    """Gives a pipeline threads of its own, because those of TensorFlow may be just one: see device.save_memory."""
    threads = tf.data.Options()
    threads.threading.private_threadpool_size = os.cpu_count()
    return pipeline.with_options(threads)


class LabeledImage(NamedTuple):
    """An image in a user's folder, and its labels."""

    image: pathlib.Path
    label_file: pathlib.Path  # a mask, or annotations
    where: str  # the labels, as a message names them
    read_label: Callable[[], np.ndarray]  # values uint8 [H, W]
    annotations: Sequence = ()  # regions.Annotation
    white: float | None = None  # the value of white in pictures of more than 8 bits; None: that of the format

    def read_image(self) -> np.ndarray:
        """The image, uint8 [H, W, 3]; raises InputError as photos.read does."""
        return photos.read(self.image, self.white) if self.white else photos.read(self.image)


class Contents(NamedTuple):
    """What a user's folder holds, as its files say; folder.scan completes the names of the classes and what follows."""

    kind: str  # of its examples: "pairs" or "photos"
    place: pathlib.Path  # of the labels
    files: list[pathlib.Path]  # names of classes, lists of splits, annotations
    splits: dict[str, list[LabeledImage]]  # "train", and what is declared of "validation", "test" and "unused"
    categories: dict[int, str]  # of annotations, names by id
    ignores_255: bool
    problems: list[str]  # what would fail, or silently train wrong
    warnings: list[str]  # harmless oddities
    class_names: tuple[str, ...] | None  # None: to be found out from the masks
    ids: np.ndarray = np.arange(256, dtype=np.uint8)  # from the value of a label to class id or masks.IGNORED
    left_out: Collection[int] = ()  # places in `examples` that cannot be used
    sizes: Sequence[tuple[int, int]] = ()  # width and height of the others
    pixels: np.ndarray = np.zeros(0, np.int64)  # of each class in their labels
    white: float | None = None  # of the examples

    @property
    def examples(self) -> list[LabeledImage]:
        """Those of all splits, one after the other."""
        return [example for part in self.splits.values() for example in part]

    def with_white(self, white: float | None) -> "Contents":
        """The same with this `white` in each example."""
        splits = {name: [example._replace(white=white) for example in part] for name, part in self.splits.items()}
        return self._replace(splits=splits, white=white)
