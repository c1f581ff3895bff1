"""Prediction on your own photos: the files written, and the errors for unusable input."""

import json
import os
import pathlib
import sys
import types
import weakref

from app import files, inputs, models, photos
from app.datasets import synthetic
from app.predict import cutout, network, png, predict
from common import scores

import cv2
import keras
import numpy as np
import pytest
import unet_mobilenetv2
import unet_scratch
from conftest import ROOT
from pictures import KINDS, UNREADABLE, save
from PIL import Image

SHIPPED = ROOT / "weights" / "unet_mobilenetv2.weights.h5"


def drawn_photo(path, number=0, size=(384, 288)):
    """Writes a drawn pet, enlarged to `size` (width, height); returns its true label map."""
    image, label = synthetic.draw(number, "test", image_size=128)
    Image.fromarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)).save(path, quality=95)
    return cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)


def predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def pet_iou(truth, mask):
    """Border counts as pet."""
    is_pet = truth != 1
    is_found = mask != 1
    return (is_pet & is_found).sum() / (is_pet | is_found).sum()


def test_the_shipped_weights_cut_out_a_pet(command_line, tmp_path):
    """One command, no training, on drawn pets that these weights have never seen."""
    ious = []
    truths = {f"pet {number}": drawn_photo(tmp_path / f"pet {number}.png", number) for number in range(4)}
    status, out, err = command_line(
        unet_mobilenetv2, "--predict", tmp_path, "--weights", SHIPPED, "--output", tmp_path / "output"
    )
    assert (status, err) == (0, "") and "photos: 4" in out
    for name, truth in truths.items():
        mask = Image.open(tmp_path / "output" / f"{name}_mask.png")
        assert mask.mode == "L" and mask.size == (384, 288)
        values = np.asarray(mask)
        assert set(np.unique(values)) <= {0, 1, 2}
        ious.append(pet_iou(truth, values))
        cutout = Image.open(tmp_path / "output" / f"{name}_cutout.png")
        assert cutout.mode == "RGBA" and cutout.size == (384, 288)
        pixels = np.asarray(cutout)
        assert not pixels[pixels[..., 3] == 0].any()  # nothing of the background is left
        assert Image.open(tmp_path / "output" / f"{name}_overlay.png").size == (384, 288)
    assert np.mean(ious) > 0.5, ious


def test_the_shipped_weights_on_real_photos(command_line, shared, tmp_path):
    names = (shared / "pets_raw" / "annotations" / "test.txt").read_text().splitlines()
    paths = [shared / "pets_raw" / "images" / f"{line.split()[0]}.jpg" for line in names]
    flags = ("--weights", SHIPPED, "--output", tmp_path)
    status, _, err = command_line(unet_mobilenetv2, "--predict", *paths, *flags)
    assert (status, err) == (0, "")
    ious = []
    for path in paths:
        trimap = np.asarray(Image.open(shared / "pets_raw" / "annotations" / "trimaps" / f"{path.stem}.png"))
        mask = np.asarray(Image.open(tmp_path / f"{path.stem}_mask.png"))
        assert mask.shape == trimap.shape == photos.read(path).shape[:2]
        ious.append(pet_iou(trimap - 1, mask))
        alpha = np.asarray(Image.open(tmp_path / f"{path.stem}_cutout.png"))[..., 3]
        assert np.median(alpha[trimap == 2]) == 0 and np.median(alpha[trimap == 1]) == 255
    assert np.mean(ious) > 0.85, ious
    assert [line["path"] for line in predictions(tmp_path)] == [str(path) for path in paths]


def test_a_cutout_is_transparent_outside_and_opaque_inside():
    """The outline follows the photo's edge, though the network's output is ten times smaller."""
    photo = np.full((300, 400, 3), (200, 60, 40), np.uint8)
    inside = np.zeros((300, 400), bool)
    inside[90:215, 115:290] = True
    photo[inside] = (30, 90, 200)
    coarse = cv2.resize(inside.astype(np.float32), (40, 30), interpolation=cv2.INTER_AREA)
    probabilities = np.dstack([1 - coarse, coarse]) * 0.9 + 0.05
    label, foreground = cutout.enlarge(photo, probabilities, ("background", "thing"))
    assert (label == inside).mean() > 0.999
    bilinear = cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_LINEAR) > 0.5
    assert ((foreground > 0.5) != inside).sum() < 0.2 * (bilinear != inside).sum()
    alpha = cutout.alpha(foreground)
    deep = cv2.erode(inside.astype(np.uint8), np.ones((15, 15)), borderValue=1) == 1
    far = cv2.dilate(inside.astype(np.uint8), np.ones((15, 15))) == 0
    assert alpha.dtype == np.uint8 and (alpha[deep] == 255).all() and (alpha[far] == 0).all()


