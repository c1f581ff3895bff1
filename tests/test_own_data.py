"""A person's own pictures and masks: every layout trains, scores and predicts; every mistake in them is named."""

import json

from common import data, folders, masks
from common.files import InputError

import numpy as np
import pytest
import unet_scratch
from PIL import Image

QUICK = ("--image-size", 32, "--epochs", 1, "--batch-size", 4)
SHAPES = ("disc", "square", "cross", "stripe", "ring")


def draw(classes, number, height=40, width=56):
    """A picture with one field of each class, and its mask with ids from 0."""
    rng = np.random.default_rng(number)
    label = np.zeros((height, width), np.uint8)
    for index in range(1, classes):
        left = (index - 1) * width // (classes - 1)
        top = rng.integers(0, height // 2)
        label[top : top + height // 2, left : left + width // classes] = index
    colors = np.random.default_rng(0).integers(0, 255, (classes, 3))
    return (colors[label] + rng.integers(-9, 9, (*label.shape, 3))).clip(0, 255).astype(np.uint8), label


def make(folder, classes, count=20, values=None, kind="L", names=None, masks_in="masks"):
    """Writes a data set; values: of the masks, for each class id."""
    values = (
        np.arange(256, dtype=np.uint8) if values is None else np.array([*values, *range(len(values), 256)], np.uint8)
    )
    (folder / "images").mkdir(parents=True)
    (folder / masks_in).mkdir(parents=True)
    for number in range(count):
        picture, label = draw(classes, number)
        Image.fromarray(picture).save(folder / "images" / f"{number:02}.jpg", quality=95)
        mask = Image.fromarray(values[label])
        if kind == "P":
            mask.putpalette(np.random.default_rng(1).integers(0, 255, 768, dtype=np.uint8).tobytes())
        mask.save(folder / masks_in / f"{number:02}.png")
    if names:
        (folder / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("classes", "options", "names"),
    [
        (3, {}, ("background", "class 1", "class 2")),
        (5, {"names": SHAPES, "kind": "P"}, SHAPES),
        (4, {"names": SHAPES[:4], "values": (1, 2, 3, 4)}, SHAPES[:4]),
        (2, {"values": (0, 255)}, ("background", "foreground")),
        (2, {"values": (0, 255), "names": ("Straße", "猫")}, ("Straße", "猫")),
        (3, {"values": (1, 2, 3)}, ("class 1", "class 2", "class 3")),
        (3, {"values": (1, 2, 3), "masks_in": "annotations/trimaps"}, ("pet", "background", "border")),
    ],
)
def test_every_way_to_write_masks(tmp_path, classes, options, names):
    folder = make(tmp_path / "own data", classes, **options)
    own = data.load(str(folder), 32, 4)
    assert own.class_names == names and own.counts == {"train": 16, "validation": 2, "test": 2}
    for split in ("validation", "test"):
        for images, labels in getattr(own, split):
            assert images.shape[1:] == (32, 32, 3) and set(np.unique(labels)) == set(range(classes))
    again = data.load(str(folder), 32, 4)
    for (_, one), (_, other) in zip(own.test, again.test, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("classes", "names"), [(3, None), (5, SHAPES)])
def test_own_data_train_score_and_predict(command_line, tmp_path, classes, names):
    folder = make(tmp_path / "data", classes, names=names, values=None)
    output = tmp_path / "output"
    status, out, err = command_line(unet_scratch, "--data", folder, *QUICK, "--output", output)
    assert (status, err) == (0, "") and "16 train, 2 validation, 2 test" in out
    names = names or ("background", "class 1", "class 2")
    metrics = json.loads((output / "metrics.json").read_text())
    assert tuple(metrics["test"]["iou"]) == tuple(names) and "pet_iou_binary" not in metrics["test"]
    assert all(f"\n{name} " in out for name in names)

    flags = ("--predict", folder / "images", "--weights", output / "unet_scratch.keras", "--output", tmp_path / "found")
    status, out, err = command_line(unet_scratch, *flags)
    assert (status, err) == (0, "")
    mask = Image.open(tmp_path / "found" / "00_mask.png")
    assert mask.mode == "P" and mask.size == (56, 40) and np.asarray(mask).max() < classes
    assert (tmp_path / "found" / "00_cutout.png").exists() == ("background" in names)
    first = json.loads((tmp_path / "found" / "predictions.jsonl").read_text().splitlines()[0])
    assert tuple(first["shares"]) == tuple(names) and sum(first["shares"].values()) == pytest.approx(1, abs=1e-3)


def test_ignored_pixels_count_nowhere(command_line, tmp_path):
    """A third of each mask is 255; a network that is right elsewhere has a perfect score."""
    folder = make(tmp_path / "data", 2, names=("low", "high", "255 ignore"))
    for path in (folder / "masks").iterdir():
        label = np.array(Image.open(path))
        label[:, ::3] = 255
        Image.fromarray(label).save(path)
    own = data.load(str(folder), 32, 4)
    assert own.class_names == ("low", "high")
    images, labels = next(iter(own.train))
    assert set(np.unique(labels)) == {0, 1, 255} and images.shape == (4, 32, 32, 3)
    status, _, err = command_line(unet_scratch, "--data", folder, *QUICK, "--output", tmp_path / "output")
    assert (status, err) == (0, "")
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert tuple(metrics["test"]["iou"]) == ("low", "high") and 0 < metrics["test"]["pixel_accuracy"] <= 1


def test_lists_of_the_splits(tmp_path):
    folder = make(tmp_path / "data", 3, values=(1, 2, 3), masks_in="annotations/trimaps")
    (folder / "annotations" / "trainval.txt").write_text("".join(f"{number:02} 1 1 1\n" for number in range(15)))
    (folder / "annotations" / "test.txt").write_text("".join(f"{number:02} 1 1 1\n" for number in range(15, 20)))
    assert data.load(str(folder), 32, 4).counts == {"train": 13, "validation": 2, "test": 5}


def test_real_pets_in_oxford_s_layout(command_line, shared):
    status, out, err = command_line(unet_scratch, "--data", shared / "pets_raw", "--check-data")
    assert (status, err) == (0, "")
    assert "130 pairs can be used, 100 to train with, 30 to test" in out
    assert "pet" in out and "border" in out and "problems: none" in out


@pytest.fixture
def spoilt(tmp_path):
    """A data set with one problem of each kind, by the file's name."""
    folder = make(tmp_path / "data", 3, count=12)
    picture, label = draw(3, 0)
    images, label_maps = folder / "images", folder / "masks"

    def add(name, picture=picture, label=label):
        Image.fromarray(picture).save(images / f"{name}.png")
        Image.fromarray(label).save(label_maps / f"{name}.png")

    add("no_mask")
    (label_maps / "no_mask.png").unlink()
    add("no_picture")
    (images / "no_picture.png").unlink()
    add("other_size", label=label[:-1])
    add("values", label=np.where(label == 2, 200, label).astype(np.uint8))
    add("colours", label=np.dstack([label] * 3))
    add("all_one", label=np.zeros_like(label))
    add("cut")
    (images / "cut.png").write_bytes((images / "cut.png").read_bytes()[:500])
    add("no_png")
    (label_maps / "no_png.png").write_text("text")
    (folder / "classes.txt").write_text("sky\nsea\nland\n")
    return folder


PROBLEMS = {
    "other_size.png": "sizes differ",
    "values.png": "values outside the 3 classes: 200",
    "colours.png": "8-bit grey or palette",
    "cut.png": "damaged",
    "no_png.png": "unreadable",
}
REMARKS = {"no_mask.png": "no partner", "no_picture.png": "no partner", "all_one.png": "all one class (sky)"}


def test_every_problem_is_found_by_name(command_line, spoilt):
    status, out, err = command_line(unet_scratch, "--data", spoilt, "--check-data")
    assert status == 2 and err.count("\n") == 1 and f"{len(PROBLEMS)} problems" in err
    remarks, problems = out.split("problems: ")
    for lines, expected in ((problems, PROBLEMS), (remarks.split("remarks: ")[1], REMARKS)):
        for name, words in expected.items():
            assert any(name in line and words in line for line in lines.splitlines()), (name, lines)
    assert problems.count("\n") == len(PROBLEMS) + 1
    assert "13 pairs can be used" in out and "40 x" not in err
    assert not (spoilt.parent / "output").exists()


def test_training_stops_on_what_would_train_wrong(command_line, spoilt, tmp_path):
    status, out, err = command_line(unet_scratch, "--data", spoilt, *QUICK, "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1 and "--check-data" in err and "Epoch" not in out
    for name in (*PROBLEMS, "all_one.png"):
        (spoilt / "masks" / name).unlink()
    status, _, err = command_line(unet_scratch, "--data", spoilt, *QUICK, "--output", tmp_path / "output")
    assert (status, err) == (0, "")  # what has no partner does no harm


def test_a_smoothed_mask_is_told(tmp_path):
    """0 and 255 with greys between them: what a resize with interpolation leaves behind."""
    folder = make(tmp_path / "data", 2, values=(0, 255))
    label = np.array(Image.open(folder / "masks" / "03.png"))
    label[0, :5] = range(100, 105)
    Image.fromarray(label).save(folder / "masks" / "03.png")
    found = folders.survey(folder)
    assert found.problems == [f"{folder}/masks/03.png: values outside the 2 classes: 100, 101, 102, 103, 104"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "masks").rename(folder / "labels"), "it has to hold images/ and masks/"),
        (lambda folder: [path.unlink() for path in (folder / "masks").iterdir()], "only 0 pairs"),
        (lambda folder: (folder / "classes.txt").write_text("one\n"), "2 to 255 classes"),
        (lambda folder: (folder / "classes.txt").write_text("a\nb\nb\n"), "none twice"),
        (lambda folder: (folder / "classes.txt").write_bytes(b"\xff\xfe\xfa"), "text in UTF-8"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, spoil, words):
    folder = make(tmp_path / "data", 3)
    spoil(folder)
    with pytest.raises(InputError, match=words):
        data.load(str(folder), 32, 4)


def test_one_class_alone_is_refused(tmp_path):
    folder = make(tmp_path / "data", 3, values=(1, 1, 1), names=SHAPES[:3])
    with pytest.raises(InputError, match="one class alone"):
        data.load(str(folder), 32, 4)


def test_check_data_wants_a_folder(command_line, tmp_path):
    status, _, err = command_line(unet_scratch, "--check-data", "--data", "synthetic")
    assert status == 2 and "--data DIR" in err and err.count("\n") == 1


def test_a_picture_for_255_classes(tmp_path):
    names = [f"class {index}" for index in range(255)]
    colors = masks.palette(names)
    assert colors.shape == (255, 3) and len(np.unique(colors[:100], axis=0)) == 100
    label = np.arange(256, dtype=np.uint8).reshape(16, 16)
    example = masks.Example(np.zeros((16, 16, 3), np.uint8), label, label[:, ::-1] % 255, 0.5)
    masks.mosaic(tmp_path / "many.png", [example], names[:40], "forty classes")
    assert Image.open(tmp_path / "many.png").height > 250
