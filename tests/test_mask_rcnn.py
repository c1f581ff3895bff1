"""Mask R-CNN from the command line, with fake detectors: files, scores and error messages."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

from app import files, inputs, photos
from app.detect import detector, instances, label_map, saved_models

import detectors
import mask_rcnn_hub
import numpy as np
import pytest
import tensorflow as tf
import unet_mobilenetv2
from conftest import ROOT
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tensorflow_hub import resolver


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn scenes, and a SavedModel that detects them."""
    folder = tmp_path_factory.mktemp("drawn")
    scenes = detectors.drawn_scenes(folder / "photos")
    return scenes, detectors.save(folder / "model", scenes)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty folder for what is downloaded or unpacked."""
    monkeypatch.setattr(files, "ROOT", tmp_path / "project")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "project" / "weights"))
    return tmp_path / "project" / "weights"


def pack(archive, model, below="."):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(model, below)
    return archive


def detections(folder):
    return json.loads((folder / "detections.json").read_text())


def segm_ap(truth: COCO, results: pathlib.Path) -> float:
    truth.dataset.setdefault("info", {})  # pycocotools 2.0.10 does not work without
    evaluation = COCOeval(truth, truth.loadRes(str(results)), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def coco_scenes(truth: COCO, folder):
    """COCO's ground truth as detections."""
    scenes = {}
    for image in truth.imgs.values():
        annotations = [one for one in truth.imgToAnns[image["id"]] if not one["iscrowd"]]
        masks = [truth.annToMask(one).astype(bool) for one in annotations]
        scenes[folder / image["file_name"]] = [
            detectors.thing(one["category_id"], mask) for one, mask in zip(annotations, masks, strict=True)
        ]
    return scenes


def test_coco_ground_truth_round_trip(command_line, shared, tmp_path):
    truth = COCO(shared / "coco" / "instances.json")
    folder = shared / "coco" / "images"
    model = detectors.save(tmp_path / "model", coco_scenes(truth, folder))
    status, out, err = command_line(mask_rcnn_hub, folder, "--model", model, "--output", tmp_path / "output")
    assert (status, err) == (0, "")
    assert "000000416256.jpg  500 x 375  2 keyboard, 1 cat" in out
    assert segm_ap(truth, tmp_path / "output" / "detections.json") >= 0.97


def test_files(command_line, drawn, tmp_path):
    scenes, model = drawn
    status, out, err = command_line(mask_rcnn_hub, *scenes, "--model", model, "--output", tmp_path)
    assert (status, err) == (0, "")
    assert out.count("640 x 427  1 cat, 1 dog, 1 bench") == len(scenes)
    names = {f"{path.stem}_{kind}.png" for path in scenes for kind in ("overlay", "instances")}
    assert {path.name for path in tmp_path.iterdir()} == {*names, "detections.json", inputs.NAMES}
    offsets = []
    for path, things in scenes.items():
        photo = photos.read(path)
        overlay = photos.read(tmp_path / f"{path.stem}_overlay.png")
        assert overlay.shape == photo.shape and (overlay != photo).any()
        numbers = Image.open(tmp_path / f"{path.stem}_instances.png")
        assert numbers.mode == "I;16" and numbers.size == (640, 427)
        numbers = np.asarray(numbers)
        results = [result for result in detections(tmp_path) if result["file_name"] == str(path)]
        assert [result["instance"] for result in results] == [1, 2, 3]
        for number, (thing, result) in enumerate(zip(things, results, strict=True), 1):
            found = numbers == number
            assert (found & thing.mask).sum() > 0.9 * (found | thing.mask).sum()
            offsets.append(np.argwhere(found).mean(axis=0) - np.argwhere(thing.mask).mean(axis=0))
            assert (result["category_id"], result["image_id"]) == (thing.category_id, int(path.stem))
            assert result["score"] == pytest.approx(thing.score, abs=1e-4)
            ymin, xmin, ymax, xmax = np.multiply(thing.box, (427, 640, 427, 640))
            assert result["bbox"] == pytest.approx([xmin, ymin, xmax - xmin, ymax - ymin], abs=0.01)
            np.testing.assert_array_equal(coco_masks.decode(result["segmentation"]), found)
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.4  # pixels: the masks are not shifted


