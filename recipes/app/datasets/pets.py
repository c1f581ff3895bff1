"""Oxford-IIIT Pet, by tensorflow-datasets."""

import pathlib
import shutil
import sys

from app import download
from app.cli import InputError, one_line
from app.datasets import Source
from common.scores import TRIMAP

import requests

NAME = "oxford_iiit_pet"


def source(data_dir: str | None) -> Source:
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

    def decode(example):
        image = features["image"].decode_example(example["image"])
        trimap = features["segmentation_mask"].decode_example(example["segmentation_mask"])
        return image, trimap - 1  # 1 = pet, 2 = background, 3 = border: the order of TRIMAP

    return Source(TRIMAP, train, test, decode)


def _download(builder) -> None:
    """Downloads and prepares a data set of tensorflow-datasets, and leaves nothing half done behind."""
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    downloads = pathlib.Path(builder.data_path).parents[1] / "downloads"
    before = set(downloads.rglob("*.tmp.*"))
    try:
        for url in builder.url_infos:  # tensorflow-datasets itself would try for minutes without a network
            with requests.get(url, stream=True, timeout=download.TIMEOUT) as response:
                response.raise_for_status()
        with download.time_limit():
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
