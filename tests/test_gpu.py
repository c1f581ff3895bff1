"""What a GPU changes, as far as a CPU can show it."""

import shutil
import subprocess
import sys

from app import device
from app.training import runs

import fcn_vgg16
import keras
import numpy as np
import pytest
import unet_mobilenetv2
import unet_scratch
from conftest import ROOT

# In a process of its own, a library that answers like NVIDIA's driver; TensorFlow has looked for the real one before.
BESIDE_A_DRIVER = """
import ctypes, runpy, sys
sys.path.insert(0, {folder!r})
import app, tensorflow as tf
tf.config.list_physical_devices()
driver = ctypes.CDLL({driver!r})
sys.argv = [{recipe!r}, *{flags!r}]
runpy.run_path({recipe!r}, run_name="__main__")
"""
DRIVER = "int cuInit(unsigned flags) {{ return 0; }} int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}"


@pytest.mark.parametrize("count", [1, 0])
def test_the_first_line_tells_of_a_gpu_that_tensorflow_does_not_see(tmp_path, count):
    compiler = shutil.which("cc")
    if not compiler or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    (tmp_path / "driver.c").write_text(DRIVER.format(count=count))
    driver = tmp_path / "driver.so"
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", tmp_path / "driver.c", "-o", driver]
    subprocess.run(command, check=True)
    recipe, photo = str(ROOT / "recipes" / "unet_mobilenetv2.py"), str(ROOT / "resources" / "photos" / "cat.jpg")
    flags = ["--predict", photo, "--output", str(tmp_path / "output")]
    names = {"folder": str(ROOT / "recipes"), "driver": str(driver), "recipe": recipe, "flags": flags}
    program = BESIDE_A_DRIVER.format(**names)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    first = done.stdout.splitlines()[0]
    mend = f"{sys.executable} -m pip install '{device.CUDA}'"
    assert ("does not see the NVIDIA GPU" in first and first.endswith(mend)) == bool(count), first
    assert "CPU (" in done.stdout.splitlines()[count]


def test_the_command_for_cuda_is_that_of_the_readme_and_fits_the_requirements():
    assert f"pip install '{device.CUDA}'" in (ROOT / "README.md").read_text()
    assert device.CUDA.replace("[and-cuda]", "") in (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize(
    "recipe",
    [unet_scratch, *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in (fcn_vgg16, unet_mobilenetv2))],
)
def test_a_training_as_on_a_gpu(command_line, tmp_path, monkeypatch, recipe):
    """Two steps compiled by XLA, in mixed_float16 with a scaled loss and Keras' own layers, and a save."""
    gpu = {"device_name": "a GPU with tensor cores", "compute_capability": (8, 0)}
    monkeypatch.setattr(device, "gpu_details", lambda: [gpu])
    trained, report = [], runs.Run.report

    def keep_model_and_report(run, data):
        trained.append(run.recorder.model)
        report(run, data)

    monkeypatch.setattr(runs.Run, "report", keep_model_and_report)
    flags = ["--data", "synthetic", "--image-size", 32, "--limit", 16, "--batch-size", 8, "--epochs", 1]
    flags += [] if recipe is unet_scratch else ["--backbone-weights", "none"]
    status, out, err = command_line(recipe, *flags, "--output", tmp_path)
    assert status == 0, err  # XLA logs that it was used
    assert "a GPU with tensor cores | mixed_float16" in out.splitlines()[0]

    (model,) = trained
    assert model.jit_compile and isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(model.optimizer.inner_optimizer.iterations) == 2  # a step with infinite gradients would be left out
    saved = keras.saving.load_model(tmp_path / f"{recipe.__name__}.keras")
    for mine, other in zip(model.get_weights(), saved.get_weights(), strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_array_equal(mine, other)