def test_classes_without_a_majority():
    """The largest probability wins, also where none exceeds a half."""
    photo = np.full((120, 160, 3), (200, 60, 40), np.uint8)
    photo[:, 80:] = (30, 90, 200)
    probabilities = np.zeros((12, 16, 4), np.float32)
    probabilities[:, :8], probabilities[:, 8:] = (0.1, 0.3, 0.2, 0.4), (0.05, 0.36, 0.3, 0.29)
    label, foreground = cutout.enlarge(photo, probabilities, ("cat", "dog", "background", "sofa"))
    assert (label[:, :80] == 3).mean() > 0.99 and (label[:, 80:] == 1).mean() > 0.99
    assert (cutout.cut_out(photo, foreground)[..., 3] > 127).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "opacity"), [("pet", 255), ("background", 0)])
def test_a_photo_that_is_all_one_class(name, opacity):
    photo = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    probabilities = np.zeros((8, 8, 3), np.float32)
    probabilities[..., scores.TRIMAP.index(name)] = 1
    label, foreground = cutout.enlarge(photo, probabilities, scores.TRIMAP)
    assert (label == scores.TRIMAP.index(name)).all()
    result = cutout.cut_out(photo, foreground)
    assert (result[..., 3] == opacity).all()
    np.testing.assert_array_equal(result[..., :3], photo if opacity else 0 * photo)


@pytest.mark.parametrize("scale", [1, 4])  # the outline of the larger one comes from a copy
def test_the_border_is_a_band_around_the_outline(scale):
    height, width, half = 300 * scale, 500 * scale, round(cutout.BORDER * scale)
    photo = np.full((height, width, 3), (200, 60, 40), np.uint8)
    photo[:, : 200 * scale] = (30, 90, 200)
    coarse = cv2.resize((photo[..., 2] == 200).astype(np.float32), (50, 30), interpolation=cv2.INTER_AREA)
    label, _ = cutout.enlarge(photo, np.dstack([coarse, 1 - coarse, 0 * coarse]), scores.TRIMAP)
    pet, background, border = range(3)
    assert (label[:, : 200 * scale - half - scale] == pet).all()
    assert (label[:, 200 * scale - half + scale : 200 * scale + half - scale] == border).all()
    assert (label[:, 200 * scale + half + scale :] == background).all()


@pytest.mark.parametrize("scale", [1, 5])  # the outlines of the larger one come from a copy
def test_a_cutout_keeps_whiskers(scale):
    """The network sees them as a blur around a dark pet; the photo says where they are."""
    canvas = np.zeros((300 * scale, 400 * scale), np.uint8)
    center = (200 * scale, 150 * scale)
    cv2.ellipse(canvas, center, (90 * scale, 70 * scale), 0, 0, 360, 255, -1, cv2.LINE_AA)
    for angle in range(0, 360, 15):
        cv2.ellipse(canvas, center, (110 * scale, 90 * scale), 0, angle, angle + 0.7, 255, -1, cv2.LINE_AA)
    opacity = canvas / np.float32(255)
    mixed = opacity[..., np.newaxis] * (70, 50, 40) + (1 - opacity[..., np.newaxis]) * (200, 210, 190)
    photo = np.rint(mixed).astype(np.uint8)
    coarse = cv2.GaussianBlur(cv2.resize(opacity, (100, 75), interpolation=cv2.INTER_AREA), (0, 0), 2)
    label, foreground = cutout.enlarge(photo, np.dstack([1 - coarse, coarse]), ("background", "thing"))
    found = cutout.cut_out(photo, foreground)[..., 3]
    assert label.shape == found.shape == opacity.shape
    near = cv2.dilate(np.uint8((opacity > 0) & (opacity < 1)), np.ones((5 * scale, 5 * scale))) > 0
    enlarged = cv2.resize(coarse, opacity.shape[::-1], interpolation=cv2.INTER_LINEAR)
    steep = ((enlarged - 0.5) * 3 + 0.5).clip(0, 1)
    before, after = (np.abs(alpha - opacity)[near].mean() for alpha in (steep, found / 255))
    assert after < 0.5 * before, (before, after)


