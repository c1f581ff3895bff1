"""The recipes on Keras' JAX backend, in processes of their own: this one has TensorFlow's."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import app
from app import checkpoint, report
from app.datasets import synthetic
from common import scores

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
import unet_scratch
from conftest import CONTROL, ROOT, needs_jax, run_recipes, start_process, wait_for
from own_data import load_data
from PIL import Image

pytestmark = needs_jax

FLAGS = ("--data", "synthetic", "--image-size", 32, "--batch-size", 8, "--limit", 20, "--precision", "float32")
SCRATCH = (*FLAGS, "--epochs", 3)
EPOCHS = {name: ("--epochs", 3, *networks.flags(name)) for name in networks.MODULES}
EPOCHS["unet_mobilenetv2"] = ("--epochs", 4, "--frozen-epochs", 2, "--backbone-weights", "ENCODER")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment variables for JAX; what it has compiled is kept in a folder."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {**os.environ, "KERAS_BACKEND": "jax", **cache}


def command(recipe, *flags):
    return [sys.executable, ROOT / "recipes" / f"{recipe}.py", *map(str, flags)]


def run(environment, recipe, *flags, status=0):
    """Runs a recipe; returns its output, or for another exit status the one line of its error."""
    done = subprocess.run(command(recipe, *flags), env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == status and done.stderr.count("\n") == (status != 0), done.stderr
    return done.stderr if status else done.stdout


def history(folder):
    return report.read_history(folder / "history.csv").history


def same_history(folder, expected, atol=6e-5):
    for name, values in history(expected).items():
        np.testing.assert_allclose(history(folder)[name], values, atol=atol, err_msg=name)


def killed(environment, recipe, output, *flags, epochs=1):
    """Starts a run and kills it after so many finished epochs."""
    process = start_process(command(recipe, *flags, "--output", output), env=environment)
    state = output / checkpoint.STATE
    wait_for(lambda: state.exists() and len(history(output)["loss"]) >= epochs, process, 500)
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def interrupted(environment, tmp_path_factory):
    """The folder of a run that was killed."""
    output = tmp_path_factory.mktemp("interrupted") / "output"
    killed(environment, "unet_scratch", output, *SCRATCH)
    return output


@pytest.fixture(scope="module")
def runs(environment, interrupted, tmp_path_factory):
    """A folder, and the output of four commands that write to it: a training, two predictions and a resumed training.

    The predictions are for eleven photos, so in batches of eight and of three, and for a single one.
    """
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(interrupted, folder / "resumed")
    photos = folder / "photos"
    photos.mkdir()
    for number in range(11):
        Image.fromarray(synthetic.draw(number, image_size=64)[0]).save(photos / f"{number}.png")
    predict = ("--weights", folder / "whole" / "unet_scratch.keras", "--predict")
    commands = [
        (*SCRATCH, "--output", folder / "whole"),
        (*predict, photos, "--output", folder / "eleven"),
        (*predict, photos / "0.png", "--output", folder / "one"),
        (*SCRATCH, "--resume", "--output", folder / "resumed"),
    ]
    return folder, run_recipes([command("unet_scratch", *flags)[1:] for flags in commands], env=environment)


def test_a_training_writes_what_it_writes_on_tensorflow(runs):
    folder, (out, *_) = runs
    assert "CPU" in out.splitlines()[0] and "with JAX, slower than with TensorFlow" in out.splitlines()[0]
    assert not CONTROL.search(out)  # no progress bars in a log
    pictures = ["accuracy", "loss", "mean_iou", "mosaic_best", "mosaic_median", "mosaic_worst"]
    expected = [*(f"{name}.png" for name in pictures), "history.csv", "metrics.json", "unet_scratch.keras"]
    assert sorted(path.name for path in (folder / "whole").iterdir()) == sorted(expected)
    losses = history(folder / "whole")["loss"]
    assert len(losses) == 3 and losses[-1] < losses[0] - 0.1
    metrics = json.loads((folder / "whole" / "metrics.json").read_text())
    assert metrics["versions"]["KERAS_BACKEND"] == "jax" and metrics["train"]["epochs"] == 3


def test_tensorflow_loads_the_model_and_gets_the_same_scores(runs):
    folder = runs[0] / "whole"
    model = keras.saving.load_model(folder / "unet_scratch.keras")
    pets = load_data("synthetic", 32, 8, limit=20)

    def score(batches):
        confusion = scores.ConfusionMatrix(3)
        for images, labels in batches:
            confusion.update_state(labels, model(images))
        return scores.report(confusion.matrix, pets.class_names)

    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert test["images"] == 20 and test["iou"] == pytest.approx(score(pets.test)["iou"], abs=1e-3)
    best = max(history(folder)["val_mean_iou"])  # the last batch is not full
    assert best == pytest.approx(score(pets.validation)["mean_iou"], abs=1e-3)


def test_a_killed_run_resumes_to_the_same_result(runs):
    folder, (*_, out) = runs
    assert "resuming after epoch" in out and "epoch 1/3" not in out
    same_history(folder / "resumed", folder / "whole")


def test_a_run_is_not_resumed_on_the_other_backend(command_line, interrupted):
    status, _, err = command_line(unet_scratch, *SCRATCH, "--output", interrupted, "--resume")
    assert status == 2 and err.count("\n") == 1, err
    assert "KERAS_BACKEND was jax and is tensorflow" in err


def test_predictions_match_tensorflow_and_compile_at_most_twice(command_line, environment, runs, tmp_path):
    folder, (_, out, *_) = runs
    assert "photos: 11" in out
    compiled = pathlib.Path(environment["JAX_COMPILATION_CACHE_DIR"]).glob("*lambda*-cache")
    assert len(list(compiled)) == 3  # for the test scores, for batches of eight photos, and for single ones
    weights = folder / "whole" / "unet_scratch.keras"
    flags = ("--predict", folder / "photos", "--weights", weights, "--output", tmp_path)
    assert command_line(unet_scratch, *flags)[::2] == (0, "")
    masks = sorted(path.name for path in tmp_path.glob("*_mask.png"))
    assert len(masks) == 11
    for name in masks:
        on_tensorflow, on_jax = (np.asarray(Image.open(place / name)) for place in (tmp_path, folder / "eleven"))
        assert (on_tensorflow == on_jax).mean() > 0.999


@pytest.mark.parametrize(("backend", "flags"), [("torch", ("--epochs", 1)), ("jacks", ("--predict", "cat.jpg"))])
def test_other_backends_are_refused(command_line, monkeypatch, tmp_path, backend, flags):
    monkeypatch.setattr(app, "requested_backend", backend)
    status, out, err = command_line(unet_scratch, *flags, "--output", tmp_path)
    assert (status, out) == (2, "")
    assert err == f"unet_scratch.py: KERAS_BACKEND={backend}: the recipes run on tensorflow or jax\n"


def test_jax_is_not_installed(environment, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['jax'] = None")
    without_jax = environment | {"PYTHONPATH": str(tmp_path)}
    err = run(without_jax, "unet_scratch", *FLAGS, "--output", tmp_path / "output", status=2)
    assert "JAX is not installed" in err and f"{sys.executable} -m pip install 'jax[cuda13]'" in err


@pytest.mark.slow
@pytest.mark.parametrize("recipe", EPOCHS)
def test_each_recipe_resumes_at_64_px(environment, tmp_path, recipe):
    """There unet_scratch has dropout, whose random state must be kept; unet_mobilenetv2 trains in two stages."""
    encoder = tmp_path / "encoder.weights.h5"
    keras.applications.MobileNetV2(include_top=False, weights=None).save_weights(encoder)
    flags = [encoder if flag == "ENCODER" else flag for flag in (*FLAGS, *EPOCHS[recipe], "--image-size", 64)]
    run(environment, recipe, *flags, "--output", tmp_path / "whole")
    output = tmp_path / "killed"
    killed(environment, recipe, output, *flags)
    killed(environment, recipe, output, *flags, "--resume", epochs=2)
    run(environment, recipe, *flags, "--output", output, "--resume")
    same_history(output, tmp_path / "whole")


EXPORT = """
import keras
model = keras.saving.load_model({path!r})
model.export("exported", verbose=False)
try:
    model.export("exported.tflite", format="litert", verbose=False)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_what_can_be_exported_from_jax(environment, runs, tmp_path):
    """As the README's table says: the SavedModel, but not LiteRT."""
    path = str(runs[0] / "whole" / "unet_scratch.keras")
    program = [sys.executable, "-c", EXPORT.format(path=path)]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "TensorFlow" in done.stdout, done.stderr
    pixels = np.stack([synthetic.draw(number, image_size=32)[0] for number in range(3)]).astype(np.float32)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(pixels), keras.saving.load_model(path)(pixels), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_four_devices_train_like_one(environment, tmp_path, precision):
    """Four GPUs of a machine, as far as a CPU can show it; float16 scales its loss."""
    flags = (*SCRATCH, "--precision", precision)
    one, four = tmp_path / "one", tmp_path / "four"
    run(environment, "unet_scratch", *flags, "--output", one)
    devices = environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    run(devices, "unet_scratch", *flags, "--output", four)
    same_history(four, one, atol=1e-4 if precision == "float32" else 0.03)
    err = run(devices, "unet_scratch", *flags, "--batch-size", 6, status=2)
    assert "--batch-size: 6 is not a multiple of 4, the number of devices" in err
