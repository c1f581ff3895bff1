"""Your own images and masks: every layout trains, scores and predicts; every problem is reported."""

import json
import os
import signal
import struct
import sys
import zlib

from app import files, flags, models, photos, recorder, report
from app.cli import InputError
from app.datasets import load
from app.predict import cutout, network
from common import losses, masks, scores

import keras
import numpy as np
import pytest
import unet_mobilenetv2
import unet_scratch
from own_data import draw, load_data, make, scan
from PIL import Image

QUICK = ("--image-size", 32, "--epochs", 1, "--batch-size", 4)
SHAPES = ("disc", "square", "cross", "stripe", "ring")


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
def test_mask_formats(tmp_path, classes, options, names):
    folder = make(tmp_path / "own data", classes, **options)
    own = load_data(str(folder), 32, 4)
    assert own.class_names == names and own.counts == {"train": 16, "validation": 2, "test": 2}
    for split in ("validation", "test"):
        for images, labels in getattr(own, split):
            assert images.shape[1:] == (32, 32, 3) and set(np.unique(labels)) == set(range(classes))


@pytest.fixture
def read_photos(monkeypatch):
    """The photos that are read, in this order."""
    paths = []
    read = photos.read
    monkeypatch.setattr(photos, "read", lambda path: paths.append(path) or read(path))
    return paths


def all_batches(data):
    epoch = list(data.train.take(2 * data.steps_per_epoch)) + list(data.validation) + list(data.test)
    return [part.numpy() for batch in epoch for part in batch]