def test_good_and_bad_photos_together(command_line, weights, tmp_path):
    """Each photo gets its pictures, upright and of its own size, and each bad one a line."""
    good = [make(tmp_path / kind) for kind, make in KINDS.items()]
    (tmp_path / "other folder").mkdir()
    good.append(KINDS["grey"](tmp_path / "other folder" / "grey"))
    for name, size in (("one pixel.png", (1, 1)), ("narrow.png", (3, 200))):
        Image.new("RGB", size).save(tmp_path / name)
        good.append(tmp_path / name)
    bad = [tmp_path / f"bad {kind}.png" for kind in UNREADABLE if kind != "forbidden"]
    for path in bad:
        UNREADABLE[path.stem.removeprefix("bad ")][0](path)
    output = tmp_path / "output"
    flags = ("--weights", weights, "--output", output)
    status, _, err = command_line(unet_scratch, "--predict", tmp_path, *flags)
    assert status == 1 and err.count("\n") == len(bad) and all(f"{path}: " in err for path in bad), err
    lines = predictions(output)
    assert {line["path"] for line in lines} == {str(path) for path in good}
    for line in lines:
        path = pathlib.Path(line["path"])
        name = path.relative_to(tmp_path).with_suffix("")
        expected = {"one pixel": [1, 1], "narrow": [3, 200]}.get(path.stem, [64, 48])
        assert line["size"] == expected and sum(line["shares"].values()) == pytest.approx(1, abs=1e-4)
        for kind in ("mask", "overlay", "cutout"):
            assert list(Image.open(output / f"{name}_{kind}.png").size) == expected

    (tmp_path / "empty").mkdir()
    status, _, err = command_line(unet_scratch, "--predict", *bad, tmp_path / "empty", *flags)
    assert status == 2 and err.count("\n") == len(bad) + 1 and "no picture in this folder" in err, err


@pytest.mark.parametrize("side", [120, 1500])  # the means of the larger one come from a small copy
def test_a_cutout_loses_the_old_background(side):
    """A pet in two colours with a soft edge, known exactly, before green: what is laid on black has no green rim."""
    y, x = np.mgrid[:side, :side] / side
    share = np.clip((0.3 - np.hypot(y - 0.5, x - 0.5)) * 40 + 0.5, 0, 1)[..., np.newaxis]
    pet = np.where(x[..., np.newaxis] < 0.5, (200, 120, 60), (90, 80, 140))
    photo = np.rint(share * pet + (1 - share) * (20, 230, 40)).astype(np.uint8)
    opacity = np.rint(255 * share[..., 0]).astype(np.uint8)
    colors = cutout.colors(photo, opacity)
    assert colors.shape == photo.shape and (colors == photo)[(opacity == 0) | (opacity == 255)].all()
    edge = (opacity > 12) & (opacity < 243) & (np.abs(x - 0.5) > 0.05)
    before, after = ((share * np.abs(one - pet.astype(float)))[edge].mean() for one in (photo, colors))
    assert after < 0.3 * before and before > 15


def test_shards_are_disjoint_and_complete_and_resume(command_line, weights, tmp_path):
    for number in range(5):
        drawn_photo(tmp_path / f"pet {number}.png", number, size=(64, 48))
    flags = ("--predict", tmp_path, "--weights", weights, "--output", tmp_path / "output")
    paths = []
    for part in (1, 2):
        status, _, err = command_line(unet_scratch, *flags, "--shard", f"{part}/2")
        assert (status, err) == (0, "")
        lines = (tmp_path / "output" / f"predictions-{part}-of-2.jsonl").read_text().splitlines()
        paths += [json.loads(line)["path"] for line in lines]
    assert sorted(paths) == sorted(str(path) for path in tmp_path.glob("*.png"))

    # A shard killed while writing its second line does only what is missing. Lines of other photos stay.
    journal = tmp_path / "output" / "predictions-1-of-2.jsonl"
    first, second, *_ = journal.read_text().splitlines(keepends=True)
    journal.write_text('{"path": "elsewhere.png"}\n' + first + second[:20])
    done, missing = (tmp_path / "output" / f"pet {number}_mask.png" for number in (0, 2))
    missing.unlink()
    before = done.stat().st_mtime_ns
    status, out, _ = command_line(unet_scratch, *flags, "--shard", "1/2")
    assert status == 0 and "photos: 2" in out and "done before: 1" in out
    assert missing.exists() and done.stat().st_mtime_ns == before
    again = [json.loads(line)["path"] for line in journal.read_text().splitlines()]
    assert again == ["elsewhere.png", *(str(tmp_path / f"pet {number}.png") for number in (0, 2, 4))]


