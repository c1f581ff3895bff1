"""Where photos with instances come from: Oxford-IIIT Pet, or a person's own folder with COCO annotations."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from app import photos
from app.cli import InputError, listed
from app.datasets import Example, Scene, coco, empty_scene, folder, labels, pets
from common import data
from common.scores import PET, TRIMAP

import numpy as np
import tensorflow as tf

PETS = {17: "cat", 18: "dog"}  # as in COCO's label map


class Source(NamedTuple):
    """A data set: functions that read its scenes, whose classes 1, 2, ... are the categories in their order."""

    categories: dict[int, str]  # names by id
    most_instances: int  # in one photo
    train: list[Callable[[], Scene]]
    validation: list[Callable[[], Scene]]
    test: list[Callable[[], Scene]]

    @property
    def counts(self) -> dict[str, int]:
        """Photos of each split."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


def load(name: str, data_dir: str | None = None, seed: int = 0, limit: int | None = None) -> Source:
    """The data set that --data names.

    Args:
      name: oxford_iiit_pet, or a folder: with COCO annotations, or in Oxford's layout.
      data_dir: where tensorflow-datasets keeps its data; None for its default.
      seed: fixes the split, where the data has none.
      limit: at most this many photos of each split.
    Raises:
      InputError: if the data cannot be used.
    """
    if name == pets.NAME:
        source = _pets(data_dir, seed)
    elif pathlib.Path(name).is_dir():
        path = pathlib.Path(name)
        source = of_survey(path, folder.checked(path, seed), seed)
    else:
        raise InputError(f"--data {name}: no such data set or folder; choose {pets.NAME} or a folder")
    splits = (part[:limit] for part in (source.train, source.validation, source.test))
    return Source(source.categories, source.most_instances, *splits)


def _pets(data_dir: str | None, seed: int) -> Source:
    source = pets.source(data_dir)

    def readers(dataset):
        return [functools.partial(read, element) for element in dataset.as_numpy_iterator()]

    def read(element):
        image, label = source.decode(element)
        return pet_scene(image.numpy(), label.numpy()[..., 0], is_cat=element["species"] == 0)

    train, validation = data.split(source.train, source.validation_share, seed)
    return Source(PETS, 1, readers(train), readers(validation), readers(source.test))


def of_survey(path: pathlib.Path, found: folder.Survey, seed: int = 0) -> Source:
    """The data set of a folder, given its survey; says what is left out.

    Raises:
      InputError: if it has no instances to train with.
    """
    if found.layout.categories:
        categories = _with_instances(path, found)
        numbers = {name: number for number, name in enumerate(categories.values(), 1)}
        read = functools.partial(annotated_scene, numbers)
    elif found.class_names == TRIMAP:
        print(f"--data {path}: photos whose names begin with a capital letter are cats, as in Oxford-IIIT Pet")
        categories, read = PETS, functools.partial(_trimap_scene, found)
    else:
        raise InputError(f"--data {path}: masks do not separate instances; annotate these, and export them as COCO")
    splits = {"train": found.train, "validation": found.validation, "test": found.test}
    if not found.validation:
        parts = data.split(tf.data.Dataset.range(len(found.train)), found.validation_share, seed)
        numbers_of = (part.as_numpy_iterator() for part in parts)
        splits["train"], splits["validation"] = ([found.train[index] for index in part] for part in numbers_of)
    readers = ([functools.partial(read, example) for example in part] for part in splits.values())
    examples = (*splits["train"], *splits["validation"], *splits["test"])
    most = max(len(example.annotations) for example in examples) if found.layout.categories else 1
    return Source(categories, most, *readers)


def _with_instances(path: pathlib.Path, found: folder.Survey) -> dict[int, str]:
    """The categories of which there are instances to train with; says which are left out."""
    names = {one.name for example in found.train for one in example.annotations if not one.is_crowd}
    empty = [name for name in found.layout.categories.values() if name not in names]
    if len(empty) == len(found.layout.categories):
        raise InputError(f"--data {path}: no category has an instance to train with ({listed(empty)})")
    if empty:
        print(f"--data {path}: categories without an instance to train with, left out: {listed(empty)}")
    return {number: name for number, name in found.layout.categories.items() if name in names}


def annotated_scene(numbers: dict[str, int], example: Example) -> Scene:
    """A photo with COCO annotations; `numbers` are the classes by name."""
    known: list[coco.Annotation] = [one for one in example.annotations if one.name in numbers]
    single, crowds = ([one for one in known if one.is_crowd == is_crowd] for is_crowd in (False, True))
    image = photos.read(example.image)
    masks = np.stack([one.mask() for one in single]) if single else np.zeros((0, *image.shape[:2]), bool)
    crowd = np.any([one.mask() for one in crowds], axis=0) if crowds else None
    return Scene(image, np.array([numbers[one.name] for one in single], np.int32), masks, crowd)


def _trimap_scene(found: folder.Survey, example: Example) -> Scene:
    image, label = found.read(example)
    return pet_scene(image, label, is_cat=example.image.stem[0].isupper())  # as Oxford names the breeds


def pet_scene(image: np.ndarray, label: np.ndarray, is_cat: bool) -> Scene:
    """A photo of one pet: what is closer to the pet of a trimap than to its background.

    Args:
      image: uint8 [H, W, 3].
      label: uint8 [H, W], 0 = pet, 1 = background, 2 = border.
      is_cat: False for a dog.
    """
    if not (label == PET).any():
        return empty_scene(image)
    return Scene(image, np.array([1 if is_cat else 2], np.int32), labels.inside_outline(label)[np.newaxis])
