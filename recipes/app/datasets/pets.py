"""Oxford-IIIT Pet, by tensorflow-datasets."""

import io
import pathlib
import shutil
import sys

from app import files
from app.cli import InputError, one_line
from app.datasets import Dataset, Scene, empty_scene
from common import data
from common.scores import BACKGROUND, PET, TRIMAP

import cv2
import numpy as np
import requests
from PIL import Image

NAME = "oxford_iiit_pet"
CATEGORIES = {17: "cat", 18: "dog"}  # as in COCO's label map


def load(data_dir: str | None, seed: int) -> Dataset:
    """Oxford-IIIT Pet (Parkhi et al., CVPR 2012): 3,680 photos for training and 3,669 for the test, with trimaps.

    Raises:
      InputError: if it cannot be read or downloaded.
    """
    import tensorflow_datasets as tfds  # takes a second to import, which other data need not wait for

    skip = {"image": tfds.decode.SkipDecoding(), "segmentation_mask": tfds.decode.SkipDecoding()}
    try:
        builder = tfds.builder(NAME, data_dir=data_dir)
        if not builder.data_path.exists():
            _download(builder)
        train, test = builder.as_dataset(split=["train", "test"], decoders=skip, shuffle_files=False)
    except (OSError, KeyError, AssertionError, ValueError) as error:  # unreadable or incomplete
        raise InputError(
            f"--data-dir {data_dir or 'default'}: cannot read oxford_iiit_pet there ({type(error).__name__}: "
            f"{one_line(error)}); remove its folder oxford_iiit_pet, and it will be prepared again, or name another one"
        ) from error
    features = builder.info.features

    def decode(element):
        image = features["image"].decode_example(element["image"])
        trimap = features["segmentation_mask"].decode_example(element["segmentation_mask"])
        return image, trimap - 1  # 1 = pet, 2 = background, 3 = border: the order of TRIMAP

    def read_scene(element):
        image, label = decode(element)
        return scene(image.numpy(), label.numpy()[..., 0], is_cat=element["species"] == 0)

    def size(element):
        return Image.open(io.BytesIO(element["image"])).size  # reads the first bytes only

    train, validation = data.split(train, seed=seed)
    splits = {"train": train, "validation": validation, "test": test}
    return Dataset(TRIMAP, splits, decode, categories=CATEGORIES, read_scene=read_scene, size=size)


def scene(image: np.ndarray, trimap: np.ndarray, is_cat: bool) -> Scene:
    """A photo of one pet, a cat or else a dog.

    Args:
      image: uint8 [H, W, 3].
      trimap: class ids of TRIMAP, uint8 [H, W].
    """
    if not (trimap == PET).any():
        return empty_scene(image)
    return Scene(image, np.array([1 if is_cat else 2], np.int32), inside_outline(trimap)[np.newaxis])


def inside_outline(trimap: np.ndarray) -> np.ndarray:
    """The pixels of a trimap, uint8 [H, W], that are closer to the pet than to the background: bool [H, W]."""
    if not (trimap == BACKGROUND).any():
        return np.ones(trimap.shape, bool)
    to_pet = cv2.distanceTransform((trimap != PET).astype(np.uint8), cv2.DIST_L2, 5)
    to_background = cv2.distanceTransform((trimap != BACKGROUND).astype(np.uint8), cv2.DIST_L2, 5)
    return to_pet < to_background


def _download(builder) -> None:
    """Downloads and prepares a data set of tensorflow-datasets, and leaves nothing half done behind."""
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    downloads = pathlib.Path(builder.data_path).parents[1] / "downloads"
    before = set(downloads.rglob("*.tmp.*"))
    try:
        for url in builder.url_infos:  # tensorflow-datasets itself would try for minutes without a network
            with requests.get(url, stream=True, timeout=files.TIMEOUT) as response:
                response.raise_for_status()
        with files.time_limit():
            builder.download_and_prepare()
    except Exception as error:  # network, checksum, archive or disk
        raise InputError(
            f"--data {builder.name}: not in {builder.data_path}, and the download failed ({one_line(error)}). Put a "
            "prepared copy there, or name another folder with --data-dir; the U-Nets and the FCN also train offline: "
            "--data synthetic"
        ) from error
    finally:
        for leftover in set(downloads.rglob("*.tmp.*")) - before:
            shutil.rmtree(leftover, ignore_errors=True)
