"""The recipes on Keras' JAX backend, each run in a process of its own: this one has TensorFlow's."""

import json
import os
import subprocess
import sys

from app import checkpoint, report
from app.datasets import load, synthetic
from common import scores

import keras
import numpy as np
import pytest
import tensorflow as tf
import unet_scratch
from conftest import CONTROL, ROOT, start_process, wait_for
from PIL import Image

pytest.importorskip("jax", reason="JAX is not installed")

FLAGS = ("--data", "synthetic", "--image-size", 32, "--batch-size", 8, "--limit", 20, "--precision", "float32")
EPOCHS = {  # what else a run needs
    "unet_scratch": ("--epochs", 3),
    "fcn_vgg16": ("--epochs", 3, "--backbone-weights", "none"),
    "unet_mobilenetv2": ("--epochs", 4, "--frozen-epochs", 2, "--backbone-weights", "ENCODER"),
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """That of a person who has chosen JAX; what is compiled once is kept."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {**os.environ, "KERAS_BACKEND": "jax", **cache}


def command(recipe, *flags):
    return [sys.executable, ROOT / "recipes" / f"{recipe}.py", *map(str, flags)]


def run(environment, recipe, *flags):
    done = subprocess.run(command(recipe, *flags), env=environment, capture_output=True, text=True, timeout=550)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert not CONTROL.search(done.stdout)  # no progress bars in a log
    return done.stdout


def history(folder):
    return report.read_history(folder / "history.csv").history


@pytest.fixture(scope="module")
def whole(environment, tmp_path_factory):
    """An uninterrupted run: its folder and its output."""
    folder = tmp_path_factory.mktemp("whole") / "output"
    return folder, run(environment, "unet_scratch", *FLAGS, *EPOCHS["unet_scratch"], "--output", folder)


def killed(environment, recipe, output, *flags, after=1):
    """Starts a run and kills it when it has finished one epoch, or two."""
    process = start_process(command(recipe, *flags, "--output", output), env=environment)
    wait_for((output / (checkpoint.NAME, checkpoint.PREVIOUS)[after - 1]).exists, process, 500)
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def interrupted(environment, tmp_path_factory):
    """A run that was killed."""
    output = tmp_path_factory.mktemp("interrupted") / "output"
    killed(environment, "unet_scratch", output, *FLAGS, *EPOCHS["unet_scratch"])
    return output


def test_a_training_writes_what_it_writes_on_tensorflow(whole):
    folder, out = whole
    assert "CPU" in out.splitlines()[0] and "with JAX, slower than with TensorFlow" in out.splitlines()[0]
    pictures = ["accuracy", "loss", "mean_iou", "mosaic_best", "mosaic_median", "mosaic_worst"]
    expected = [*(f"{name}.png" for name in pictures), "history.csv", "metrics.json", "unet_scratch.keras"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)
    losses = history(folder)["loss"]
    assert len(losses) == 3 and losses[-1] < losses[0] - 0.1
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["versions"]["KERAS_BACKEND"] == "jax" and metrics["train"]["epochs"] == 3


def test_tensorflow_loads_the_model_and_gets_the_same_scores(whole):
    folder, _ = whole
    model = keras.saving.load_model(folder / "unet_scratch.keras")
    pets = load.load_data("synthetic", 32, 8, limit=20)
    confusion = scores.ConfusionMatrix(3)
    for images, labels in pets.test:
        confusion.update_state(labels, model(images))
    expected = scores.report(confusion.matrix, pets.class_names)
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert test["images"] == 20 and test["iou"] == pytest.approx(expected["iou"], abs=1e-3)
    best = int(np.argmax(history(folder)["val_mean_iou"]))
    matrix = scores.ConfusionMatrix(3)
    for images, labels in pets.validation:  # the last batch is not full
        matrix.update_state(labels, model(images))
    assert history(folder)["val_mean_iou"][best] == pytest.approx(float(matrix.result()), abs=1e-3)


def test_a_killed_run_is_resumed_to_the_same_result(environment, whole, interrupted):
    out = run(environment, "unet_scratch", *FLAGS, *EPOCHS["unet_scratch"], "--output", interrupted, "--resume")
    assert "resuming after epoch" in out and "epoch 1/3" not in out
    for name, values in history(whole[0]).items():
        np.testing.assert_allclose(history(interrupted)[name], values, atol=6e-5, err_msg=name)


def test_a_run_is_not_resumed_on_the_other_backend(command_line, environment, tmp_path):
    output = tmp_path / "output"
    killed(environment, "unet_scratch", output, *FLAGS, "--epochs", 3)
    flags = (*FLAGS, "--epochs", 3, "--output", output, "--resume")
    status, _, err = command_line(unet_scratch, *flags)
    assert status == 2 and err.count("\n") == 1, err
    assert "KERAS_BACKEND was jax and is tensorflow" in err


def test_predictions_match_tensorflow_and_compile_at_most_twice(command_line, environment, whole, tmp_path):
    """Eleven photos, so batches of eight and of three, then one photo alone."""
    photos, cache = tmp_path / "photos", tmp_path / "compiled"
    photos.mkdir()
    for number in range(11):
        Image.fromarray(synthetic.draw(number, image_size=64)[0]).save(photos / f"{number}.png")
    environment = environment | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    weights = ("--weights", whole[0] / "unet_scratch.keras")
    out = run(environment, "unet_scratch", "--predict", photos, *weights, "--output", tmp_path / "jax")
    run(environment, "unet_scratch", "--predict", photos / "0.png", *weights, "--output", tmp_path / "one")
    assert "photos: 11" in out
    compiled = {path.name for path in cache.iterdir() if "lambda" in path.name and not path.name.endswith("-atime")}
    assert len(compiled) == 2, sorted(path.name for path in cache.iterdir())
    status, _, err = command_line(unet_scratch, "--predict", photos, *weights, "--output", tmp_path / "tensorflow")
    assert (status, err) == (0, "")
    for path in (tmp_path / "tensorflow").glob("*_mask.png"):
        one, other = (np.asarray(Image.open(folder / path.name)) for folder in (path.parent, tmp_path / "jax"))
        assert (one == other).mean() > 0.999
    assert len(list((tmp_path / "jax").glob("*_mask.png"))) == 11


@pytest.mark.parametrize(("backend", "flags"), [("torch", ("--epochs", 1)), ("jacks", ("--predict", "cat.jpg"))])
def test_other_backends_are_refused(environment, tmp_path, backend, flags):
    done = subprocess.run(
        command("unet_scratch", *flags, "--output", tmp_path / "output"),
        env=environment | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"unet_scratch.py: KERAS_BACKEND={backend}: the recipes run on tensorflow or jax\n"


def test_jax_is_not_installed(environment, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['jax'] = None")
    done = subprocess.run(
        command("unet_scratch", *FLAGS, "--output", tmp_path / "output"),
        env=environment | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "JAX is not installed" in done.stderr, done.stderr
    assert f"{sys.executable} -m pip install 'jax[cuda13]'" in done.stderr


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
    killed(environment, recipe, output, *flags, "--resume", after=2)
    run(environment, recipe, *flags, "--output", output, "--resume")
    for name, values in history(tmp_path / "whole").items():
        np.testing.assert_allclose(history(output)[name], values, atol=6e-5, err_msg=name)


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
def test_what_can_be_exported_from_jax(environment, whole, tmp_path):
    """As the README's table says: the SavedModel, but not LiteRT."""
    path = str(whole[0] / "unet_scratch.keras")
    command = [sys.executable, "-c", EXPORT.format(path=path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "TensorFlow" in done.stdout, done.stderr
    pixels = np.stack([synthetic.draw(number, image_size=32)[0] for number in range(3)]).astype(np.float32)
    exported, model = tf.saved_model.load(str(tmp_path / "exported")), keras.saving.load_model(path)
    np.testing.assert_allclose(exported.serve(pixels), model(pixels), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_four_devices_train_like_one(environment, tmp_path, precision):
    """Four GPUs of a machine, as far as a CPU can show it; float16 scales its loss."""
    flags = (*FLAGS, "--epochs", 3, "--precision", precision)
    one, four = tmp_path / "one", tmp_path / "four"
    run(environment, "unet_scratch", *flags, "--output", one)
    devices = environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    run(devices, "unet_scratch", *flags, "--output", four)
    near = {"float32": 1e-4}.get(precision, 0.03)
    for name, values in history(one).items():
        np.testing.assert_allclose(history(four)[name], values, atol=near, err_msg=name)
    done = subprocess.run(
        command("unet_scratch", *flags, "--batch-size", 6), env=devices, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "--batch-size: 6 cannot be shared by 4 devices; use a multiple of 4" in done.stderr