def test_photos_are_read_once_and_a_resumed_run_checks_nothing(tmp_path, read_photos):
    """Masks with values from 1, so they are no class ids, and one that is left out."""
    folder = make(tmp_path / "data", 3, names=(*SHAPES[:3], "255 ignore"), values=(1, 2, 3))
    Image.fromarray(np.full((40, 56), 255, np.uint8)).save(folder / "masks" / "07.png")
    dataset = load.load(str(folder), image_size=32)
    data = load.pipelines(dataset, 32, 4, seed=0)
    assert len(read_photos) == 20 == len(set(read_photos)) and sum(data.counts.values()) == 19
    batches = all_batches(data)
    assert len(read_photos) == 20

    read_photos.clear()
    findings = json.loads(json.dumps(dataset.findings))
    again = load.load(str(folder), image_size=32, findings=findings)
    assert not read_photos and again.class_names == SHAPES[:3]
    for one, other in zip(batches, all_batches(load.pipelines(again, 32, 4, seed=0)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(read_photos) == 19

    limited = load.load(str(folder), image_size=32, findings=findings, limit=3)
    assert load.pipelines(limited, 32, 4, seed=0).counts == {"train": 3, "validation": 2, "test": 2}
    (folder / "masks" / "03.png").touch()  # as a copy is newer
    assert load.load(str(folder), image_size=32, findings=findings).class_names == SHAPES[:3]
    with (folder / "masks" / "03.png").open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=f"the data in {folder} changed since the interruption"):
        load.load(str(folder), image_size=32, findings=findings)


def test_own_data_train_score_and_predict(command_line, tmp_path):
    classes, names = 5, SHAPES
    folder, output = make(tmp_path / "data", classes, names=names), tmp_path / "output"
    status, out, err = command_line(unet_scratch, "--data", folder, *QUICK, "--output", output)
    assert (status, err) == (0, "") and "16 train, 2 validation, 2 test" in out
    metrics = json.loads((output / "metrics.json").read_text())
    assert tuple(metrics["test"]["iou"]) == tuple(names) and "pet_iou_binary" not in metrics["test"]
    assert all(f"\n{name} " in out for name in names)

    flags = ("--predict", folder / "images", "--weights", output / "unet_scratch.keras", "--output", tmp_path / "found")
    status, out, err = command_line(unet_scratch, *flags)
    assert (status, err) == (0, "")
    mask = Image.open(tmp_path / "found" / "00_mask.png")
    assert mask.mode == "L" and mask.size == (56, 40) and np.asarray(mask).max() < classes
    assert not (tmp_path / "found" / "00_cutout.png").exists()  # there is no background
    first = json.loads((tmp_path / "found" / "predictions.jsonl").read_text().splitlines()[0])
    assert tuple(first["shares"]) == tuple(names) and sum(first["shares"].values()) == pytest.approx(1, abs=1e-3)


def test_ignored_pixels_are_left_out(command_line, tmp_path):
    """A third of each mask is 255, and all of one, which is reported and left out."""
    folder = make(tmp_path / "data", 2, names=("costs $5", "costs $9", "255 ignore"))
    for path in (folder / "masks").iterdir():
        label = np.array(Image.open(path))
        label[:, ::3] = 255
        Image.fromarray(label if path.stem != "07" else np.full_like(label, 255)).save(path)
    own = load_data(str(folder), 32, 4)
    assert own.class_names == ("costs $5", "costs $9") and sum(own.counts.values()) == 19
    images, labels = next(iter(own.train))
    assert set(np.unique(labels)) == {0, 1, 255} and images.shape == (4, 32, 32, 3)

    logits = np.random.default_rng(0).normal(size=(*labels.shape, 2)).astype(np.float32)
    known = labels.numpy() != 255
    correct = (logits.argmax(-1) == labels.numpy())[known]
    accuracy, confusion = scores.metrics(2)
    for metric in (accuracy, confusion):
        metric.update_state(labels, logits)
    assert int(np.sum(confusion.matrix)) == known.sum()
    assert int(np.trace(confusion.matrix)) == correct.sum()
    assert float(accuracy.result()) == pytest.approx(correct.mean(), abs=1e-6)
    loss = losses.CrossEntropyAndDice()
    nonsense = np.where(known[..., None], logits, 7.0)
    assert float(loss(labels, logits)) == pytest.approx(float(loss(labels, nonsense)), rel=1e-5)

    status, out, err = command_line(unet_scratch, "--data", folder, *QUICK, "--output", tmp_path / "output")
    assert (status, err) == (0, "") and "warnings: 2" in out and "07.png: all one class (all of it ignored" in out
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert tuple(metrics["test"]["iou"]) == ("costs $5", "costs $9")


def test_split_lists(tmp_path):
    folder = make(tmp_path / "data", 3, values=(1, 2, 3), masks_in="annotations/trimaps")
    (folder / "annotations" / "trainval.txt").write_text("".join(f"{number:02} 1 1 1\n" for number in range(15)))
    (folder / "annotations" / "test.txt").write_text("".join(f"{number:02} 1 1 1\n" for number in range(15, 20)))
    assert load_data(str(folder), 32, 4).counts == {"train": 13, "validation": 2, "test": 5}
    # Variants in the wild: a BOM, file extensions, and a missing name.
    (folder / "annotations" / "test.txt").write_text("\ufeff15.jpg\n16.jpg\nnowhere.jpg\n", encoding="utf-8")
    contents = scan(folder)
    assert [pair.image.stem for pair in contents.splits["test"]] == ["15", "16"]
    (warning,) = contents.warnings
    assert "test.txt: names without a pair: 1 (nowhere.jpg" in warning
    (folder / "annotations" / "test.txt").write_text("03\n16\n")
    with pytest.raises(InputError, match=r"1 names are in trainval.txt too, like 03"):
        scan(folder)


def test_real_pets_in_oxford_layout(command_line, shared):
    status, out, err = command_line(unet_scratch, "--data", shared / "pets_raw", "--check-data")
    assert (status, err) == (0, "")
    assert "130 pairs can be used, 100 to train with, 30 to test" in out
    assert "pet" in out and "border" in out and "problems: none" in out


@pytest.fixture
def faulty(tmp_path):
    """A data set with one file per problem, named after it."""
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
WARNINGS = {"no_mask.png": "no partner", "no_picture.png": "no partner", "all_one.png": "all one class (sky)"}


def test_every_problem_is_reported(command_line, faulty):
    status, out, err = command_line(unet_scratch, "--data", faulty, "--check-data")
    assert status == 2 and err.count("\n") == 1 and f"problems: {len(PROBLEMS)}" in err
    warnings, problems = out.split("problems: ")
    for lines, expected in ((problems, PROBLEMS), (warnings.split("warnings: ")[1], WARNINGS)):
        for name, words in expected.items():
            assert any(name in line and words in line for line in lines.splitlines()), (name, lines)
    assert problems.count("\n") == len(PROBLEMS) + 1
    assert "13 pairs can be used" in out and "40 x" not in err
    assert not (faulty.parent / "output").exists()


def test_training_refuses_faulty_data(command_line, faulty, tmp_path):
    status, out, err = command_line(unet_scratch, "--data", faulty, *QUICK, "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1 and "--check-data" in err and "epoch 1/" not in out
    for name in (*PROBLEMS, "all_one.png"):
        (faulty / "masks" / name).unlink()
    assert load_data(str(faulty), 32, 4).counts["train"] == 10  # unpaired files do no harm


def test_a_smoothed_mask_is_reported(tmp_path):
    """0 and 255 with greys between, as left by an interpolating resize."""
    folder = make(tmp_path / "data", 2, values=(0, 255))
    label = np.array(Image.open(folder / "masks" / "03.png"))
    label[0, :5] = range(100, 105)
    Image.fromarray(label).save(folder / "masks" / "03.png")
    (problem,) = scan(folder).problems
    assert problem.startswith(f"{folder}/masks/03.png: values outside the 2 classes: 100, 101, 102, 103, 104")


def four_bits(folder):
    """Writes 4-bit masks: Pillow scales their values to 0, 17, 34, ..."""
    for path in (folder / "masks").iterdir():
        label = np.array(Image.open(path))
        rows = b"".join(b"\0" + bytes(row[0::2] << 4 | row[1::2]) for row in label)
        head = struct.pack(">2I5B", label.shape[1], label.shape[0], 4, 0, 0, 0, 0)
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        packed = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def write_names(folder, text):
    (folder / "classes.txt").write_text(text, encoding="utf-8", newline="")


def relabel(*values):
    def change(folder):
        for path in (folder / "masks").iterdir():
            Image.fromarray(np.array(values, np.uint8)[np.array(Image.open(path))]).save(path)

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (four_bits, "8-bit grey or palette PNG; this one is L;4"),
        (relabel(0, 38, 75), "the values 0, 38, 75 leave gaps"),
        (relabel(0, 1, 255), "255 ignore"),
        (lambda folder: (relabel(1, 2, 2)(folder), write_names(folder, "a\nb\nc\n")), "from 0 or from 1"),
        (lambda folder: (folder / "images" / "03.png").write_bytes(b"x"), "has the same mask"),
        (relabel(1, 1, 1), "one class alone"),
        (lambda folder: (folder / "masks").rename(folder / "labels"), "it has to hold images/ and masks/"),
        (lambda folder: [path.unlink() for path in (folder / "masks").iterdir()], "too few pairs"),
        (lambda folder: write_names(folder, "one\n"), "2 to 255 classes"),
        (lambda folder: write_names(folder, "a\nb\nb\n"), "none twice"),
        (lambda folder: (folder / "classes.txt").write_bytes(b"\xff\xfe\xfa"), "text in UTF-8"),
    ],
)
def test_unusable_data_is_refused(tmp_path, damage, words):
    folder = make(tmp_path / "data", 3)
    damage(folder)
    with pytest.raises(InputError, match=words):
        load_data(str(folder), 32, 4)


