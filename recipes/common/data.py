"""Images and label maps as `tf.data` pipelines: train, validation and test.

    pets = data.load("oxford_iiit_pet", image_size=256, batch_size=16)
    model.fit(pets.train, steps_per_epoch=pets.steps_per_epoch, validation_data=pets.validation)

Labels are class ids from 0, resized with nearest neighbour only: a bilinear resize would invent fractional
classes. Images are kept as uint8 until the model, a quarter of the memory of float32.
"""

import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import NamedTuple

from common import folders, synthetic
from common.files import DOWNLOAD_TIMEOUT, InputError, in_one_line, no_endless_waiting

import numpy as np
import requests
import tensorflow as tf
from tqdm import tqdm

SOURCES = ("oxford_iiit_pet", "synthetic")
IGNORED = folders.IGNORED  # the label of pixels that count neither in the loss nor in a score
SYNTHETIC_COUNTS = {"train": 1600, "test": 400}


class Data(NamedTuple):
    """Three pipelines of (images, labels), both uint8: [B, H, W, 3] in 0..255 and [B, H, W].

    `train` repeats for ever, in full batches, shuffled and augmented anew in each epoch of `steps_per_epoch`
    batches; `validation` and `test` go once through, in a fixed order and untouched.
    """

    name: str
    class_names: tuple[str, ...]
    counts: dict[str, int]
    steps_per_epoch: int
    train_from: Callable[..., tf.data.Dataset]  # from a step on, which an interrupted run wants; see `pipelines`
    validation: tf.data.Dataset
    test: tf.data.Dataset

    @property
    def train(self) -> tf.data.Dataset:
        return self.train_from(0)


class Source(NamedTuple):
    """A data set before it is decoded: cheap elements, and a function that turns one into (image, label)."""

    class_names: tuple[str, ...]
    train: tf.data.Dataset
    test: tf.data.Dataset
    decode: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    validation_share: float = 0.1  # of train


def load(
    name: str,
    image_size: int,
    batch_size: int,
    *,
    seed: int = 0,
    limit: int | None = None,
    data_dir: str | None = None,
) -> Data:
    """Builds the pipelines of a data set.

    Args:
      name: one of SOURCES, or a folder as in folders.py.
      image_size: side in pixels to which images (bilinear) and labels (nearest) are resized, once.
      batch_size: images in a batch.
      seed: chooses the validation images (a tenth), their order and their augmentation; the same seed gives the
        same batches.
      limit: at most so many images of each split.
      data_dir: where tensorflow-datasets keeps its data; its own default where None.
    Raises:
      InputError: for an unknown name, data that is not there and cannot be downloaded, or a folder that would
        train wrong.
    """
    if name == "oxford_iiit_pet":
        source = _oxford_iiit_pet(data_dir)
    elif name == "synthetic":
        source = _synthetic(image_size, seed)
    elif pathlib.Path(name).is_dir():
        source = _folder(pathlib.Path(name), seed)
    else:
        raise InputError(f"--data {name}: no such data set or folder; there are {' and '.join(SOURCES)}")

    train, validation = _hold_out(source.train, seed, source.validation_share)
    splits = {"train": train, "validation": validation, "test": source.test}
    if limit:
        splits = {split: elements.take(limit) for split, elements in splits.items()}
    counts = {split: _count(elements) for split, elements in splits.items()}
    steps_per_epoch = -(-counts["train"] // batch_size)
    built = pipelines(splits, source.decode, image_size, batch_size, seed)
    return Data(name, source.class_names, counts, steps_per_epoch, **built)


def pipelines(
    splits: dict[str, tf.data.Dataset], decode: Callable, image_size: int, batch_size: int, seed: int
) -> dict:
    """Turns the elements of train, validation and test into what `Data` describes.

    train_from(step, worker=0, workers=1) gives the train pipeline from that batch on. Where several workers train
    together each takes its part of every batch, and augments it as it would be in the whole one.
    """

    def decode_and_resize(element):
        return resize(*decode(element), image_size)

    train, validation, test = (
        splits[split].map(decode_and_resize, num_parallel_calls=tf.data.AUTOTUNE)
        for split in ("train", "validation", "test")
    )
    count, take = _in_memory(train)

    def train_from(step, worker=0, workers=1):
        part = batch_size // workers
        first = worker * part

        def load(step, indices):
            pair = take(indices[first : first + part])
            return augment(*pair, seed=(seed, step), first=first, total=batch_size)

        def shuffled(epoch):  # drawn from (seed, epoch) and nothing else, so that any part can be made again
            order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=(seed, epoch))
            return tf.data.Dataset.from_tensor_slices(order)

        return (
            tf.data.Dataset.counter()
            .flat_map(shuffled)
            .batch(batch_size, drop_remainder=True)
            .enumerate()
            .skip(step)  # only numbers are passed over
            .map(load, num_parallel_calls=tf.data.AUTOTUNE)  # last, or one random choice would serve for ever
            .prefetch(tf.data.AUTOTUNE)
        )

    count_validation, take_validation = _in_memory(validation)
    validation = tf.data.Dataset.range(count_validation).batch(batch_size).map(take_validation)
    return {
        "train_from": train_from,
        "validation": validation.prefetch(tf.data.AUTOTUNE),
        "test": test.batch(batch_size).prefetch(tf.data.AUTOTUNE),
    }