def test_from_the_terminal(drawn, tmp_path):
    """In a separate process and another folder, without tf-models-official; nothing else is printed."""
    scenes, model = drawn
    (tmp_path / "official.py").write_text("raise ImportError('not needed')")
    command = [sys.executable, ROOT / "recipes" / "mask_rcnn_hub.py", *scenes, "nowhere.jpg"]
    command += ["--model", model, "--output", "found"]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "mask_rcnn_hub.py: nowhere.jpg: no such file or directory\n"
    assert done.stdout.startswith(f"mask_rcnn_hub | photos: {len(scenes)} | ")
    assert done.stdout.endswith("pictures and detections.json are in found\n")
    assert len(detections(tmp_path / "found")) == 3 * len(scenes)


def test_default_photos(command_line, drawn, tmp_path):
    """Without arguments it reads resources/photos. The detector knows none of them, which is no error."""
    status, out, err = command_line(mask_rcnn_hub, "--model", drawn[1], "--output", tmp_path)
    assert (status, err) == (0, "") and out.count("nothing") == 4
    assert detections(tmp_path) == []
    for path in sorted(mask_rcnn_hub.PHOTOS.iterdir()):
        np.testing.assert_array_equal(photos.read(tmp_path / f"{path.stem}_overlay.png"), photos.read(path))


def test_min_score_max_detections_and_labels(command_line, drawn, tmp_path):
    scenes, model = drawn
    labels = tmp_path / "labels.pbtxt"
    labels.write_text("item { id: 17 display_name: 'Katze' }\nitem { id: 18 name: 'Hund' }\n")
    for flags, found in (
        (("--min-score", 0.5), "1 Katze, 1 Hund"),
        (("--min-score", 0), "1 Katze, 1 Hund, 1 class 15"),
        (("--max-detections", 1), "1 Katze"),
        (("--min-score", 1), "nothing"),
    ):
        flags = (*flags, "--labels", labels, "--model", model, "--output", tmp_path)
        status, out, _ = command_line(mask_rcnn_hub, next(iter(scenes)), *flags)
        assert status == 0 and f"640 x 427  {found}  " in out, out
        assert ("no names for the class ids 15" in out) == ("class 15" in found)


def test_photos_with_the_same_name(command_line, drawn, tmp_path):
    scenes, model = drawn
    copies = [tmp_path / name / "000000000007.png" for name in "abc"]
    for path, copy in zip(scenes, copies, strict=False):
        copy.parent.mkdir()
        shutil.copy(path, copy)
    status, _, _ = command_line(mask_rcnn_hub, *copies, "--model", model, "--output", tmp_path)
    assert status == 0
    ids = {(result["file_name"], result["image_id"]) for result in detections(tmp_path)}
    assert ids == set(zip(map(str, copies), (7, 1, 2), strict=True))
    maps = [(tmp_path / f"000000000007{end}_instances.png").read_bytes() for end in ("", "-2", "-3")]
    assert len(set(maps)) == 3


def test_bad_photos_among_good_ones(command_line, drawn, tmp_path):
    scenes, model = drawn
    output = tmp_path / "output"
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    bad = [tmp_path / name for name in ("empty folder", "text.jpg", "nowhere")]
    flags = ("--model", model, "--output", output)
    status, out, err = command_line(mask_rcnn_hub, *bad, *scenes, *flags)
    assert status == 1 and out.count("1 cat, 1 dog") == len(scenes)
    assert err.count("\n") == len(bad) and all(f"{path}: " in err for path in bad), err

    written = {path: path.read_bytes() for path in output.iterdir()}
    status, out, err = command_line(mask_rcnn_hub, *bad, *flags)
    assert status == 2 and err.count("\n") == len(bad) and "pictures" not in out
    assert {path: path.read_bytes() for path in output.iterdir()} == written  # the results of the previous run
    status, out, err = command_line(mask_rcnn_hub, bad[0], *flags)  # refused before the model is loaded
    assert status == 2 and out == "" and err.count("\n") == 1


def test_invalid_detections_are_dropped(command_line, drawn, tmp_path):
    """Boxes that are non-finite, empty, inverted or outside the photo are dropped; the others are kept."""
    boxes = [(np.nan, 0.1, 0.5, 0.5), (0.1, 0.1, np.inf, 0.5), (0.5, 0.5, 0.5, 0.5), (0.9, 0.9, 0.1, 0.1), (2, 2, 3, 3)]
    invalid = [detectors.thing(1, np.ones((427, 640), bool))._replace(box=box) for box in boxes]
    scenes = {path: things + invalid for path, things in drawn[0].items()}
    model = detectors.save(tmp_path / "model", scenes)
    status, out, err = command_line(mask_rcnn_hub, *scenes, "--model", model, "--output", tmp_path)
    assert (status, err) == (0, "") and out.count("1 cat, 1 dog, 1 bench") == len(scenes)
    assert all(min(result["bbox"]) >= 0 for result in detections(tmp_path))