def written(folder):
    return {str(path.relative_to(folder)): np.asarray(Image.open(path), int) for path in folder.rglob("*.png")}


def test_results_of_other_photos_stay(command_line, weights, tmp_path):
    """Photos of one name: added later, in subfolders, in another folder, with and without --resume and --shard."""
    dcim, output = tmp_path / "DCIM", tmp_path / "output"
    for number, name in enumerate(("a", "b", "elsewhere/a", "100CANON/a")):
        (dcim / name).parent.mkdir(parents=True, exist_ok=True)
        drawn_photo(dcim / f"{name}.jpg", number, size=(64, 48))
    (dcim / "elsewhere").rename(tmp_path / "elsewhere")
    flags = ("--weights", weights, "--output", output)
    before = {}
    kinds = ("mask", "overlay", "cutout")
    for arguments, added in (
        (["--predict", dcim], ["a", "b", "100CANON/a"]),
        (["--predict", dcim, "--resume"], ["a-2"]),
        (["--predict", tmp_path / "elsewhere"], ["a-3"]),
        (["--predict", tmp_path / "elsewhere", dcim, "--shard", "1/1"], ["c"]),
    ):
        if added == ["a-2"]:
            save(dcim / "a", ".heic")
        if added == ["c"]:
            save(dcim / "c", ".gif")
        status, out, err = command_line(unet_scratch, *arguments, *flags)
        assert (status, err) == (0, "")
        assert ("names with a number" in out) == bool({"a-2", "a-3"} & {*added})
        after = written(output)
        assert after.keys() - before.keys() == {f"{name}_{kind}.png" for name in added for kind in kinds}
        for name, pixels in before.items():  # a network's answer depends a little on the size of the batch
            assert np.abs(after[name] - pixels).mean() < 0.1, name
        before = after
    lines = predictions(output)
    assert sorted(line["name"] for line in lines) == ["100CANON/a", "a", "a-2", "a-3", "b"]
    by_name = {line["name"]: line["path"] for line in lines}
    assert by_name["a-2"] == str(dcim / "a.heic") and by_name["a-3"] == str(tmp_path / "elsewhere" / "a.jpg")
    status, out, _ = command_line(unet_scratch, "--predict", dcim, *flags, "--resume")
    assert "photos: 0," in out and "done before: 5" in out  # one of them by the shard


def test_runs_at_the_same_time_lose_no_line(tmp_path, weights):
    journals = [predict.Journal(tmp_path, ("pet", "background"), weights, None) for _ in range(2)]
    items = [inputs.Item(pathlib.Path(f"{name}.jpg"), name) for name in "abcd"]
    for journal, own in zip(journals, (items[:2], items[2:]), strict=True):
        assert journal.select(own, skip_done=True) == own
    (tmp_path / "predictions.jsonl").write_text('5\n{"path": "elsewhere.png"}\n{"path": "cut')
    for item in (*items, items[0]):
        journal = journals[item in items[2:]]
        journal.add(item, (8, 8), np.array([0.5, 0.5]), 0.1)
    for journal in journals:
        journal.finish()
    assert [line.get("name") for line in predictions(tmp_path)] == [None, "b", "c", "d", "a"]


