"""Tiles of large photos: their training, their predictions, and what is said about small objects."""

import json
import tracemalloc

from app import models, photos
from app.cli import InputError
from app.datasets import folder as folders
from app.datasets import load
from app.predict import cutout, network, tiles
from common import data, scores

import av
import cv2
import numpy as np
import pytest
import tensorflow as tf
import unet_scratch
from own_data import change, draw, make, write
from PIL import Image
from test_video import film

CLASSES = ("background", "seed", "brick")
OPACITIES = np.float32([0, 1, 1])


def by_color(images):
    """A network that sees each pixel alone."""
    values = images + np.float32([1, 2, 3])
    return values / values.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 64), (100, 333), (31, 33)])
def test_a_network_that_sees_single_pixels_leaves_no_seam(shape):
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = tiles.segment(photo, by_color, 32, 5, OPACITIES)
    expected = by_color(photo.astype(np.float32))
    assert found.label.dtype == found.foreground.dtype == np.uint8
    np.testing.assert_array_equal(found.label, expected.argmax(-1))
    assert np.abs(found.foreground - 255 * expected[..., 1:].sum(-1)).max() < 0.51
    assert tiles.segment(photo, by_color, 32, 5, None).foreground is None


def test_tiles_show_the_photo_mirrored_at_its_edges_and_count_most_in_their_middle():
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    around = np.pad(photo, ((8, 46), (8, 58), (0, 0)), "symmetric")
    seen = []

    def middle(images):  # the second class in the middle pixels of a tile, the first elsewhere
        seen.extend(images)
        maps = np.zeros((len(images), 32, 32, 2), np.float32)
        maps[..., 0] = 1
        maps[:, 15:17, 15:17] = (0, 1)
        return maps

    found = tiles.segment(photo, middle, 32, 3, np.float32([0, 1]))
    assert len(seen) == 4 * 5
    for number, tile in enumerate(seen):
        top, left = 16 * (number // 5), 16 * (number % 5)
        np.testing.assert_array_equal(tile, around[top : top + 32, left : left + 32])
    expected = np.zeros((50, 70), np.uint8)
    for number in range(20):
        top, left = 16 * (number // 5) + 7, 16 * (number % 5) + 7
        expected[top : top + 2, left : left + 2] = 1
    np.testing.assert_array_equal(found.label, expected)


def test_memory_does_not_grow_with_the_height_of_a_photo():
    photo = np.zeros((6000, 300, 3), np.uint8)
    tracemalloc.start()
    found = tiles.segment(photo, by_color, 64, 4, OPACITIES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - found.label.nbytes - found.foreground.nbytes < 3e6 < photo[..., 0].size * 3 * 4 / 6


def test_a_device_with_less_memory_gets_smaller_batches():
    photo = np.random.default_rng(0).integers(0, 256, (40, 90, 3)).astype(np.uint8)

    def limited(most):
        def call(images):
            if len(images) > most:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
            return by_color(images)

        return call

    found = tiles.segment(photo, limited(1), 32, 8, OPACITIES)
    np.testing.assert_array_equal(found.label, tiles.segment(photo, by_color, 32, 8, OPACITIES).label)
    with pytest.raises(InputError, match="90 x 40 pixels in tiles of 32 px: not enough memory"):
        tiles.segment(photo, limited(0), 32, 8, OPACITIES)


@pytest.mark.parametrize("names", [scores.TRIMAP, CLASSES, ("a", "b", "c")])
def test_cutouts_of_tiles(names):
    """The opaque part is that of the photo, of the same size; half of a trimap's border belongs to the pet."""
    opacities = cutout.opacities(names)
    expected = {scores.TRIMAP: [1, 0, 0.5], CLASSES: [0, 1, 1]}.get(names)
    assert (opacities is None) if expected is None else (opacities.tolist() == expected)
    if opacities is None:
        return
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    segmentation = tiles.Segmentation(np.zeros((40, 60), np.uint8), np.full((40, 60), 255, np.uint8))
    segmentation.foreground[:, :30] = 0
    label, foreground = cutout.enlarge(photo, segmentation, names)
    assert label is segmentation.label
    found = cutout.cut_out(photo, foreground)
    assert not found[:, :30].any() and (found[:, 30:, 3] == 255).all()
    np.testing.assert_array_equal(found[:, 30:, :3], photo[:, 30:])


@pytest.fixture(scope="module")
def dotted(tmp_path_factory):
    """Photos of 110 x 90 with dots of 4 x 4 pixels on a board, and some of 3 x 3."""
    folder = make(tmp_path_factory.mktemp("own") / "dots", 2, names=("background", "board", "dot"))
    for number in range(20):
        picture, label = draw(2, number, 90, 110)
        rng = np.random.default_rng(number)
        for side, (top, left) in zip((4, 4, 4, 3), rng.integers(0, 80, (4, 2)), strict=True):
            label[top : top + side, left : left + side] = 2
            picture[top : top + side, left : left + side] = (250, 240, 30)
        Image.fromarray(picture).save(folder / "images" / f"{number:02}.jpg", quality=95)
        Image.fromarray(label).save(folder / "masks" / f"{number:02}.png")
    return folder


def test_the_model_remembers_its_tiles(command_line, dotted, tmp_path, ends_after_an_epoch):
    """From the first line of a training, which ends after an epoch, to the mask of a prediction at the photo's size."""
    output = tmp_path / "output"
    flags = ("--data", dotted, "--image-size", 32, "--epochs", 2, "--batch-size", 32, "--output", output)
    with ends_after_an_epoch():
        assert command_line(unet_scratch, *flags, "--tiles")[0] == 2
    status, _, err = command_line(unet_scratch, *flags, "--resume")
    assert status == 2 and err.count("\n") == 1 and "--tiles was True and is False" in err
    status, out, err = command_line(unet_scratch, *flags, "--tiles", "--resume")
    assert (status, err) == (0, "") and "vanish" not in out and "resuming after epoch 1" in out
    assert "16 train (480 tiles), 2 validation (24 tiles), 2 test (24 tiles)" in out  # 6 x 5, or 4 x 3 of each photo
    assert "test, 24 tiles" in out and " tiles/s" in out
    assert "rare classes weigh more in the loss: dot 3." in out  # 0.6 % of the pixels
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["config"]["tiles"] is True and metrics["test"]["photos"] == 2 and metrics["train"]["photos"] == 16

    weights = output / "unet_scratch.keras"
    assert models.origin(weights)["tiles"] is True
    command = ("--predict", dotted / "images" / "00.jpg", "--weights", weights, "--output", tmp_path / "found")
    status, _, err = command_line(unet_scratch, *command)
    assert (status, err) == (0, "")
    trained = network.from_weights("unet_scratch", unet_scratch.build_model, weights)
    photo = np.asarray(Image.open(dotted / "images" / "00.jpg"))
    expected = tiles.segment(photo, trained.probabilities, 32, 16, OPACITIES)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "found" / "00_mask.png")), expected.label)
    assert Image.open(tmp_path / "found" / "00_cutout.png").size == (110, 90)
    film(tmp_path / "film.mp4", times=range(0, 120, 40))
    command = ("--predict", tmp_path / "film.mp4", *command[2:])
    status, _, err = command_line(unet_scratch, *command)
    with av.open(str(tmp_path / "found" / "film_overlay.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert (status, err) == (0, "") and [frame.shape for frame in frames] == [(120, 160, 3)] * 3

    status, _, err = command_line(unet_scratch, *command, "--tiles")
    assert status == 2 and err.count("\n") == 1 and "--tiles: only for a training" in err


def test_models_without_tiles(tmp_path):
    model = unet_scratch.build_model(32, 3)
    for origin, is_tiled in (({"tiles": True}, True), ({}, False), (None, False)):
        models.save(model, tmp_path / "unet_scratch.keras", CLASSES, origin)
        trained = network.from_weights("unet_scratch", unet_scratch.build_model, tmp_path / "unet_scratch.keras")
        assert bool(trained.tiles_in_batch) == is_tiled


def test_counting_the_tiles_decodes_no_photo(dotted, monkeypatch):
    """Each photo is read once by the check and once for the pipelines, in a resumed run once."""
    paths = []
    read = photos.read
    monkeypatch.setattr(photos, "read", lambda path: paths.append(path) or read(path))
    dataset = load.load(str(dotted), image_size=32, tiles=True)
    findings = json.loads(json.dumps(dataset.findings))
    for one in (dataset, load.load(str(dotted), image_size=32, tiles=True, findings=findings)):
        assert one.pixels == dataset.pixels and sum(one.pixels) == 20 * 110 * 90
        assert len(list(load.pipelines(one, 32, 8, 0, tiles=True).test)) == 3
        assert len(paths) == (40 if one is dataset else 60)


@pytest.mark.parametrize(
    ("size", "words"),
    [(64, "hardly larger than a tile, 2.4 times its area"), (96, "hardly larger"), (32, "")],
)
def test_photos_that_are_hardly_larger_than_a_tile(dotted, capsys, size, words):
    dataset = load.load(str(dotted), image_size=size, tiles=True)
    load.pipelines(dataset, size, 4, 0, tiles=True)
    out = capsys.readouterr().out
    assert words in out and out.count("\n") == bool(words)


def test_a_photo_smaller_than_a_tile_is_said(tmp_path, dotted, capsys):
    folder = make(tmp_path / "data", 2)
    for number in range(19):
        picture, label = draw(2, number, 90, 110)
        Image.fromarray(picture).save(folder / "images" / f"{number:02}.jpg")
        Image.fromarray(label).save(folder / "masks" / f"{number:02}.png")
    Image.fromarray(picture[:20]).save(folder / "images" / "19.jpg")
    Image.fromarray(label[:20]).save(folder / "masks" / "19.png")
    load.pipelines(load.load(str(folder), image_size=32, tiles=True), 32, 4, 0, tiles=True)
    assert "photos smaller than a tile: 1 of 20" in capsys.readouterr().out


def test_objects_that_vanish_are_named(command_line, dotted):
    status, out, err = command_line(unet_scratch, "--data", dotted, "--check-data", "--image-size", 32)
    assert (status, err) == (0, "") and "warnings: 1\n  dot: " in out and "or --tiles" in out
    status, out, err = command_line(unet_scratch, "--data", dotted, "--check-data", "--image-size", 32, "--tiles")
    assert (status, err) == (0, "") and "warnings: none" in out


def lost(label, size):
    """Objects, those that are lost, and the pixels of these, of value 1, as data.resize leaves them."""
    count, regions = cv2.connectedComponents(np.uint8(label == 1), connectivity=8)
    _, left = data.resize(np.zeros((*label.shape, 3), np.uint8), regions[..., None].astype(np.int32), size)
    sizes = [((regions == region).sum(), (left.numpy() == region).sum()) for region in range(1, count)]
    gone = [full for full, left in sizes if not left or (left < 4 and 4 * left < full)]
    return count - 1, len(gone), sum(gone)


def test_objects_of_masks_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    label = np.zeros((300, 200), np.uint8)
    for top, left, height, width in rng.integers((0, 0, 2, 2), (290, 190, 14, 14), (40, 4)):
        label[top : top + height, left : left + width] = 1
    folder = make(tmp_path / "data", 2, names=("background", "grain"))
    for number in range(20):
        Image.fromarray(np.zeros((300, 200, 3), np.uint8)).save(folder / "images" / f"{number:02}.jpg")
        Image.fromarray(label).save(folder / "masks" / f"{number:02}.png")
    count, gone, pixels = (20 * one for one in lost(label, 96))
    assert 0.1 < gone / count < 0.9
    words = f"grain: {gone} of its {count} objects, {pixels / (20 * (label == 1).sum()):.0%} of its pixels, vanish"
    for for_instances, advice in ((False, "or --tiles"), (True, "or cut the photos into parts")):
        contents, _ = folders.scan(folder, folders.read(folder), image_size=96, for_instances=for_instances)
        assert contents.warnings[0].startswith(words) and contents.warnings[0].endswith(advice)


def test_objects_of_annotations_are_counted(tmp_path):
    """Each annotation is an object, also where two of them touch."""
    folder = write(tmp_path / "bugs")
    assert not folders.scan(folder, folders.read(folder), image_size=32)[0].warnings

    def add(content):
        for image in content["images"]:
            for left in (0, 2, 4, 6):
                box = [left, 38, left + 1.9, 38, left + 1.9, 39.9, left, 39.9]
                one = {"id": len(content["annotations"]) + 1, "image_id": image["id"], "category_id": 3}
                content["annotations"].append({**one, "segmentation": [box], "iscrowd": 0})

    change(folder / "annotations.json", add)
    warnings = folders.scan(folder, folders.read(folder), image_size=8)[0].warnings
    assert warnings[0].startswith("leaf: 80 of its 100 objects")
