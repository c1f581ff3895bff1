"""First downloads: from a failing server a one-line error, no partial files, no endless wait."""

import gzip
import hashlib
import http.server
import re
import tarfile
import threading

from app import encoders, files
from app.datasets import synthetic

import detectors
import fcn_vgg16
import keras
import mask_rcnn_hub
import numpy as np
import pytest
import unet_scratch
from conftest import CONTROL, QuietServer
from own_data import load_data
from PIL import Image
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.datasets.oxford_iiit_pet import oxford_iiit_pet_dataset_builder

BODY = gzip.compress(np.random.default_rng(0).bytes(100_000))
FAILURES = {  # what the messages of urllib, requests, Keras and tensorflow-hub have in common
    "refused": "refused|no connection to 127.0.0.1",
    "403": "403",
    "404": "404",
    "page": "page of a login|not appear to be a valid module|not open|[Cc]hecksum",
    "cut": "got only 1000|broke in the middle|no connection|not appear to be a valid module|not open",
    "stall": "timed out|no answer in time",
}
each_failure = pytest.mark.parametrize("failure", FAILURES)


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """Fails as the first part of the path says: http://127.0.0.1/stall/anything stalls."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        failure = self.path.split("/")[1]
        if failure in ("403", "404"):
            self.send_error(int(failure))
            return
        body = b"<html>Please log in</html>" if failure == "page" else BODY
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1000])
        self.wfile.flush()
        if failure == "stall":
            self.server.end.wait(60)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    """The address of such a server; clients time out after 1 s."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(files, "TIMEOUT", 1)
    server = QuietServer(("127.0.0.1", 0), Misbehaving)
    server.daemon_threads = True
    server.end = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.end.set()
    server.shutdown()
    server.server_close()


def address(site, failure):
    return "http://127.0.0.1:9/refused" if failure == "refused" else f"{site}/{failure}"


@each_failure
def test_encoder_weights(command_line, site, monkeypatch, tmp_path, failure):
    monkeypatch.setattr(encoders, "ROOT", tmp_path)
    url = f"{address(site, failure)}/vgg16.h5"
    monkeypatch.setitem(encoders.URLS, keras.applications.VGG16, url)
    status, _, err = command_line(fcn_vgg16, "--data", "synthetic", "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1, err
    assert (
        re.search(FAILURES[failure], err) and f"put {url} into {tmp_path}" in err and "--backbone-weights none" in err
    ), err
    assert not [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]


@each_failure
def test_mask_rcnn(command_line, site, monkeypatch, tmp_path, failure):
    """From the Hub and, when that fails, from the zoo's archive; then the small model steps in."""
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "weights"))
    urls = [f"{address(site, failure)}/handle/1", f"{address(site, failure)}/zoo.tar.gz"]
    monkeypatch.setattr(mask_rcnn_hub, "MODELS", urls)
    scene = next(iter(detectors.drawn_scenes(tmp_path / "photos", count=1)))
    status, out, err = command_line(mask_rcnn_hub, scene, "--output", tmp_path / "output")
    assert (status, err) == (0, "") and "cats and dogs only" in out
    for url in urls:
        (line,) = (line for line in out.splitlines() if line.startswith(f"model {url}: "))
        assert re.search(FAILURES[failure], line), line
    assert [path.name[:15] for path in (tmp_path / "weights").iterdir()] == ["mask_rcnn_pets-"]


def serve_pets(monkeypatch, url, infos):
    monkeypatch.setattr(oxford_iiit_pet_dataset_builder, "_BASE_URL", url)
    monkeypatch.setattr(oxford_iiit_pet_dataset_builder.Builder, "url_infos", infos)


@each_failure
def test_pets(command_line, site, monkeypatch, tmp_path, failure):
    url = address(site, failure)
    names = ("images.tar.gz", "annotations.tar.gz")
    serve_pets(monkeypatch, url, {f"{url}/{name}": UrlInfo(len(BODY), "0" * 64, name) for name in names})
    folder = tmp_path / "tfds"
    status, _, err = command_line(unet_scratch, "--data-dir", folder, "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1, err
    assert re.search(FAILURES[failure], err) and "--data synthetic" in err and "oxford_iiit_pet" in err, err
    assert not [path for path in folder.rglob("*") if "tmp" in path.name or "incomplete" in path.name]


@pytest.fixture
def archives(tmp_path, http_server):
    """The URLs and facts of images.tar.gz and annotations.tar.gz, as on the VGG site: plain tar, raw layout."""
    raw = tmp_path / "raw"
    served, server = http_server
    (raw / "images").mkdir(parents=True)
    (raw / "annotations" / "trimaps").mkdir(parents=True)
    for split, count in {"trainval": 12, "test": 5}.items():
        names = [f"Abyssinian_{split}_{index}" for index in range(count)]
        for index, name in enumerate(names):
            image, label = synthetic.draw(index, split.removesuffix("val"), image_size=96)
            Image.fromarray(image[:80]).save(raw / "images" / f"{name}.jpg", quality=95)
            Image.fromarray(label[:80] + 1).save(raw / "annotations" / "trimaps" / f"{name}.png")
        (raw / "annotations" / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
    infos = {}
    for part in ("images", "annotations"):
        path = served / f"{part}.tar.gz"
        with tarfile.open(path, "w") as archive:
            archive.add(raw / part, part)
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        infos[f"http://127.0.0.1:{server.server_port}/{path.name}"] = UrlInfo(path.stat().st_size, checksum, path.name)
    return infos


def test_pets_are_downloaded_once(archives, http_server, monkeypatch, tmp_path, capfd):
    """By the real builder of tensorflow-datasets; the second time it reads from disk."""
    _, server = http_server
    serve_pets(monkeypatch, f"http://127.0.0.1:{server.server_port}", archives)
    folder = str(tmp_path / "tfds")
    pets = load_data("oxford_iiit_pet", 64, 4, data_dir=folder)
    assert not CONTROL.search("".join(capfd.readouterr()))  # no terminal, no bars
    assert pets.counts == {"train": 11, "validation": 1, "test": 5}
    images, labels = next(iter(pets.test))
    assert images.shape == (4, 64, 64, 3)
    fractions = np.bincount(labels.numpy().ravel(), minlength=3) / labels.numpy().size
    np.testing.assert_allclose(fractions, [0.30, 0.58, 0.12], atol=0.15)  # 1 = pet, 2 = background, 3 = border
    server.shutdown()
    assert load_data("oxford_iiit_pet", 64, 4, data_dir=folder).counts == pets.counts


def test_a_model_file_runs_no_code(command_line, tmp_path):
    """A .keras file loads in safe mode: embedded functions are refused."""
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Lambda(lambda x: x * 2)(inputs)
    keras.Model(inputs, outputs, name="unet_scratch").save(tmp_path / "x.keras")
    flags = ("--predict", mask_rcnn_hub.PHOTOS, "--weights", tmp_path / "x.keras", "--output", tmp_path / "output")
    status, _, err = command_line(unet_scratch, *flags)
    assert status == 2 and err.count("\n") == 1 and "--weights" in err
