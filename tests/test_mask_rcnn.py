"""Mask R-CNN from the command line, with fake detectors: files, scores and error messages."""

import io
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile

from app import photos
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

NO_PROXY = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of drawn scenes, the scenes, and a SavedModel that detects them."""
    folder = tmp_path_factory.mktemp("drawn")
    scenes = detectors.drawn_scenes(folder / "photos")
    return folder / "photos", scenes, detectors.save(folder / "model", scenes)


def pack(archive, model, below="."):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(model, below)
    return archive


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Redirects downloads to an empty project folder."""
    monkeypatch.setattr(saved_models, "ROOT", tmp_path / "project")
    return tmp_path / "project" / "weights"


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
        height, width = image["height"], image["width"]
        things = []
        for annotation in truth.imgToAnns[image["id"]]:
            x, y, w, h = annotation["bbox"]
            box = (y / height, x / width, (y + h) / height, (x + w) / width)
            mask = truth.annToMask(annotation).astype(bool)
            if not annotation["iscrowd"]:
                things.append(detectors.Thing(annotation["category_id"], box, mask))
        scenes[folder / image["file_name"]] = things
    return scenes


def test_coco_ground_truth_round_trip(command_line, shared, weights, http_server, tmp_path):
    """From a folder, from a model zoo archive, and from a TensorFlow Hub handle."""
    truth = COCO(shared / "coco" / "instances.json")
    folder = shared / "coco" / "images"
    model = detectors.save(tmp_path / "model", coco_scenes(truth, folder))
    served, server = http_server
    (served / "mask_rcnn").mkdir()
    pack(served / "mask_rcnn" / "1", model)
    handles = (
        model,
        pack(tmp_path / "zoo.tar.gz", model, "mask_rcnn_coco17/saved_model"),
        f"http://127.0.0.1:{server.server_port}/mask_rcnn/1",
    )
    for number, handle in enumerate(handles):
        output = tmp_path / f"output {number}"
        status, out, err = command_line(mask_rcnn_hub, folder, "--model", handle, "--output", output)
        assert (status, err) == (0, "")
        assert "000000416256.jpg  500 x 375  2 keyboard, 1 cat" in out
        assert segm_ap(truth, output / "detections.json") >= 0.97


def test_drawn_scenes(command_line, drawn, tmp_path):
    folder, scenes, model = drawn
    output = tmp_path / "output"
    status, out, err = command_line(mask_rcnn_hub, folder, "--model", model, "--output", output)
    assert (status, err) == (0, "")
    assert out.count("1 cat, 1 dog, 1 bench") == len(scenes) and "640 x 427" in out

    names = {f"{path.stem}_{kind}.png" for path in scenes for kind in ("overlay", "instances")}
    assert {path.name for path in output.iterdir()} == {*names, "detections.json"}
    results = json.loads((output / "detections.json").read_text())
    annotations = []
    for path, things in scenes.items():
        photo = photos.read(path)
        overlay = np.asarray(Image.open(output / f"{path.stem}_overlay.png"))
        assert overlay.shape == photo.shape and (overlay != photo).any()
        numbers = Image.open(output / f"{path.stem}_instances.png")
        assert numbers.mode == "I;16" and numbers.size == (640, 427)
        numbers = np.asarray(numbers)
        assert set(np.unique(numbers)) == {0, 1, 2, 3}
        found = [result for result in results if result["file_name"] == str(path)]
        assert [result["instance"] for result in found] == [1, 2, 3]
        for number, (thing, result) in enumerate(zip(things, found, strict=True), 1):
            same = (numbers == number) & thing.mask
            assert same.sum() / ((numbers == number) | thing.mask).sum() > 0.9
            assert (result["category_id"], result["score"]) == (thing.category, pytest.approx(thing.score, abs=1e-4))
            ymin, xmin, ymax, xmax = np.multiply(thing.box, (427, 640, 427, 640))
            assert result["bbox"] == pytest.approx([xmin, ymin, xmax - xmin, ymax - ymin], abs=0.01)
            np.testing.assert_array_equal(coco_masks.decode(result["segmentation"]), numbers == number)
            encoded = coco_masks.encode(np.asfortranarray(thing.mask.astype(np.uint8)))
            annotation = {"id": len(annotations) + 1, "image_id": int(path.stem), "category_id": thing.category}
            annotation |= {"bbox": result["bbox"], "area": int(thing.mask.sum()), "iscrowd": 0}
            annotations.append({**annotation, "segmentation": encoded})
    truth = COCO()
    images = [{"id": int(path.stem), "width": 640, "height": 427} for path in scenes]
    categories = [{"id": category} for category in (15, 17, 18)]
    truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
    truth.createIndex()
    assert segm_ap(truth, output / "detections.json") >= 0.97