@pytest.mark.parametrize("text", ["\ufeffa\r\nb\r\nc\r\n", "0 a\n1: b\n2 c\n", "# names\na\n\nb\nc\nIGNORE (255)\n"])
def test_class_name_formats(tmp_path, text):
    folder = make(tmp_path / "data", 3)
    write_names(folder, text)
    assert scan(folder).class_names == ("a", "b", "c")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Another place for output/ and weights/, and a function that saves a model there, trained on some data."""
    for module in (flags, files, network):
        if hasattr(module, "ROOT"):
            monkeypatch.setattr(module, "ROOT", tmp_path / "home")

    def save(name, data, place="weights"):
        model = unet_scratch.build_model(32, 3)
        origin = {"data": str(data), "white": None} if data else None
        models.save(model, tmp_path / "home" / place / f"{name}.keras", ("a", "b", "c"), origin)

    return tmp_path / "home", save


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["unet_scratch.py", *map(str, arguments)])
    return flags.parse("unet_scratch", "", epochs=1, batch_size=1, learning_rate=1)


def test_a_project_does_not_take_the_model_of_another_one(tmp_path, monkeypatch, home):
    """Both have their data in folders called dataset."""
    place, save = home
    own, other = (tmp_path / name / "dataset" for name in ("one", "two"))
    save("unet_scratch-dataset", own)
    for arguments in ((), ("--predict", "cat.jpg")):
        args = parse(monkeypatch, "--data", f"{own}/", *arguments)
        assert place / "weights" / "unet_scratch-dataset.keras" in (args.weights, args.model) and args.data == str(own)
        with pytest.raises(InputError, match=f"was trained on {own}, not on {other}; name "):
            parse(monkeypatch, "--data", other, *arguments)
    assert parse(monkeypatch, "--data", other, "--output", tmp_path / "elsewhere").model.parent.name == "elsewhere"
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    assert parse(monkeypatch, "--data", "dataset/").data == "dataset"  # the same by another path
    save("unet_scratch-synthetic", "synthetic")
    with pytest.raises(InputError, match="was trained on synthetic, not on"):
        parse(monkeypatch, "--data", "synthetic/")
    save("unet_scratch-dataset", None)  # of an earlier version
    parse(monkeypatch, "--data", other)


def test_predictions_take_the_model_of_the_data_wherever_they_go(tmp_path, monkeypatch, home):
    place, save = home
    data, output = tmp_path / "leaves", tmp_path / "out"
    predict = ("--data", data, "--predict", "cat.jpg", "--output", output)
    args = parse(monkeypatch, *predict)
    assert args.output == output and not args.weights.exists()  # which is one line
    save("unet_scratch-leaves", data)
    assert parse(monkeypatch, *predict).weights == place / "weights" / "unet_scratch-leaves.keras"
    output.mkdir()
    (place / "weights" / "unet_scratch-leaves.keras").rename(output / "unet_scratch.keras")
    assert parse(monkeypatch, *predict).weights == output / "unet_scratch.keras"
    save("unet_scratch-leaves", data)
    (place / "weights" / "unet_scratch.keras").write_bytes(b"of the pets")
    assert parse(monkeypatch, *predict).weights == output / "unet_scratch.keras"
    assert parse(monkeypatch, "--predict", "cat.jpg", "--output", output).weights is None
    assert parse(monkeypatch, *predict, "--weights", "x.keras").weights.name == "x.keras"


def test_no_model_of_the_data_is_one_line(command_line, tmp_path, home):
    Image.fromarray(draw(3, 0)[0]).save(tmp_path / "cat.png")
    flags_ = ("--data", tmp_path / "leaves", "--predict", tmp_path / "cat.png", "--output", tmp_path / "out")
    status, _, err = command_line(unet_scratch, *flags_)
    assert status == 2 and err.count("\n") == 1 and "unet_scratch-leaves.keras: no such file; train first" in err


def test_the_model_remembers_its_data_and_its_scale(command_line, tmp_path):
    """Photos of 10 bits in 16: a prediction reads them as the training did. A finished run has no more epochs."""
    folder, output, white = make(tmp_path / "data", 3), tmp_path / "output", 0
    for path in sorted((folder / "images").iterdir()):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 4
        white = max(white, int(grey.max()))
        Image.fromarray(grey).save(path.with_suffix(".tif"))
        path.unlink()
    flags_ = ("--data", folder, *QUICK, "--output", output)
    status, out, err = command_line(unet_scratch, *flags_)
    assert (status, err) == (0, "") and f"{white:g} is white" in out
    weights = output / "unet_scratch.keras"
    assert models.origin(weights) == {"data": str(folder), "white": white}
    assert {path.name for path in output.glob("mosaic_*")} == {"mosaic_best.png", "mosaic_worst.png"}

    command = ("--predict", folder / "images" / "00.tif", "--weights", weights, "--output", tmp_path / "found")
    assert command_line(unet_scratch, *command)[0] == 0
    trained = network.from_weights("unet_scratch", unet_scratch.build_model, weights)
    pixels = photos.read(folder / "images" / "00.tif", trained.white)
    assert pixels.max() > 100
    _, _, probabilities, _ = next(network.segment_all(trained, [("", pixels)]))
    shares = json.loads((tmp_path / "found" / "predictions.jsonl").read_text())["shares"]
    label, _ = cutout.enlarge(pixels, probabilities, trained.class_names)
    assert shares == pytest.approx(dict(zip(trained.class_names, cutout.fractions(label, 3), strict=True)), abs=1e-6)

    status, out, _ = command_line(unet_scratch, *flags_, "--resume")
    assert status == 0 and "nothing to resume" in out
    status, _, err = command_line(unet_scratch, *flags_, "--resume", "--epochs", 3)
    assert status == 2 and err.count("\n") == 1 and f"--weights {weights} --output OTHER" in err


def test_a_stopped_check_says_nothing_about_epochs(command_line, tmp_path, monkeypatch):
    folder = make(tmp_path / "data", 3)
    ends = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    monkeypatch.setattr(os, "_exit", lambda status: ends.append(status) or sys.exit(status))
    monkeypatch.setattr("app.datasets.folder.scan", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    for flags_, words in ((("--check-data",), "stopped; nothing was written"), ((), "finished epochs are kept")):
        status, _, err = command_line(unet_scratch, "--data", folder, *flags_, "--output", tmp_path / "output")
        signal.alarm(0)
        assert status == 130 and words in err
    signal.signal(signal.SIGINT, before)


def test_epochs_of_all_stages_are_counted_together(command_line, tmp_path):
    quick = ("--image-size", 32, "--batch-size", 8, "--limit", 8, "--frozen-epochs", 1, "--epochs", 2)
    random = unet_mobilenetv2.build_model(32, 3)
    models.save(random, tmp_path / "start.keras", ("x", "y", "z"))
    start = ("--weights", tmp_path / "start.keras", "--output", tmp_path / "output")
    status, out, err = command_line(unet_mobilenetv2, "--data", "synthetic", *quick, *start)
    assert (status, err) == (0, "") and "epoch 1/2" in out and "epoch 2/2" in out and "epoch 1/1" not in out


def test_progress_bars_count_the_epochs_of_all_stages(capsys):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    keras.utils.enable_interactive_logging()
    model.fit(np.ones((4, 2)), np.ones(4), epochs=1, callbacks=[recorder.ProgressBars(12)])
    assert capsys.readouterr().out.count("Epoch 1/12") == 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11, 12, 30])
def test_mosaics_do_not_repeat_photos(tmp_path, monkeypatch, count):
    shown = {}
    monkeypatch.setattr(masks, "mosaic", lambda path, examples, *_: shown.update({path: examples}) or path.touch())
    (tmp_path / "mosaic_median.png").touch()  # of an earlier run
    picture = np.zeros((2, 2, 3), np.uint8)
    examples = [masks.Example(picture, picture[..., 0], picture[..., 0], number / count) for number in range(count)]
    paths = report.mosaics(tmp_path, examples, ("a", "b"), "title")
    parts = [[example.iou * count for example in part] for part in shown.values()]
    chosen = [iou for part in parts for iou in part]
    assert len(set(chosen)) == len(chosen) == min(count, 12) and chosen == sorted(chosen, reverse=True)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths} and len(paths) == min(count, 3)


def test_check_data_requires_a_folder(command_line, tmp_path):
    status, _, err = command_line(unet_scratch, "--check-data", "--data", "synthetic")
    assert status == 2 and "--data DIR" in err and err.count("\n") == 1


def test_mosaic_of_255_classes(tmp_path):
    names = [f"class {index}" for index in range(255)]
    colors = masks.palette(names)
    assert colors.shape == (255, 3) and len(np.unique(colors[:100], axis=0)) == 100
    label = np.arange(256, dtype=np.uint8).reshape(16, 16)
    example = masks.Example(np.zeros((16, 16, 3), np.uint8), label, label[:, ::-1] % 255, 0.5)
    masks.mosaic(tmp_path / "few.png", [example], names[:3], "three classes")
    masks.mosaic(tmp_path / "many.png", [example], names, "255 classes")
    few, many = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("few", "many"))
    assert few.shape[1] == many.shape[1]
    black = [(picture[:, : picture.shape[1] // 4] == 0).all(-1).any(1).sum() for picture in (few, many)]
    assert black[1] > 0.9 * black[0]  # a long legend does not shrink the black photo
