"""The first download by tensorflow-datasets' real builder, from a local server."""

import hashlib
import tarfile

from app.cli import InputError
from app.datasets import load, synthetic

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import CONTROL
from PIL import Image
from tensorflow_datasets.datasets.oxford_iiit_pet import oxford_iiit_pet_dataset_builder as pets_builder

SPLITS = {"trainval": 12, "test": 5}


@pytest.fixture
def archives(tmp_path, http_server):
    """The server's folder with images.tar.gz and annotations.tar.gz as on the VGG site: plain tar, raw layout."""
    raw, (served, _) = tmp_path / "raw", http_server
    (raw / "images").mkdir(parents=True)
    (raw / "annotations" / "trimaps").mkdir(parents=True)
    for split, count in SPLITS.items():
        lines = []
        for index in range(count):
            image, label = synthetic.draw(index, split.removesuffix("val"), image_size=96)
            name = f"Abyssinian_{split}_{index}"
            Image.fromarray(image[:80]).save(raw / "images" / f"{name}.jpg", quality=95)
            Image.fromarray(label[:80] + 1).save(raw / "annotations" / "trimaps" / f"{name}.png")
            lines.append(f"{name} 1 1 1\n")
        (raw / "annotations" / f"{split}.txt").write_text("".join(lines))
    for part in ("images", "annotations"):
        with tarfile.open(served / f"{part}.tar.gz", "w") as archive:
            archive.add(raw / part, part)
    return served


@pytest.fixture
def site(archives, http_server, monkeypatch):
    """Points the builder at the server, with the sizes and checksums of its archives."""
    _, server = http_server
    url = f"http://127.0.0.1:{server.server_port}"
    infos = {}
    for path in archives.iterdir():
        content = path.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        infos[f"{url}/{path.name}"] = tfds.download.checksums.UrlInfo(
            size=len(content), checksum=checksum, filename=path.name
        )
    monkeypatch.setattr(pets_builder, "_BASE_URL", url)
    monkeypatch.setattr(pets_builder.Builder, "url_infos", infos)
    return server


def test_first_download_prepares_and_reads_the_data(site, tmp_path, capfd):
    folder = tmp_path / "tfds"
    pets = load.load_data("oxford_iiit_pet", 64, 4, data_dir=str(folder))
    assert not CONTROL.search("".join(capfd.readouterr()))  # no terminal, no bars
    assert pets.counts == {"train": 11, "validation": 1, "test": 5}
    images, labels = next(iter(pets.test))
    assert images.shape == (4, 64, 64, 3)
    shares = np.bincount(labels.numpy().ravel(), minlength=3) / labels.numpy().size
    np.testing.assert_allclose(shares, [0.30, 0.58, 0.12], atol=0.15)  # 1 = pet, 2 = background, 3 = border
    site.shutdown()  # now it must read from disk
    assert load.load_data("oxford_iiit_pet", 64, 4, data_dir=str(folder)).counts == pets.counts


def test_missing_archive(site, archives, tmp_path):
    (archives / "annotations.tar.gz").unlink()
    with pytest.raises(InputError, match=r"404.*annotations.tar.gz.*--data synthetic"):
        load.load_data("oxford_iiit_pet", 64, 4, data_dir=str(tmp_path / "tfds"))


def test_archive_with_wrong_content(site, archives, tmp_path):
    (archives / "images.tar.gz").write_bytes(b"<html>Please log in</html>")
    folder = tmp_path / "tfds"
    with pytest.raises(InputError, match=r"[Cc]hecksum.*--data-dir"):
        load.load_data("oxford_iiit_pet", 64, 4, data_dir=str(folder))
    assert not list(folder.rglob("*.tmp.*")) and not list(folder.rglob("*incomplete*"))