def test_a_folder_in_the_way_of_a_photo(command_line, weights, tmp_path):
    """The results of one photo would have the name of another's folder; one of the two fails."""
    for name in ("cat_mask.png/x", "cat", "dog"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        drawn_photo(tmp_path / f"{name}.jpg", size=(64, 48))
    flags = ("--weights", weights, "--output", tmp_path / "output")
    status, _, err = command_line(unet_scratch, "--predict", tmp_path, *flags)
    assert status == 1 and err.count("\n") == 1 and "cat_mask.png is in the way" in err
    done = {line["name"] for line in predictions(tmp_path / "output")}
    assert "dog" in done and len(done & {"cat", "cat_mask.png/x"}) == 1


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b"])
def test_invalid_shards(command_line, tmp_path, shard):
    status, _, err = command_line(unet_scratch, "--predict", tmp_path, "--shard", shard)
    assert status == 2 and f"--shard: {shard}" in err and err.count("\n") == 1


def other_recipe(path, _):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs), name="unet_mobilenetv2")
    models.save(model, path / "x.keras", scores.TRIMAP)
    return path / "x.keras", "of another recipe, unet_mobilenetv2"


def other_classes(path, _):
    unet_scratch.build_model(32, 5).save_weights(path / "x.weights.h5")
    return path / "x.weights.h5", "number of classes"


def no_picture(path, _):
    inputs = keras.Input((10,))
    models.save(keras.Model(inputs, keras.layers.Dense(3)(inputs), name="unet_scratch"), path / "x.keras", "abc")
    return path / "x.keras", "each pixel"


def cut_file(path, weights):
    (path / "x.keras").write_bytes(weights.read_bytes()[:10000])
    return path / "x.keras", "damaged"


def text_file(path, _):
    (path / "x.weights.h5").write_text("text")
    return path / "x.weights.h5", "damaged"


@pytest.mark.parametrize(
    "make", [other_recipe, other_classes, no_picture, cut_file, text_file, lambda *_: ("nowhere", "no such file")]
)
def test_weights_that_do_not_fit(command_line, weights, tmp_path, make):
    drawn_photo(tmp_path / "a.png")
    path, words = make(tmp_path, weights)
    status, out, err = command_line(
        unet_scratch, "--predict", tmp_path / "a.png", "--weights", path, "--output", tmp_path / "output"
    )
    assert status == 2 and err.count("\n") == 1 and f"--weights {path}" in err and words in err, err
    assert out == "" and not (tmp_path / "output").exists()


def test_nothing_trained_yet(command_line, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    drawn_photo(tmp_path / "a.png")
    status, _, err = command_line(unet_scratch, "--predict", tmp_path / "a.png", "--output", tmp_path / "output")
    assert status == 2 and "train first" in err and err.count("\n") == 1


class Halves:
    """A network that sees a pet in the left half of every photo."""

    class_names = ("pet", "background")

    def segment(self, pictures):
        left = np.float32([[1, 0], [1, 0]])
        return np.stack([np.dstack([left, 1 - left]) for _ in pictures])


@pytest.mark.parametrize("cores", [1, 64])
def test_memory_does_not_grow_with_the_number_of_photos(tmp_path, monkeypatch, cores):
    """At most two batches and the read-ahead are in memory at once, and the photos come in their order."""
    for number in range(60):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number:02}.png")
    alive, read = set(), photos.read_with_alpha

    def watched(path):
        photo = read(path)
        alive.add(id(photo.pixels))
        weakref.finalize(photo.pixels, alive.discard, id(photo.pixels))
        return photo

    monkeypatch.setattr(photos, "read_with_alpha", watched)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    counts = inputs.Counts()
    items = inputs.find_all([tmp_path], tmp_path / "output", counts)
    names = []
    most = 0
    for item, result in predict.write_photos(Halves(), items, tmp_path / "output", counts):
        names.append(item.name)
        most = max(most, len(alive))
        np.testing.assert_allclose(result["fractions"], 0.5)
    assert names == [item.name for item in items]
    assert most <= 2 * network.BATCH_SIZE + inputs.READ_AHEAD + 1


def test_hidden_colours_are_seen_nowhere(tmp_path):
    """What is transparent stays so, in whatever colours; what shows through in part keeps its own colour."""
    photo = np.full((40, 60, 4), (200, 120, 60, 255), np.uint8)
    photo[:20, :15, 3], photo[20:, :10, 3] = 0, 128
    results = []
    for name, hidden in (("green", (0, 255, 0)), ("black", (0, 0, 0))):
        photo[:20, :15, :3] = hidden
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(photo).save(folder / "a.png")
        counts = inputs.Counts()
        items = inputs.find_all([folder], folder / "output", counts)
        assert len(list(predict.write_photos(Halves(), items, folder / "output", counts))) == 1
        results.append({kind: (folder / "output" / f"a_{kind}.png") for kind in ("mask", "overlay", "cutout")})
    for kind, path in results[0].items():
        assert path.read_bytes() == results[1][kind].read_bytes(), kind
    pixels = np.asarray(Image.open(results[0]["cutout"])).astype(int)
    assert not pixels[:20, :15].any()
    assert np.abs(pixels[24:, :8] - (200, 120, 60, 128)).max() <= 2
    assert np.abs(pixels[2:, 17:20] - (200, 120, 60, 255)).max() <= 2


