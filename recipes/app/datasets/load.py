"""Loads the data set that --data names."""

import os
import pathlib

from app.cli import InputError
from app.datasets import folder, pets, synthetic
from common import data as pipelines_

import tensorflow as tf

NAMES = (pets.NAME, "synthetic")


def load_data(
    data: str, image_size: int, batch_size: int, *, seed: int = 0, limit: int | None = None, data_dir: str | None = None
) -> pipelines_.Data:
    """Builds the pipelines of a data set.

    Args:
      data: one of NAMES, or a folder as in folder.py.
      image_size: side in pixels to which images and labels are resized.
      batch_size: images in a batch.
      seed: fixes the validation images (a tenth, unless a folder names them), the order and the augmentation.
      limit: at most this many images of each split.
      data_dir: where tensorflow-datasets keeps its data; None for its default.
    Raises:
      InputError: for an unknown name, data that is missing and cannot be downloaded, or a folder with problems.
    """
    if data == pets.NAME:
        source = pets.source(data_dir)
    elif data == "synthetic":
        source = synthetic.source(image_size, seed)
    elif pathlib.Path(data).is_dir():
        source = folder.source(pathlib.Path(data), seed)
    else:
        raise InputError(f"--data {data}: no such data set or folder; choose {', '.join(NAMES)} or a folder")
    if source.validation:
        splits = [source.train, source.validation, source.test]
    else:
        splits = [*pipelines_.split(source.train, source.validation_share, seed), source.test]
    if limit:
        splits = [examples.take(limit) for examples in splits]
    threads = tf.data.Options()  # of its own, because those of TensorFlow may be just one: see device.save_memory
    threads.threading.private_threadpool_size = os.cpu_count()
    train, validation, test = (
        examples.map(source.decode, num_parallel_calls=tf.data.AUTOTUNE).with_options(threads) for examples in splits
    )
    options = {"image_size": image_size, "batch_size": batch_size, "seed": seed, "augmented": source.augmented}
    data = pipelines_.from_datasets(train, validation, test, source.class_names, **options)
    return data._replace(train_from=lambda step: data.train_from(step).with_options(threads))


from app.datasets import Dataset


def load(name, *, seed=0, limit=None, data_dir=None, image_size=None, findings=None, for_instances=False):
    if for_instances:
        from app.detect import sources

        s = sources.load(name, data_dir, seed, limit)
        r = {"train": s.train, "validation": s.validation, "test": s.test}
        return Dataset((), r, None, categories=s.categories, max_instances=s.most_instances, readers=r)
    global _o
    _o = dict(seed=seed, limit=limit, data_dir=data_dir)
    return Dataset((name,), {}, None)


def pipelines(dataset, image_size, batch_size, seed):
    return load_data(dataset.class_names[0], image_size, batch_size, **_o)


def scenes(dataset, split):
    return dataset.readers[split]
