"""The training recipes from the command line, on drawn pets: files and error messages."""

import csv
import json
import pathlib
import re
import subprocess
import sys

from app import checkpoint, files, flags, runs
from app.datasets import synthetic
from common import masks

import fcn_vgg16
import keras
import networks
import numpy as np
import pytest
import unet_mobilenetv2
import unet_scratch
from conftest import CONTROL, ROOT
from networks import MODULES, each_recipe, first_recipe_fast
from own_data import load_data
from PIL import Image

ONE_AT_A_TIME = """
import sys
sys.path.insert(0, "recipes")
from app import runs
import tensorflow as tf
import unet_scratch
runs.start("unet_scratch", "", unet_scratch.build_model, epochs=1, batch_size=8, learning_rate=0.1)
sys.exit(tf.config.threading.get_inter_op_parallelism_threads() != 1)
"""
PICTURES = ["accuracy", "loss", "mean_iou", "mosaic_best", "mosaic_median", "mosaic_worst"]
QUICK = ("--data", "synthetic", "--image-size", 32, "--epochs", 2, "--batch-size", 8, "--limit", 20)


@first_recipe_fast
def test_a_run_from_the_terminal(name, tmp_path):
    """In a separate process, as a user starts it: its output and every file it writes."""
    output = tmp_path / "first run"
    command = [
        sys.executable,
        ROOT / "recipes" / f"{name}.py",
        *map(str, (*QUICK, *networks.flags(name))),
        "--output",
        output,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, *_, last = done.stdout.strip().splitlines()
    for fact in ("synthetic", "32 px", "20 train", "20 validation", "20 test", "CPU"):
        assert fact in first
    assert "mean_iou.png" in last
    lines = re.findall(r"^epoch (\d/2): \d+ s, .*loss \d.*val_mean_iou \d.*$", done.stdout, re.M)
    assert lines == ["1/2", "2/2"] and not CONTROL.search(done.stdout)

    expected = [*(f"{picture}.png" for picture in PICTURES), "history.csv", "metrics.json", f"{name}.keras"]
    assert sorted(path.name for path in output.iterdir()) == sorted(expected)
    for picture in PICTURES:
        image = Image.open(output / f"{picture}.png").convert("RGB")
        assert min(image.size) > 300 and np.asarray(image).std() > 10
        assert f"{picture}.png" in done.stdout

    rows = list(csv.DictReader((output / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"loss", "accuracy", "mean_iou", "val_loss", "val_accuracy", "val_mean_iou"} < set(rows[0])

    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["recipe"] == name
    assert metrics["train"]["images"] == 20 and metrics["train"]["epochs"] == 2
    trained = 2 * 3 * 8  # three batches of eight in each epoch, for 20 images
    assert metrics["train"]["images_per_second"] > trained / metrics["train"]["seconds"]
    assert metrics["config"]["batch_size"] == 8 and metrics["versions"]["keras"] == keras.__version__

    # The saved model reproduces the recorded scores.
    model = keras.saving.load_model(output / f"{name}.keras")
    pets = load_data("synthetic", 32, 8, limit=20)
    truth, answers = [], []
    for images, labels in pets.test:
        truth.append(labels.numpy())
        answers.append(np.argmax(model(images), axis=-1))
    truth, answers = np.concatenate(truth), np.concatenate(answers)
    assert metrics["test"]["images"] == len(truth) == 20
    assert metrics["test"]["pixel_accuracy"] == pytest.approx((truth == answers).mean(), abs=1e-4)
    pet, guess = truth == 0, answers == 0
    assert metrics["test"]["iou"]["pet"] == pytest.approx((pet & guess).sum() / (pet | guess).sum(), abs=1e-3)
    assert f"{metrics['test']['mean_iou']:.3f}" in done.stdout


def test_a_training_on_a_cpu_runs_one_operation_at_a_time(tmp_path):
    """Which takes less memory. In a separate process, because TensorFlow has to be told before it starts."""
    command = [sys.executable, "-c", ONE_AT_A_TIME, "--output", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_same_seed_same_run_and_a_comparison_of_both(command_line, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    folder = tmp_path / "output"
    (folder / "something else").mkdir(parents=True)
    (folder / "something else" / "metrics.json").write_text("not a run of ours")
    (folder / "of another program").mkdir()
    (folder / "with another history").mkdir()
    scores = {"config": {"data": "a", "image_size": 1}, "train": {"epochs": 1, "seconds": 1}}
    scores |= {"test": {"pixel_accuracy": 0.5, "mean_iou": 0.5}}
    (folder / "with another history" / "metrics.json").write_text(json.dumps(scores))
    (folder / "with another history" / "history.csv").write_text("epoch,loss\n1,0.5\n")
    (folder / "of another program" / "metrics.json").write_text('{"accuracy": 0.9}')
    histories = {}
    for run in ("one", "two"):
        flags = (*QUICK[:4], "--epochs", 1, "--batch-size", 4, "--limit", 8, "--precision", "float32")
        status, out, err = command_line(unet_scratch, *flags, "--output", folder / run)
        assert status == 0, err
        assert ("comparison.png" in out) == (run == "two")  # a single run has nothing to compare with
        histories[run] = checkpoint.read_history(folder / run / "history.csv").history
    assert histories["one"]["val_loss"] == pytest.approx(histories["two"]["val_loss"], rel=1e-4)
    table = (folder / "comparison.md").read_text().splitlines()
    assert len(table) == 4 and {line.split("|")[1].strip() for line in table[2:]} == {"one", "two"}
    assert Image.open(folder / "comparison.png").width > 800


def test_other_data_does_not_overwrite_the_pets_files(command_line, tmp_path, monkeypatch):
    """Without --output, folder and model are named after the data, and the last lines say how to use the model."""
    for module in (files, flags):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    for part in ("images", "masks"):
        (tmp_path / "my leaves" / part).mkdir(parents=True)
    for number in range(6):
        image, label = synthetic.draw(number, image_size=32)
        Image.fromarray(image).save(tmp_path / "my leaves" / "images" / f"{number}.png")
        Image.fromarray(label).save(tmp_path / "my leaves" / "masks" / f"{number}.png")
    name = "unet_scratch-my_leaves"
    quick = ("--image-size", 32, "--epochs", 1, "--batch-size", 2, "--limit", 2)
    status, out, err = command_line(unet_scratch, "--data", "my leaves/", *quick)
    assert (status, err) == (0, "")
    assert (tmp_path / "output" / name / "metrics.json").exists()
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [f"{name}.keras"]
    (command,) = re.findall(r"^use it +python \S+unet_scratch.py (.*)$", out, re.M)
    assert command == f"--predict PHOTO --weights weights/{name}.keras"
    predict = [part.replace("PHOTO", "my leaves/images/0.png") for part in command.split(" ")]
    status, out, err = command_line(unet_scratch, *predict)
    assert (status, err) == (0, "") and "photos: 1" in out


@pytest.mark.parametrize(("data", "end"), [("oxford_iiit_pet", ""), ("synthetic", "-synthetic"), ("/", "-data")])
def test_names_of_output_and_model(monkeypatch, data, end):
    defaults = {"epochs": 1, "batch_size": 1, "learning_rate": 1}
    monkeypatch.setattr(sys, "argv", ["x.py", "--data", data])
    args = flags.parse("x", "", **defaults)
    assert (args.output, args.model) == (ROOT / "output" / f"x{end}", ROOT / "weights" / f"x{end}.keras")
    monkeypatch.setattr(sys, "argv", ["x.py", "--data", data, "--output", "/tmp/elsewhere"])
    args = flags.parse("x", "", **defaults)
    assert (str(args.output), str(args.model)) == ("/tmp/elsewhere", "/tmp/elsewhere/x.keras")


@pytest.mark.parametrize(
    ("flags_", "weights", "folder"),
    [
        ((), None, "x"),
        (("--data", "synthetic"), "x-synthetic", "x-synthetic"),
        (("--weights", "weights/x-leaves.keras"), "x-leaves", "x-leaves"),
        (("--weights", "best.keras"), "best", "x"),
    ],
)
def test_names_of_predictions(monkeypatch, flags_, weights, folder):
    """They go beside what the training of the weights wrote, not among those of the pets."""
    monkeypatch.setattr(sys, "argv", ["x.py", "--predict", "cat.jpg", *flags_])
    args = flags.parse("x", "", epochs=1, batch_size=1, learning_rate=1)
    assert (args.weights and args.weights.stem) == weights
    assert args.output == ROOT / "output" / folder / "predictions"


@pytest.mark.parametrize(("file", "frozen"), [("encoder.h5", 2), (None, 0)])
def test_how_many_epochs_are_frozen(file, frozen):
    """At most all of them, and none if the encoder starts random."""
    config = {"recipe": "x", "image_size": 32, "epochs": 2, "frozen_epochs": 3, "learning_rate": 0.1, "batch_size": 1}
    config |= dict.fromkeys(("data", "output", "model"))
    assert runs.Run(config, encoder_weights=file).frozen_epochs == frozen


@pytest.mark.slow
def test_epochs_include_frozen_epochs(command_line, tmp_path):
    """With all epochs frozen, the encoder keeps the weights of the file."""
    file = tmp_path / "encoder.weights.h5"
    encoder = keras.applications.MobileNetV2(include_top=False, weights=None)
    encoder.save_weights(file)
    quick = ("--data", "synthetic", "--image-size", 32, "--limit", 8, "--batch-size", 8, "--output", tmp_path)
    status, out, err = command_line(
        unet_mobilenetv2, *quick, "--epochs", 2, "--frozen-epochs", 3, "--backbone-weights", file
    )
    assert (status, err) == (0, "") and "epoch 2/2" in out
    assert checkpoint.read_history(tmp_path / "history.csv").epoch == [0, 1]
    model = keras.saving.load_model(tmp_path / "unet_mobilenetv2.keras")
    for layer in ("Conv1", "block_16_project"):
        np.testing.assert_array_equal(model.get_layer(layer).get_weights(), encoder.get_layer(layer).get_weights())


def test_a_non_finite_loss_is_a_one_line_error(command_line, tmp_path):
    """If no epoch has finished, the files of an earlier run stay unchanged."""
    for name in ("metrics.json", "history.csv"):
        (tmp_path / name).write_text("of an earlier run")
    quick = (*QUICK, "--batch-size", 2, "--backbone-weights", "none", "--learning-rate", 1e9, "--output", tmp_path)
    status, _, err = command_line(fcn_vgg16, *quick)
    assert status == 2 and err.count("\n") == 1, err
    assert re.search(r"loss is not finite after step \d of epoch \d: .*--learning-rate", err), err
    assert all((tmp_path / name).read_text() == "of an earlier run" for name in ("metrics.json", "history.csv"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data", "cats_and_cars"), ["cats_and_cars", "oxford_iiit_pet", "synthetic"]),
        (("--image-size", 100), ["--image-size", "100", "multiple of 32", "96", "128"]),
        (("--image-size", 0), ["--image-size", "above zero"]),
        (("--epochs", 0), ["--epochs", "above zero"]),
        (("--epochs", "many"), ["--epochs", "many"]),
        (("--batch-size", -4), ["--batch-size", "-4"]),
        (("--learning-rate", -0.1), ["--learning-rate", "-0.1"]),
        (("--learning-rate", "nan"), ["--learning-rate", "nan"]),
        (("--limit", 0), ["--limit"]),
        (("--limit", 10**20), ["--limit", "below"]),
        (("--seed", -1), ["--seed"]),
        (("--precision", "float8"), ["--precision", "float8", "mixed_bfloat16"]),
        (("--epoch", 3), ["--epoch", "--help"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_wrong_flags(command_line, tmp_path, flags, words):
    """One line that names the flag, what is wrong and what to do; nothing is written."""
    output = tmp_path / "output"
    status, out, err = command_line(unet_scratch, *QUICK, "--output", output, *flags)
    assert status == 2 and out == ""
    assert err.count("\n") == 1 and all(word in err for word in words), err
    assert not output.exists()


def unwritable_folders(tmp_path):
    taken = tmp_path / "file"
    taken.write_text("I was here first")
    yield taken, "is a file"
    yield taken / "below", "is a file"
    yield pathlib.Path("/proc/run"), "cannot write"  # not even root can
    yield tmp_path / ("long" * 100), "cannot write"


def test_unusable_output_folders(command_line, tmp_path):
    for folder, words in unwritable_folders(tmp_path):
        status, _, err = command_line(unet_scratch, *QUICK, "--output", folder)
        assert status == 2 and err.count("\n") == 1, err
        assert f"--output {folder}" in err and words in err
    assert (tmp_path / "file").read_text() == "I was here first"


def test_no_network_on_the_first_download(command_line, tmp_path, monkeypatch):
    """The proxy refuses connections: a one-line error, and nothing is left behind."""
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    flags = ("--data-dir", tmp_path / "tfds", "--output", tmp_path / "output")
    status, _, err = command_line(unet_scratch, *flags)
    assert status == 2 and err.count("\n") == 1, err
    for word in ("--data oxford_iiit_pet", "tfds/oxford_iiit_pet/4.0.0", "--data-dir", "--data synthetic"):
        assert word in err
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_one_line_in_the_terminal():
    """No library prints anything around it while loading."""
    command = [sys.executable, ROOT / "recipes" / "unet_scratch.py", "--epochs", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("unet_scratch.py: --epochs: 0 is not") and done.stderr.count("\n") == 1


def test_incomplete_prepared_data(command_line, tmp_path):
    (tmp_path / "oxford_iiit_pet" / "4.0.0").mkdir(parents=True)
    status, _, err = command_line(unet_scratch, "--data-dir", tmp_path, "--output", tmp_path / "output")
    assert status == 2 and err.count("\n") == 1 and f"--data-dir {tmp_path}" in err, err


def test_real_pets_from_the_command_line(command_line, tmp_path, shared):
    flags = ("--data-dir", shared / "tfds", "--image-size", 32, "--epochs", 1, "--limit", 24)
    status, out, err = command_line(unet_scratch, *flags, "--output", tmp_path)
    assert status == 0, err
    assert "oxford_iiit_pet, 32 px: 24 train, 24 validation, 24 test" in out
    assert (tmp_path / "mosaic_worst.png").exists()


@each_recipe
def test_help_shows_the_docstring_and_every_flag(command_line, name):
    status, out, _ = command_line(MODULES[name], "--help")
    assert status == 0 and MODULES[name].__doc__.strip().splitlines()[0] in out
    flags = "data data-dir image-size epochs batch-size learning-rate precision limit seed output"
    for flag in flags.split(" "):
        assert f"--{flag} " in out
    assert ("--backbone-weights" in out) == networks.has_encoder(name)
    assert ("--frozen-epochs" in out) == networks.has_frozen_epochs(name)


def test_negative_frozen_epochs(command_line):
    status, _, err = command_line(unet_mobilenetv2, "--frozen-epochs", -1)
    assert status == 2 and "--frozen-epochs: -1" in err and err.count("\n") == 1


def test_colours():
    colors = masks.palette(("pet", "background", "border"))
    label = np.array([[0, 1], [2, 0]], np.uint8)
    assert masks.colorize(label, colors).tolist() == [
        [list(masks.NAMED_COLORS["pet"]), list(masks.NAMED_COLORS["background"])],
        [list(masks.NAMED_COLORS["border"]), list(masks.NAMED_COLORS["pet"])],
    ]
    image = np.full((2, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(masks.overlay(image, label, colors, opacity=0.0), image)
    np.testing.assert_array_equal(masks.overlay(image, label, colors, opacity=1.0), masks.colorize(label, colors))
    np.testing.assert_array_equal(masks.colorize(label.astype(np.int64), colors), masks.colorize(label, colors))
    assert len(np.unique(masks.palette([f"class {i}" for i in range(20)]), axis=0)) == 20