def test_from_the_terminal(drawn, tmp_path):
    """In a separate process and another folder; nothing else is printed."""
    folder, scenes, model = drawn
    command = [sys.executable, ROOT / "recipes" / "mask_rcnn_hub.py", *scenes, folder / "nowhere.jpg"]
    command += ["--model", model, "--output", "found"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"mask_rcnn_hub.py: {folder}/nowhere.jpg: no such file or folder\n"
    assert done.stdout.startswith(f"mask_rcnn_hub | photos: {len(scenes)} | ")
    assert done.stdout.endswith("pictures and detections.json are in found\n")
    assert (tmp_path / "found" / "detections.json").exists()


def test_default_photos(command_line, drawn, tmp_path):
    """Without arguments it reads resources/photos. The detector knows none of them, which is no error."""
    status, out, err = command_line(mask_rcnn_hub, "--model", drawn[2], "--output", tmp_path)
    assert (status, err) == (0, "") and out.count("nothing") == 4
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    for path in photos.find(mask_rcnn_hub.PHOTOS):
        np.testing.assert_array_equal(photos.read(tmp_path / f"{path.stem}_overlay.png"), photos.read(path))


def test_min_score_max_detections_and_labels(command_line, drawn, tmp_path):
    _, scenes, model = drawn
    labels = tmp_path / "labels.pbtxt"
    labels.write_text(
        "item {\n  name: '/m/01yrx'\n  id: 17\n  display_name: 'Katze'\n}\nitem { id: 18 name: \"Hund\" }\n"
    )
    for flags, found in (
        (("--min-score", 0.5), "1 Katze, 1 Hund"),
        (("--min-score", 0), "1 Katze, 1 Hund, 1 class 15"),
        (("--max-detections", 1), "1 Katze"),
        (("--min-score", 1), "nothing"),
    ):
        flags = (*flags, "--labels", labels, "--model", model, "--output", tmp_path)
        status, out, _ = command_line(mask_rcnn_hub, next(iter(scenes)), *flags)
        assert status == 0 and f"640 x 427  {found}  " in out, out


def test_photos_with_the_same_name(command_line, drawn, tmp_path):
    _, scenes, model = drawn
    copies = []
    for name, path in zip("abc", scenes, strict=False):
        copies.append(tmp_path / name / "000000000007.png")
        copies[-1].parent.mkdir()
        copies[-1].write_bytes(path.read_bytes())
    status, _, _ = command_line(mask_rcnn_hub, *copies, "--model", model, "--output", tmp_path / "output")
    assert status == 0
    results = json.loads((tmp_path / "output" / "detections.json").read_text())
    assert {(result["file_name"], result["image_id"]) for result in results} == {
        (str(copies[0]), 7),
        (str(copies[1]), 1),
        (str(copies[2]), 2),
    }
    maps = [photos.Image.open(tmp_path / "output" / f"000000000007{end}_instances.png") for end in ("", "-2", "-3")]
    assert len({one.tobytes() for one in maps}) == 3


def test_bad_photos_among_good_ones(command_line, drawn, tmp_path):
    folder, scenes, model = drawn
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    whole = next(iter(scenes)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (14000, 14000)).save(tmp_path / "huge.png")
    bad = [tmp_path / name for name in ("empty folder", "text.jpg", "empty.jpg", "cut.png", "huge.png", "nowhere")]
    flags = ("--model", model, "--output", tmp_path / "output")
    status, out, err = command_line(mask_rcnn_hub, *bad, folder, *flags)
    assert status == 1 and out.count("1 cat, 1 dog") == len(scenes)
    assert err.count("\n") == len(bad) and all(f"{path}: " in err for path in bad), err

    written = {path: path.read_bytes() for path in (tmp_path / "output").iterdir()}
    status, out, err = command_line(mask_rcnn_hub, *bad, *flags)
    assert status == 2 and err.count("\n") == len(bad), err
    assert "pictures" not in out  # and the results of the previous run are kept
    assert {path: path.read_bytes() for path in (tmp_path / "output").iterdir()} == written
    status, out, err = command_line(mask_rcnn_hub, bad[0], *flags)  # refused before the model is loaded
    assert status == 2 and out == "" and err.count("\n") == 1


def test_invalid_detections_are_dropped(command_line, drawn, tmp_path):
    """Boxes that are non-finite, empty, inverted or outside the photo are dropped; the others are kept."""
    scenes = {}
    for path, things in drawn[1].items():
        odd = [
            (np.nan, 0.1, 0.5, 0.5),
            (0.1, 0.1, np.inf, 0.5),
            (0.5, 0.5, 0.5, 0.5),
            (0.9, 0.9, 0.1, 0.1),
            (2, 2, 3, 3),
        ]
        scenes[path] = things + [detectors.Thing(1, box, np.ones((427, 640), bool)) for box in odd]
    model = detectors.save(tmp_path / "model", scenes)
    status, out, err = command_line(mask_rcnn_hub, *scenes, "--model", model, "--output", tmp_path / "output")
    assert (status, err) == (0, "") and out.count("1 cat, 1 dog, 1 bench") == len(scenes)
    assert all(min(result["bbox"]) >= 0 for result in json.loads((tmp_path / "output" / "detections.json").read_text()))


class TwoInputs(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8), tf.TensorSpec((), tf.float32)])
    def __call__(self, pixels, threshold):
        return {"detection_boxes": tf.zeros((1, 1, 4)) + threshold, "num_detections": tf.zeros(1)}


