"""Loads the data set that --data names."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from app.cli import InputError
from app.datasets import Dataset, Scene, folder, pets, synthetic, with_threads
from common import data

import numpy as np
import tensorflow as tf

FEW_TILES = 4  # a photo of fewer keeps more than half of its resolution when it is resized to that of a tile


def load(
    name: str,
    *,
    seed: int = 0,
    limit: int | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    findings: dict[str, Any] | None = None,
    for_instances: bool = False,
    tiles: bool = False,
) -> Dataset:
    """Loads a data set by its name.

    Args:
      name: oxford_iiit_pet, synthetic, or a folder as in masks.py and coco.py.
      seed: fixes the validation images (a tenth, unless a folder names them).
      limit: at most this many images of each split.
      data_dir: where tensorflow-datasets keeps its data; None for its default.
      image_size: side in pixels: synthetic images are drawn, and a folder's photos kept in memory and its labels
        checked, at this size.
      findings: those of an interrupted run on the same folder, which is not checked again.
      for_instances: whether a detector is to be trained, which needs instances.
      tiles: whether the photos are to be cut into tiles, so that a folder's stay as they are.
    Raises:
      InputError: for an unknown name, data that is missing and cannot be downloaded, or a folder with problems.
    """
    if name == pets.NAME:
        dataset = pets.load(data_dir, seed)
    elif name == synthetic.NAME and not for_instances:
        dataset = synthetic.load(image_size, seed)
    elif pathlib.Path(name).is_dir():
        keeps_photos = not (limit or for_instances or tiles)
        size = None if tiles else image_size
        dataset = folder.load(pathlib.Path(name), seed, size, findings, for_instances, keeps_photos)
    else:
        names = pets.NAME if for_instances else f"{pets.NAME}, {synthetic.NAME}"
        raise InputError(f"--data {name}: no such data set or folder; choose {names} or a folder")
    if limit:
        dataset = dataset._replace(splits={split: part.take(limit) for split, part in dataset.splits.items()})
    return dataset


def pipelines(dataset: Dataset, image_size: int, batch_size: int, seed: int, tiles: bool = False) -> data.Data:
    """Builds the pipelines of a data set, at `image_size` pixels a side; the seed fixes order and augmentation.

    With `tiles`, the images are tiles of this size, and a line says so if the photos are too small for them.
    """
    decoded = {
        split: with_threads(part.map(dataset.decode, num_parallel_calls=tf.data.AUTOTUNE))
        for split, part in dataset.splits.items()
    }
    if tiles:
        decoded = _tiled(dataset, decoded, image_size)
    options = {"batch_size": batch_size, "seed": seed, "augmented": dataset.augmented}
    if dataset.arrays:
        images, labels = dataset.arrays
        places = {split: np.array(list(part.as_numpy_iterator())) for split, part in dataset.splits.items()}
        if places["test"].max() < images.shape[0]:
            test = tf.data.Dataset.from_tensor_slices(places["test"])
            test = test.map(lambda place: (images.sparse_read(place), labels.sparse_read(place)))
        else:
            test = data.resized(decoded["test"], image_size)
        train, validation = places["train"], places["validation"]
        loaded = data.from_arrays(images, labels, train, validation, test, dataset.class_names, **options)
    else:
        loaded = data.from_datasets(**decoded, class_names=dataset.class_names, image_size=image_size, **options)
    return loaded._replace(train_from=lambda step: with_threads(loaded.train_from(step)))


def _tiled(dataset: Dataset, decoded: dict[str, tf.data.Dataset], tile: int) -> dict[str, tf.data.Dataset]:
    """Cuts the photos of each split into tiles, for training half overlapping; prints a line if they are too small."""
    parts = {}
    photos = []
    for split, pairs in decoded.items():
        step = tile // 2 if split == "train" else tile
        sizes = np.array([dataset.size(element) for element in dataset.splits[split].as_numpy_iterator()])
        count = data.tile_counts(sizes, tile, step).numpy().prod(axis=1).sum()  # known without decoding a photo
        parts[split] = data.tiles(pairs, tile, step).apply(tf.data.experimental.assert_cardinality(count))
        photos.append(sizes)
    photos = np.concatenate(photos)
    larger = np.median(photos.prod(axis=1)) / tile**2
    small = np.count_nonzero(photos.min(axis=1) < tile)
    if larger < FEW_TILES:
        advice = "leave --tiles out, or use a smaller --image-size"
        print(f"--tiles: the photos are hardly larger than a tile, {larger:.1f} times its area; {advice}")
    elif small:
        print(f"--tiles: photos smaller than a tile: {small} of {len(photos)}; the rest of their tiles is ignored")
    return parts


def scenes(dataset: Dataset, split: str) -> list[Callable[[], Scene]]:
    """Functions that read the scenes of a split."""
    return [functools.partial(dataset.read_scene, element) for element in dataset.splits[split].as_numpy_iterator()]