class TwoInputs(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8), tf.TensorSpec((), tf.float32)])
    def __call__(self, pixels, threshold):
        return {"detection_boxes": tf.zeros((1, 1, 4)) + threshold, "num_detections": tf.zeros(1)}


def test_unusable_models(command_line, drawn, weights, tmp_path):
    scenes, model = drawn
    tf.saved_model.save(tf.Module(), str(tmp_path / "bare"))
    tf.saved_model.save(TwoInputs(), str(tmp_path / "two"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"damaged")
    (tmp_path / "page.tar.gz").write_text("<html>Please log in</html>")
    whole = pack(tmp_path / "whole.tar.gz", model).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(tmp_path / "escaping.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    pack(tmp_path / "photos.tar.gz", next(iter(scenes)).parent)
    for name, words in {
        "nowhere": "no such file or folder",
        "x" * 5000: "cannot be read",
        "bare": "it lacks the signature serving_default",
        "two": "detection_classes, detection_scores, detection_masks, an input of uint8 [1, H, W, 3] alone",
        "empty": "no SavedModel in it",
        "damaged": "cannot be loaded",
        "page.tar.gz": "not a complete .tar.gz archive",
        "cut.tar.gz": "not a complete .tar.gz archive",
        "escaping.tar.gz": "outside the destination",
        "photos.tar.gz": "no SavedModel in it",
    }.items():
        output = tmp_path / "output"
        status, _, err = command_line(mask_rcnn_hub, *scenes, "--model", tmp_path / name, "--output", output)
        assert status == 2 and err.count("\n") == 1 and f"{tmp_path / name}: " in err, err
        assert words in err, err
    assert not (tmp_path / "output").exists() and not list(weights.glob("*"))


def test_a_downloaded_model_is_kept(command_line, drawn, weights, http_server, tmp_path, monkeypatch):
    """The first address fails; the second serves the archive, though a killed download has left its lock."""
    scenes, model = drawn
    served, server = http_server
    zoo = tmp_path / "zoo"
    shutil.copytree(model, zoo / "saved_model")
    (zoo / "checkpoint").mkdir()
    pack(served / "zoo.tar.gz", zoo, "zoo")
    site = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(mask_rcnn_hub, "MODELS", (f"{site}/handle/1", f"{site}/zoo.tar.gz"))
    kept = saved_models.cache_folder(f"{site}/zoo.tar.gz")
    pathlib.Path(f"{kept}.killed.tmp").mkdir(parents=True)
    kept.with_suffix(".lock").write_text("host.1.killed")
    monkeypatch.setattr(resolver.time, "sleep", lambda _: None)
    monkeypatch.setattr(saved_models.compressed_module_resolver, "LOCK_FILE_TIMEOUT_SEC", 0)

    flags = (next(iter(scenes)), "--output", tmp_path / "output")
    status, out, _ = command_line(mask_rcnn_hub, *flags)
    assert status == 0 and "404" in out and "1 cat" in out
    assert f"downloading {site}/handle/1" in out and f"downloading {site}/zoo.tar.gz" in out
    assert sorted(path.name for path in weights.iterdir()) == [kept.name, f"{kept.name}.descriptor.txt"]
    assert [path.name for path in (kept / "zoo").iterdir()] == ["saved_model"]

    server.shutdown()
    server.server_close()
    status, out, err = command_line(mask_rcnn_hub, *flags)
    assert (status, err) == (0, "") and "downloading" not in out and "1 cat" in out
    (kept / "zoo" / "saved_model" / "saved_model.pb").write_bytes(b"damaged")
    status, _, err = command_line(mask_rcnn_hub, *flags)
    assert status == 2 and err.count("\n") == 1 and f"remove {kept}" in err


def test_a_genuine_export(command_line, shared, weights, tmp_path):
    """A small Mask R-CNN as TensorFlow's exporter writes it, unpacked once; its masks are those of the API."""
    archive = shared / "detectors" / "mask_rcnn_tiny_128.tar.gz"
    path = mask_rcnn_hub.PHOTOS / "cat.jpg"
    for number in range(2):
        flags = ("--min-score", 0.2, "--model", archive, "--output", tmp_path / str(number))
        status, out, err = command_line(mask_rcnn_hub, path, *flags)
        assert (status, err) == (0, "") and "loading " in out and ", 4 MB" in out
        (kept,) = weights.iterdir()
        assert kept.name.startswith("mask_rcnn_tiny_128-") and not list(kept.rglob("checkpoint"))
    assert detections(tmp_path / "0") == detections(tmp_path / "1") and len(detections(tmp_path / "0")) > 5

    predict = detector.from_saved_model(str(kept))
    photo = photos.read(path)
    outputs = {name: tensor[0, :30].numpy() for name, tensor in predict(photo).items() if tensor.shape.rank > 1}
    compared = 0
    for mask, box in zip(outputs["detection_masks"], outputs["detection_boxes"], strict=True):
        if box[2] > box[0] and box[3] > box[1]:
            expected = full_frame(mask, box, *photo.shape[:2])
            assert (pasted(mask, box, *photo.shape[:2]) == expected).mean() >= 0.999
            compared += expected.any()
    assert compared > 5


def test_without_a_network_the_small_model_steps_in(command_line, weights, tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    status, out, err = command_line(mask_rcnn_hub, mask_rcnn_hub.PHOTOS / "cat.jpg", "--output", tmp_path)
    assert (status, err) == (0, "") and "  1 cat  " in out
    (line,) = (line for line in out.splitlines() if "cats and dogs only" in line)
    for words in ("the large model is not available", mask_rcnn_hub.MODELS[1], "by hand", "--model FILE.tar.gz"):
        assert words in line
    assert all(f"{url}: the download failed (" in out for url in mask_rcnn_hub.MODELS)
    assert [path.name[:15] for path in weights.iterdir()] == ["mask_rcnn_pets-"]


def test_the_small_model_outlines_the_cat_and_the_dog_and_nothing_else(command_line, tmp_path):
    """The cat as the U-Net cuts it out; the portrait and the coffee have no pet."""
    status, out, err = command_line(mask_rcnn_hub, "--model", "small", "--min-score", 0.5, "--output", tmp_path)
    assert (status, err) == (0, "") and out.count("  nothing  ") == 2
    cat, dog = sorted(detections(tmp_path), key=lambda result: result["category_id"])
    assert (cat["category_id"], dog["category_id"]) == (17, 18)
    found = coco_masks.decode(cat["segmentation"]).astype(bool)
    photo = ROOT / "resources" / "photos" / "cat.jpg"
    flags = ("--predict", photo, "--weights", "shipped", "--output")
    assert command_line(unet_mobilenetv2, *flags, tmp_path / "cat")[0] == 0
    cutout = np.asarray(Image.open(tmp_path / "cat" / "cat_cutout.png"))[..., 3] > 127
    assert (found & cutout).sum() > 0.9 * (found | cutout).sum()
    for recipe, command, output in (
        (unet_mobilenetv2, flags, tmp_path),
        (mask_rcnn_hub, (photo, "--model", "small", "--output"), tmp_path / "cat"),
    ):
        before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
        status, _, err = command_line(recipe, *command, output)
        assert status == 2 and err.count("\n") == 1 and "holds results of" in err
        assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--min-score", 30), "--min-score: 30 is not a number from 0 to 1"),
        (("--max-detections", 0), "--max-detections: 0 is not"),
        (("--labels", "nowhere.pbtxt"), "--labels nowhere.pbtxt: cannot be read"),
        (("--labels", ROOT / "LICENSE"), "no line like item"),
        (("--labels", ROOT / "resources" / "strip.jpg"), "cannot be read as a label map"),
        (("--score", 1), "--help"),
    ],
)
def test_wrong_flags(command_line, tmp_path, flags, words):
    status, out, err = command_line(mask_rcnn_hub, *flags, "--output", tmp_path / "output")
    assert status == 2 and out == "" and err.count("\n") == 1 and words in err, err


def full_frame(mask, box, height, width):
    """The full-photo mask as TensorFlow's object detection API pastes it (reframe_box_masks_to_image_masks)."""
    ymin, xmin, ymax, xmax = box
    y_scale = ymax - ymin
    x_scale = xmax - xmin
    photo_in_box = [-ymin / y_scale, -xmin / x_scale, (1 - ymin) / y_scale, (1 - xmin) / x_scale]
    frame = tf.image.crop_and_resize(
        mask[np.newaxis, ..., np.newaxis], np.float32([photo_in_box]), [0], (height, width), extrapolation_value=0
    )
    return frame[0, ..., 0].numpy() > 0.5


def pasted(mask, box, height, width):
    part, top, left = detector.enlarge(mask, box, height, width)
    frame = np.zeros((height, width), bool)
    frame[top : top + part.shape[0], left : left + part.shape[1]] = part > detector.MASK_THRESHOLD
    return frame


def test_enlarged_masks_match_full_frame_masks():
    rng = np.random.default_rng(0)
    boxes = [(0, 0, 1, 1), (0.2, 0.5, 0.9, 0.5 + 1 / 199), (0.4, 0.1, 0.4 + 1 / 149, 0.8), (-0.2, -0.3, 0.5, 0.4)]
    boxes += [(0.6, 0.7, 1.4, 1.2), (-0.5, -0.5, 1.5, 1.5), (0.999, 0.999, 1, 1), (1.2, 0.1, 1.5, 0.2)]
    for _ in range(60):
        begin = rng.uniform(-0.3, 0.95, 2)
        boxes.append((*begin, *(begin + rng.uniform(0.005, 0.9, 2))))
    for box in boxes:
        coarse = rng.uniform(size=(1, 5, 5, 1)).astype(np.float32)
        mask = tf.image.resize(coarse, (33, 33)).numpy()[0, ..., 0]
        size = rng.integers(100, 300, 2)
        assert (pasted(mask, np.float32(box), *size) == full_frame(mask, box, *size)).mean() >= 0.999, box
    mask = np.ones((33, 33), np.float32)
    assert pasted(mask, np.float32([0, 0, 1, 1]), 1, 1).tolist() == [[True]]
    assert detector.enlarge(mask, np.float32([0.5, 0.5, 0.5, 0.5]), 10, 10)[0].size == 0


def test_boxes_and_labels_stay_inside_the_photo():
    """Even where a box touches the photo's edges."""
    photo = np.full((300, 400, 3), 255, np.uint8)
    mask = np.zeros((20, 20), bool)
    found = [
        instances.Instance(1, "person", 0.9, (0, 0.9, 0.1, 1), mask, 0, 360),
        instances.Instance(1, "person", 0.8, (0, 0, 1, 1), mask, 100, 100),
    ]
    picture = instances.overlay(photo, found)
    assert picture.shape == photo.shape
    letters = (picture < 60).all(-1)
    assert letters[:60, 300:].sum() > 40 and letters[:60, :150].sum() > 40
    for edge in (picture[:2, 200], picture[-2:, 200], picture[150, :2], picture[150, -2:]):
        assert (np.ptp(edge.astype(int), axis=-1) > 60).all()  # the line's color, two pixels wide


def test_many_classes_in_one_photo():
    """The column stays narrow."""
    names = [*"abcdefgh" * 3, *["cat"] * 9, "a name too long for a table, by far"]
    found = [instances.Instance(1, name, 1.0, (0, 0, 1, 1), np.ones((1, 1), bool), 0, 0) for name in names]
    assert instances.summary(found) == "9 cat, 3 a, 3 b, 3 c, 6 more kinds"
    assert len(instances.summary(found[-1:] * 2)) <= 32 and instances.summary([]) == "nothing"


def test_label_maps(tmp_path):
    path = tmp_path / "labels.pbtxt"
    path.write_text(
        "# item { id: 9 name: 'no' }\nitem: {\n name: \"a}b\"  # }\n id: 1\n}\n"
        "item {id: 2 keypoints { id: 7 label: 'nose' } display_name: 'it\\'s # Tür'}\n"
        "item { id: 3, display_name: 'caf\\303\\251\\tau lait' }\n"
        "item { name: 'cat', display_name: '', id: 4 } item { id: 5 name: '\\u65e5\\u00e9 \\\\u65e5' }",
        encoding="utf-8-sig",  # with a byte order mark
    )
    assert label_map.read(path) == {1: "a}b", 2: "it's # Tür", 3: "café\tau lait", 4: "cat", 5: "日é \\u65e5"}
    names = {1: 'a "b" \\ c\\n', 2: "it's\t日本\n", 90: "}{#"}
    label_map.write(path, names)
    assert label_map.read(path) == names
    names = label_map.read(mask_rcnn_hub.LABELS)
    assert len(names) == 80 and (names[1], names[17], names[18], names[90]) == ("person", "cat", "dog", "toothbrush")