def _in_memory(examples: tf.data.Dataset) -> tuple[int, Callable]:
    """Reads all (image, label) pairs once, into two uint8 arrays: `Dataset.cache` scatters them and takes a third more.

    Returns:
      Their number, and a function from indices [B] to images [B, H, W, 3] and labels [B, H, W].
    """
    count = _count(examples)
    with tf.device("CPU"):  # where the pipeline runs, also beside a GPU
        arrays = [tf.Variable(tf.zeros((count, *spec.shape), tf.uint8)) for spec in examples.element_spec]
    read = 0
    with tqdm(total=count, desc="reading", unit="photo", disable=None, leave=False, file=sys.stdout) as bar:
        for batch in examples.batch(64):
            places = tf.range(read, read + len(batch[0]))
            for array, part in zip(arrays, batch, strict=True):
                array.scatter_update(tf.IndexedSlices(part, places))  # in place; to assign a slice copies all first
            read += len(places)
            bar.update(len(places))
    return count, lambda indices: tuple(tf.gather(array, indices) for array in arrays)


def resize(image: tf.Tensor, label: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Brings an image uint8 [H, W, 3] and its label map uint8 [H, W, 1] to size x size; the label loses its channel.

    The image is averaged where it shrinks (antialias); the label takes its nearest pixel and stays a class id.
    """
    image = tf.image.resize(image, (size, size), antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    label = tf.image.resize(label, (size, size), method="nearest")
    return tf.ensure_shape(image, (size, size, 3)), tf.ensure_shape(label, (size, size, 1))[..., 0]


def augment(
    images: tf.Tensor, labels: tf.Tensor, seed, first: int = 0, total: int | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Flips, crops and recolours each image of a batch on its own, and its label map along with it.

    Half of the images are mirrored; half are cropped to a window of 60 to 100 % of their side, which is enlarged to
    full size, and the others stay whole, as those of a test; contrast, saturation and brightness change. All of it
    is drawn from `seed`, two integers, so that a batch can be made again, in any order of threads, and in parts:
    those from `first` on of a batch of `total`.

    Args and returns: images uint8 [B, H, W, 3] in 0..255 and labels uint8 [B, H, W].
    """
    count, height, width = labels.shape
    uniform = tf.random.stateless_uniform((7, total or count), seed=tf.cast(tf.stack(seed), tf.int64))
    uniform = uniform[:, first : first + count]
    mirrored, window, left, top, contrast, saturation, brightness = tf.unstack(uniform)

    side = tf.minimum(1.0, 0.6 + 0.8 * window)
    left, top = left * (1 - side), top * (1 - side)
    right, bottom, is_mirrored = left + side, top + side, mirrored < 0.5
    # A box that is read from its right to its left gives the mirrored picture.
    begin, end = tf.where(is_mirrored, right, left), tf.where(is_mirrored, left, right)
    boxes = tf.stack([top, begin, bottom, end], axis=1)

    def crop(pixels, method):
        return tf.image.crop_and_resize(pixels, boxes, tf.range(count), (height, width), method)

    images = crop(images, "bilinear")
    labels = tf.cast(crop(labels[..., None], "nearest")[..., 0], tf.uint8)

    def spread(values, low, high):  # 0..1 to low..high, shaped to go with images
        return (low + (high - low) * values)[:, None, None, None]

    contrast, saturation = spread(contrast, 0.7, 1.3), spread(saturation, 0.7, 1.3)
    grey = tf.reduce_mean(images, axis=-1, keepdims=True)
    mean = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    # contrast * (grey + saturation * (images - grey) - mean) + mean + brightness, in few passes over the images
    shift = contrast * (1 - saturation) * grey + (1 - contrast) * mean + spread(brightness, -30.0, 30.0)
    images = contrast * saturation * images + shift
    return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8), labels


