"""First downloads from a failing server: a one-line error, no partial files, no endless wait."""

import http.server
import re
import threading
import time

from app import download, encoders
from app.detect import saved_models

import detectors
import fcn_vgg16
import keras
import mask_rcnn_hub
import pytest
import unet_mobilenetv2
import unet_scratch
from conftest import QuietServer

BODY = b"x" * 100_000
FAILURES = {
    "refused": "no connection to 127.0.0.1",
    "403": "403",
    "404": "404",
    "page": "",  # the wording differs between downloads
    "cut": "broke in the middle|no connection|not a whole",
    "stall": "no answer for 1 s",
}


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
        if failure == "page":
            self.wfile.write(body)
            return
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
    monkeypatch.setattr(download, "TIMEOUT", 1)
    server = QuietServer(("127.0.0.1", 0), Misbehaving)
    server.daemon_threads, server.end = True, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.end.set()
    server.shutdown()
    server.server_close()


def address(site, failure):
    return "http://127.0.0.1:9/refused" if failure == "refused" else f"{site}/{failure}"


def check(failure, status, err, url):
    assert status == 2 and err.count("\n") == 1, err
    assert re.search(FAILURES[failure], err) and url in err, err


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("recipe", [fcn_vgg16, unet_mobilenetv2])
def test_backbone_weights_download(command_line, site, monkeypatch, tmp_path, recipe, failure):
    monkeypatch.setattr(encoders, "ROOT", tmp_path)
    url = address(site, failure)
    name = "VGG16" if recipe is fcn_vgg16 else "MOBILENETV2"
    monkeypatch.setattr(encoders, name, getattr(encoders, name)._replace(url=url))
    began = time.monotonic()
    status, _, err = command_line(recipe, "--data", "synthetic", "--image-size", 32, "--output", tmp_path / "output")
    check(failure, status, err, url)
    assert "--backbone-weights none" in err  # the remedy
    assert time.monotonic() - began < 30
    assert not [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]


@pytest.mark.parametrize("failure", FAILURES)
def test_mask_rcnn(command_line, site, monkeypatch, tmp_path, failure):
    """From the Hub and, when that fails, from the zoo's archive."""
    monkeypatch.setattr(saved_models, "ROOT", tmp_path)
    url = address(site, failure)
    monkeypatch.setattr(mask_rcnn_hub, "MODELS", (f"{url}/handle/1", f"{url}/zoo.tar.gz"))
    scene = next(iter(detectors.drawn_scenes(tmp_path / "photos", count=1)))
    status, out, err = command_line(mask_rcnn_hub, scene, "--output", tmp_path / "output")
    assert (status, err) == (0, "")
    (line,) = (line for line in out.splitlines() if "cats and dogs only" in line)  # the small model goes on
    check(failure, 2, f"{line}\n", url)
    assert "--model FILE.tar.gz" in line and out.count("downloading ") == 2
    assert [path.name[:15] for path in (tmp_path / "weights").iterdir()] == ["mask_rcnn_pets-"]


@pytest.mark.parametrize("failure", FAILURES)
def test_data(command_line, site, monkeypatch, tmp_path, failure):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.oxford_iiit_pet import oxford_iiit_pet_dataset_builder as pets_builder

    url = address(site, failure)
    infos = {
        f"{url}/{name}.tar.gz": tfds.download.checksums.UrlInfo(
            size=len(BODY), checksum="0" * 64, filename=f"{name}.tar.gz"
        )
        for name in ("images", "annotations")
    }
    monkeypatch.setattr(pets_builder, "_BASE_URL", url)
    monkeypatch.setattr(pets_builder.Builder, "url_infos", infos)
    folder = tmp_path / "tfds"
    began = time.monotonic()
    status, _, err = command_line(unet_scratch, "--data-dir", folder, "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1, err
    assert re.search(FAILURES[failure], err) and "--data synthetic" in err and "oxford_iiit_pet" in err, err
    assert time.monotonic() - began < 60
    assert not [path for path in folder.rglob("*") if "tmp" in path.name or "incomplete" in path.name]


def test_a_model_file_runs_no_code(command_line, tmp_path):
    """A .keras file loads in safe mode: embedded functions are refused."""
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Lambda(lambda x: x * 2)(inputs)
    keras.Model(inputs, outputs, name="unet_scratch").save(tmp_path / "x.keras")
    flags = ("--predict", mask_rcnn_hub.PHOTOS, "--weights", tmp_path / "x.keras", "--output", tmp_path / "output")
    status, _, err = command_line(unet_scratch, *flags)
    assert status == 2 and err.count("\n") == 1 and "--weights" in err