def test_a_fault_in_writing_is_raised(tmp_path, monkeypatch):
    for number in range(20):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:02}.png")
    write = png.write

    def faulty(path, *picture):
        if path.name.startswith("05"):
            raise RuntimeError("a fault")
        write(path, *picture)

    monkeypatch.setattr(png, "write", faulty)
    counts = inputs.Counts()
    items = inputs.find_all([tmp_path], tmp_path / "output", counts)
    names = []
    with pytest.raises(RuntimeError, match="a fault"):
        for item, _ in predict.write_photos(Halves(), items, tmp_path / "output", counts):
            names.append(item.name)
    assert names == ["00", "01", "02", "03", "04"]


def test_the_shipped_weights_file():
    """Half precision, small enough for git, with its class names."""
    import h5py

    assert SHIPPED.stat().st_size <= 25e6
    kinds = []
    with h5py.File(SHIPPED) as file:
        file.visititems(lambda _, item: kinds.append(item.dtype) if isinstance(item, h5py.Dataset) else None)
        assert json.loads(file.attrs["class_names"]) == list(scores.TRIMAP)
    assert {kind for kind in kinds if kind.kind == "f"} == {np.dtype("float16")}


def test_resume_skips_only_the_same_file_with_the_same_weights(command_line, weights, tmp_path):
    for number in range(3):
        drawn_photo(tmp_path / f"{number}.png", number, size=(64, 48))
    output = tmp_path / "output"
    flags = ("--predict", tmp_path, "--output", output, "--resume", "--weights")
    assert command_line(unet_scratch, *flags, weights)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.png")}
    drawn_photo(tmp_path / "1.png", number=7, size=(64, 48))  # a different photo, same name
    status, out, _ = command_line(unet_scratch, *flags, weights)
    assert status == 0 and "photos: 1" in out and "done before: 2" in out
    changed = {path.name for path in output.glob("*.png") if path.stat().st_mtime_ns != before[path]}
    assert changed == {"1_mask.png", "1_overlay.png", "1_cutout.png"} and len(predictions(output)) == 3

    keras.utils.set_random_seed(2)
    models.save(unet_scratch.build_model(64, 3), tmp_path / "other.keras", scores.TRIMAP)
    status, out, _ = command_line(unet_scratch, *flags, tmp_path / "other.keras")
    assert status == 0 and "photos: 3" in out and "done before: 0" in out
    assert len({line["weights"] for line in predictions(output)}) == 1 and len(predictions(output)) == 3


def test_an_error_in_build_model_is_not_a_damaged_file(monkeypatch, tmp_path, command_line):
    def build_model(image_size, num_classes):
        raise RuntimeError("a fault of my own")

    monkeypatch.setattr(unet_mobilenetv2, "build_model", build_model)
    drawn_photo(tmp_path / "a.png")
    with pytest.raises(RuntimeError, match="a fault of my own"):
        command_line(
            unet_mobilenetv2, "--predict", tmp_path / "a.png", "--weights", SHIPPED, "--output", tmp_path / "o"
        )


def test_a_traceback_on_demand(command_line, tmp_path, monkeypatch):
    """What `python -X dev` prints before the line."""
    flags = {name: getattr(sys.flags, name) for name in sys.flags.__match_args__}
    monkeypatch.setattr(sys, "flags", types.SimpleNamespace(**flags | {"dev_mode": True}))
    (tmp_path / "x.keras").write_bytes(b"PK")
    command = ("--predict", ROOT / "resources" / "photos", "--weights", tmp_path / "x.keras", "--output", tmp_path)
    status, _, err = command_line(unet_scratch, *command)
    *trace, last = err.splitlines()
    assert status == 2 and "Traceback (most recent call last):" in trace
    assert last.startswith("unet_scratch.py: --weights")