def _hold_out(elements: tf.data.Dataset, seed: int, share: float = 0.1) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Splits off a seeded share for validation, before anything is decoded."""
    count = _count(elements)
    held_out = np.zeros(count, bool)
    held_out[np.random.default_rng(seed).permutation(count)[: max(1, round(share * count))]] = True

    def part(wanted):
        chosen = elements.enumerate().filter(lambda index, _: tf.constant(held_out == wanted)[index])
        length = int(np.sum(held_out == wanted))
        return chosen.map(lambda _, element: element).apply(tf.data.experimental.assert_cardinality(length))

    return part(False), part(True)


def _count(elements: tf.data.Dataset) -> int:
    return int(elements.cardinality())


def _synthetic(image_size: int, seed: int) -> Source:
    """Pictures drawn on the way (see synthetic.py), at the size that is asked for."""

    def numbered(split):
        return tf.data.Dataset.range(SYNTHETIC_COUNTS[split]).map(lambda index: {"index": index, "split": split})

    def draw(index, split):
        image, label = synthetic.draw(int(index), split.decode(), seed, image_size)
        return image, label[..., None]

    def decode(element):
        image, label = tf.numpy_function(draw, [element["index"], element["split"]], [tf.uint8, tf.uint8])
        return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(label, (None, None, 1))

    return Source(synthetic.CLASS_NAMES, numbered("train"), numbered("test"), decode)


def _folder(folder: pathlib.Path, seed: int) -> Source:
    """A person's own pictures and masks. Where they come without a split it is 80 / 10 / 10 %."""
    found = folders.checked(folder, seed)

    def listed(pairs):
        images, masks = ([str(path) for path in paths] for paths in zip(*pairs, strict=True))
        return tf.data.Dataset.from_tensor_slices({"image": images, "mask": masks})

    def read(image, mask):
        return folders.read_pair(pathlib.Path(image.decode()), pathlib.Path(mask.decode()), found.ids)

    def decode(element):
        image, label = tf.numpy_function(read, [element["image"], element["mask"]], [tf.uint8, tf.uint8])
        return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(label, (None, None, 1))

    return Source(found.class_names, listed(found.train), listed(found.test), decode, found.validation_share)


def _oxford_iiit_pet(data_dir: str | None) -> Source:
    """Oxford-IIIT Pet (Parkhi et al., CVPR 2012): 3,680 photos to train with, 3,669 to test, with trimaps."""
    import tensorflow_datasets as tfds  # takes a second to load, which synthetic pets need not wait for

    skip = {"image": tfds.decode.SkipDecoding(), "segmentation_mask": tfds.decode.SkipDecoding()}
    try:
        builder = tfds.builder("oxford_iiit_pet", data_dir=data_dir)
        if not builder.data_path.exists():
            _download(builder)
        train, test = builder.as_dataset(split=["train", "test"], decoders=skip, shuffle_files=False)
    except (OSError, KeyError, AssertionError, ValueError) as error:  # not readable, or not all of it is there
        raise InputError(
            f"--data-dir {data_dir or 'default'}: cannot read oxford_iiit_pet there ({type(error).__name__}: "
            f"{in_one_line(error)}); remove its folder oxford_iiit_pet to have it made anew, or name another folder"
        ) from error
    features = builder.info.features

    def decode(example):
        image = features["image"].decode_example(example["image"])
        trimap = features["segmentation_mask"].decode_example(example["segmentation_mask"])
        return image, trimap - 1  # 1 = pet, 2 = background, 3 = border, the order of the drawn pets' classes

    return Source(synthetic.CLASS_NAMES, train, test, decode)


def _download(builder) -> None:
    """Downloads and prepares a data set of tensorflow-datasets, or leaves nothing half-done behind."""
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    downloads = pathlib.Path(builder.data_path).parents[1] / "downloads"
    before = set(downloads.rglob("*.tmp.*"))
    try:
        # tensorflow-datasets itself tries for minutes where there is no network, so ask once for each file first.
        for url in builder.url_infos:
            with requests.get(url, stream=True, timeout=DOWNLOAD_TIMEOUT) as response:
                response.raise_for_status()
        with no_endless_waiting():
            builder.download_and_prepare()
    except Exception as error:  # network, checksum, archive, disk: all of it ends here
        raise InputError(
            f"--data {builder.name}: it is not in {builder.data_path} and the download failed "
            f"({in_one_line(error)}). Put a prepared copy there, name another folder with --data-dir, "
            "or use --data synthetic, which works offline"
        ) from error
    finally:
        for left_over in set(downloads.rglob("*.tmp.*")) - before:
            shutil.rmtree(left_over, ignore_errors=True)