class NoMasks(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.float32)])
    def __call__(self, pixels):
        return {"detection_boxes": tf.zeros((1, 1, 4)), "num_detections": tf.zeros(1)}


def test_unusable_models(command_line, drawn, weights, tmp_path):
    photo = next(iter(drawn[1]))
    tf.saved_model.save(NoMasks(), str(tmp_path / "boxes"))
    tf.saved_model.save(tf.Module(), str(tmp_path / "bare"))
    tf.saved_model.save(TwoInputs(), str(tmp_path / "two"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"damaged")
    (tmp_path / "page.tar.gz").write_text("<html>Please log in</html>")
    whole = pack(tmp_path / "whole.tar.gz", drawn[2]).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    for name, words in {
        "nowhere": ["no such file or folder"],
        "boxes": ["detection_classes, detection_scores, detection_masks", "input of uint8"],
        "bare": ["serving_default"],
        "two": ["it takes 2 inputs (", "pixels", "threshold", ") instead of a photo alone"],
        "empty": ["no SavedModel in it"],
        "damaged": ["cannot be loaded"],
        "page.tar.gz": ["not a whole .tar.gz archive"],
        "cut.tar.gz": ["not a whole .tar.gz archive"],
    }.items():
        status, _, err = command_line(mask_rcnn_hub, photo, "--model", tmp_path / name, "--output", tmp_path / "output")
        assert status == 2 and err.count("\n") == 1 and f"{tmp_path / name}" in err, err
        assert all(word in err for word in words), err
    assert not (tmp_path / "output").exists() and not list(weights.glob("*"))


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "link"])
def test_archives_that_escape_their_folder(command_line, drawn, tmp_path, name):
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(member, io.BytesIO())
    status, _, err = command_line(mask_rcnn_hub, "--model", archive, "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1 and f"{name} is a link or leads out" in err, err


def test_a_downloaded_model_is_kept(command_line, drawn, weights, http_server, tmp_path, monkeypatch):
    """The first address fails, the second serves the model; the next run needs no server."""
    served, server = http_server
    pack(served / "zoo.tar.gz", drawn[2], "zoo/saved_model")
    site = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(mask_rcnn_hub, "MODELS", (f"{site}/handle/1", f"{site}/zoo.tar.gz"))
    photo = next(iter(drawn[1]))
    status, out, err = command_line(mask_rcnn_hub, photo, "--output", tmp_path / "output")
    assert (status, err) == (0, "")
    assert f"downloading {site}/handle/1?tf-hub-format=compressed" in out and f"downloading {site}/zoo.tar.gz" in out
    assert "404" in out and "1 cat" in out

    server.shutdown()
    server.server_close()
    status, out, err = command_line(mask_rcnn_hub, photo, "--output", tmp_path / "output")
    assert (status, err) == (0, "") and "downloading" not in out and "1 cat" in out
    assert len(list(weights.iterdir())) == 1


def test_checkpoints_in_an_archive_are_not_kept(command_line, drawn, weights, tmp_path):
    """The model zoo's archives hold one, as large as the SavedModel."""
    zoo = tmp_path / "mask_rcnn_coco17"
    (zoo / "checkpoint").mkdir(parents=True)
    (zoo / "checkpoint" / "ckpt-0.data-00000-of-00001").write_bytes(bytes(10**6))
    shutil.copytree(drawn[2], zoo / "saved_model")
    flags = ("--model", pack(tmp_path / "zoo.tar.gz", zoo, zoo.name), "--output", tmp_path / "output")
    status, out, err = command_line(mask_rcnn_hub, next(iter(drawn[1])), *flags)
    assert (status, err) == (0, "") and "1 cat" in out
    assert list(weights.rglob("saved_model.pb")) and not list(weights.rglob("ckpt-0*"))


def test_many_kinds_in_one_photo():
    """The column stays narrow."""
    names = [
        *(name for name in "abcdefgh" for _ in range(3)),
        *["cat"] * 9,
        "a name too long for a table, by far",
    ]
    found = [instances.Instance(1, name, 1.0, (0, 0, 1, 1), np.ones((1, 1), bool), 0, 0) for name in names]
    assert instances.summary(found) == "9 cat, 3 a, 3 b, 3 c, 6 more kinds"
    assert len(instances.summary(found[-1:] * 2)) <= 32 and instances.summary([]) == "nothing"


def test_without_a_network_the_small_model_steps_in(command_line, weights, tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, NO_PROXY)
    photo, answers = mask_rcnn_hub.PHOTOS / "cat.jpg", []
    for flags in ((), ("--model", "small")):
        output = tmp_path / f"output {len(flags)}"
        status, out, err = command_line(mask_rcnn_hub, photo, "--output", output, *flags)
        assert (status, err) == (0, "") and "  1 cat  " in out
        answers.append((out, (output / "detections.json").read_text()))
    (without, found), (asked, same) = answers
    assert found == same
    lines = without.splitlines()
    assert [line.split()[0] for line in lines].count("downloading") == 2 and "downloading" not in asked
    (line,) = (line for line in lines if "cats and dogs only" in line)
    assert "the large model is not available" in line and "not available" not in asked
    for words in (*mask_rcnn_hub.MODELS, "tfhub.dev, or no answer", "by hand", "--model FILE.tar.gz"):
        assert words in line
    assert [path.name[:15] for path in weights.iterdir()] == ["mask_rcnn_pets-"]


def test_the_small_model_outlines_the_cat_and_the_dog_and_nothing_else(command_line, tmp_path):
    """The cat as the U-Net cuts it out; the portrait and the coffee have no pet."""
    status, out, err = command_line(mask_rcnn_hub, "--model", "small", "--min-score", 0.5, "--output", tmp_path)
    assert (status, err) == (0, "") and out.count("  nothing  ") == 2
    cat, dog = sorted(json.loads((tmp_path / "detections.json").read_text()), key=lambda one: one["category_id"])
    assert (cat["category_id"], dog["category_id"]) == (17, 18)
    found = coco_masks.decode(cat["segmentation"]).astype(bool)
    photo = ROOT / "resources" / "photos" / "cat.jpg"
    flags = ("--predict", photo, "--weights", "shipped", "--output", tmp_path)
    assert command_line(unet_mobilenetv2, *flags)[0] == 0
    cutout = np.asarray(Image.open(tmp_path / "cat_cutout.png"))[..., 3] > 127
    assert (found & cutout).sum() > 0.9 * (found | cutout).sum()


def test_damaged_cached_model(command_line, drawn, weights, http_server, tmp_path):
    served, server = http_server
    pack(served / "1", drawn[2])
    flags = (next(iter(drawn[1])), "--model", f"http://127.0.0.1:{server.server_port}/1", "--output", tmp_path)
    assert command_line(mask_rcnn_hub, *flags)[0] == 0
    (kept,) = weights.iterdir()
    next(kept.glob("**/saved_model.pb")).write_bytes(b"damaged")
    status, _, err = command_line(mask_rcnn_hub, *flags)
    assert status == 2 and err.count("\n") == 1 and f"remove {kept}" in err


@pytest.mark.parametrize("handle", ["http://", "http://[::1", "", "x" * 5000])
def test_invalid_model_address(command_line, weights, tmp_path, handle):
    (weights / "other").mkdir(parents=True)
    (weights / "other" / "saved_model.pb").touch()
    status, _, err = command_line(mask_rcnn_hub, "--model", handle, "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1 and "--model: " in err, err


def test_html_page_instead_of_a_model(command_line, weights, http_server, tmp_path):
    served, server = http_server
    (served / "1").write_text("<html>Please log in</html>")
    handle = f"http://127.0.0.1:{server.server_port}/1"
    status, _, err = command_line(mask_rcnn_hub, "--model", handle, "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1 and handle in err and "not a whole .tar.gz archive" in err
    assert list(weights.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--min-score", 30), "--min-score: 30 is not a number from 0 to 1"),
        (("--max-detections", 0), "--max-detections: 0 is not"),
        (("--labels", "nowhere.pbtxt"), "--labels nowhere.pbtxt: cannot be read"),
        (("--labels", ROOT / "LICENSE"), "no line like item"),
        (("--score", 1), "--help"),
    ],
)
def test_wrong_flags(command_line, tmp_path, flags, words):
    status, out, err = command_line(mask_rcnn_hub, *flags, "--output", tmp_path / "output")
    assert status == 2 and out == "" and err.count("\n") == 1 and words in err, err


def full_frame(mask, box, height, width):
    """The full-photo mask as TensorFlow's object detection API pastes it (reframe_box_masks_to_image_masks)."""
    ymin, xmin, ymax, xmax = box
    y_scale, x_scale = ymax - ymin, xmax - xmin
    photo_in_box = [-ymin / y_scale, -xmin / x_scale, (1 - ymin) / y_scale, (1 - xmin) / x_scale]
    frame = tf.image.crop_and_resize(
        mask[np.newaxis, ..., np.newaxis], np.float32([photo_in_box]), [0], (height, width), extrapolation_value=0
    )
    return frame[0, ..., 0].numpy() > 0.5


def test_pasting_matches_full_frame_masks():
    rng = np.random.default_rng(0)
    boxes = [(0, 0, 1, 1), (0.2, 0.5, 0.9, 0.5 + 1 / 199), (0.4, 0.1, 0.4 + 1 / 149, 0.8), (-0.2, -0.3, 0.5, 0.4)]
    boxes += [(0.6, 0.7, 1.4, 1.2), (-0.5, -0.5, 1.5, 1.5), (0.999, 0.999, 1, 1), (1.2, 0.1, 1.5, 0.2)]
    for _ in range(60):
        begin = rng.uniform(-0.3, 0.95, 2)
        boxes.append((*begin, *(begin + rng.uniform(0.005, 0.9, 2))))
    for box in boxes:
        coarse = rng.uniform(size=(1, 5, 5, 1)).astype(np.float32)
        mask = tf.image.resize(coarse, (33, 33)).numpy()[0, ..., 0]
        height, width = rng.integers(100, 300, 2)
        expected = full_frame(mask, box, height, width)
        part, top, left = detector.paste(mask, np.float32(box), height, width)
        pasted = np.zeros_like(expected)
        pasted[top : top + part.shape[0], left : left + part.shape[1]] = part
        assert (pasted == expected).mean() >= 0.999, box


def test_a_genuine_export(command_line, shared, weights, tmp_path):
    """A small Mask R-CNN as TensorFlow's own exporter writes it: its masks are those of the API."""
    archive = shared / "detectors" / "mask_rcnn_tiny_128.tar.gz"
    flags = (mask_rcnn_hub.PHOTOS, "--min-score", 0.4)
    answers = []
    for number in range(2):
        output = tmp_path / f"from the archive {number}"
        status, out, err = command_line(mask_rcnn_hub, *flags, "--model", archive, "--output", output)
        assert (status, err) == (0, "") and "loading " in out and ", 4 MB" in out
        answers.append((output / "detections.json").read_text())
        (kept,) = weights.iterdir()  # unpacked once
        assert kept.name.startswith("mask_rcnn_tiny_128-") and not list(kept.rglob("checkpoint"))
    model = next(kept.rglob("saved_model"))
    status, _, err = command_line(mask_rcnn_hub, *flags, "--model", model, "--output", tmp_path / "from the folder")
    assert (status, err) == (0, "")
    answers.append((tmp_path / "from the folder" / "detections.json").read_text())
    assert len(set(answers)) == 1 and len(json.loads(answers[0])) > 10

    detect_all = detector.from_saved_model((str(model),))
    photo = photos.read(mask_rcnn_hub.PHOTOS / "cat.jpg")
    answer = {name: tensor[0].numpy() for name, tensor in detect_all(photo).items()}
    compared = 0
    for mask, box in zip(answer["detection_masks"], answer["detection_boxes"], strict=True):
        if box[2] > box[0] and box[3] > box[1]:
            part, top, left = detector.paste(mask, box, *photo.shape[:2])
            pasted = np.zeros(photo.shape[:2], bool)
            pasted[top : top + part.shape[0], left : left + part.shape[1]] = part
            different = np.argwhere(pasted != full_frame(mask, box, *photo.shape[:2]))
            assert len(different) <= 0.001 * pasted.size
            compared += part.any()
    assert compared > 5


def test_pasting_into_one_pixel_or_none():
    mask = np.ones((33, 33), np.float32)
    assert detector.paste(mask, np.float32([0, 0, 1, 1]), 1, 1)[0].tolist() == [[True]]
    assert detector.paste(mask, np.float32([0.5, 0.5, 0.5, 0.5]), 10, 10)[0].size == 0


def test_overlay_labels_stay_inside_the_photo():
    """Even where a box touches the photo's top or right edge."""
    photo = np.full((300, 400, 3), 255, np.uint8)
    mask = np.ones((20, 20), bool)
    found = [
        instances.Instance(1, "person", 0.9, (0, 0.9, 0.1, 1), mask, 0, 360),
        instances.Instance(1, "person", 0.8, (0, 0, 1, 1), mask, 100, 100),
    ]
    picture = instances.overlay(photo, found)
    assert picture.shape == photo.shape
    letters = (picture < 60).all(-1)
    assert letters[:60, 300:].sum() > 40 and letters[:60, :150].sum() > 40


def test_label_map_syntax_variants(tmp_path):
    path = tmp_path / "labels.pbtxt"
    path.write_text(
        "# item { id: 9 name: 'no' }\nitem: {\n name: \"a}b\"  # }\n id: 1\n}\n"
        "item {id: 2 keypoints { id: 7 label: 'nose' } display_name: 'it\\'s # Tür'}\n"
    )
    assert label_map.read(path) == {1: "a}b", 2: "it's # Tür"}
    path.write_text(r"item { id: 3 display_name: 'caf\303\251\tau lait' }")
    assert label_map.read(path) == {3: "café\tau lait"}
    path.write_text("item { id: 4 name: 'cat' }", encoding="utf-8-sig")  # with a byte order mark
    assert label_map.read(path) == {4: "cat"}


def test_the_default_label_map_is_coco():
    names = label_map.read(mask_rcnn_hub.LABELS)
    assert len(names) == 80 and min(names) == 1 and max(names) == 90
    assert (names[1], names[17], names[18], names[90]) == ("person", "cat", "dog", "toothbrush")
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & set(names)
