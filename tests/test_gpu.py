"""What a GPU changes, as far as a CPU can show it."""

import os
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

from app import backend, device, runs
from app.cpu import optimizer

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

NOT_BUILT = f"TensorFlow {tf.__version__} is not built for the GeForce, and uses the CPU."
CAT = ROOT / "resources" / "photos" / "cat.jpg"
# A library with the interface of NVIDIA's driver: one GPU of compute capability 12.0.
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "GeForce", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 12 : attribute == 76 ? 0 : -1;
    return 0;
}
"""
# Loads this driver after TensorFlow has looked for the real one.
PROGRAM = """
import ctypes, runpy, sys
driver, *sys.argv = sys.argv[1:]
sys.path.insert(0, "recipes")
import app, tensorflow as tf
tf.config.list_physical_devices()
ctypes.CDLL(driver)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_driver_is_asked_and_mask_rcnn_recommends_no_jax(tmp_path):
    """Mask R-CNN runs on TensorFlow with any KERAS_BACKEND."""
    if not shutil.which("cc") or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    (tmp_path / "driver.c").write_text(DRIVER)
    driver = tmp_path / "driver.so"
    options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["cc", *options, tmp_path / "driver.c", "-o", driver], check=True)
    command = ["recipes/mask_rcnn_hub.py", CAT, "--model", "small", "--output", tmp_path / "output"]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    program = [sys.executable, "-c", PROGRAM, driver, *command]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *_ = done.stdout.splitlines()
    assert first == NOT_BUILT
    assert second.startswith("mask_rcnn_hub | photos: 1 | CPU (") and "JAX" not in second


@pytest.fixture
def start(monkeypatch, capsys):
    """Calls device.start beside a driver with GPUs of these compute capabilities, of which TensorFlow sees some.

    It returns what was printed, and the indices of the GPUs that TensorFlow may use.
    """
    monkeypatch.setattr(sys, "argv", [str(ROOT / "recipes" / "unet_scratch.py"), "--data", "my photos"])

    def call(capabilities, seen=0, **options):
        visible = []
        settings = tf.config.experimental
        monkeypatch.setattr(device, "driver_gpus", lambda: [device.Gpu("GeForce", each) for each in capabilities])
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(seen)))
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: visible.extend(devices))
        monkeypatch.setattr(settings, "set_memory_growth", lambda *_: None)
        details = {"device_name": "used", "compute_capability": (9, 0)}
        monkeypatch.setattr(settings, "get_device_details", lambda _: details)
        assert device.start(**options) == [device.Gpu("used", (9, 0))] * len(visible)
        return capsys.readouterr().out, visible

    return call


@pytest.mark.parametrize(
    ("capabilities", "seen", "visible"),
    [([], 0, []), ([(9, 0)], 1, [0]), ([(12, 0), (9, 0), (8, 0)], 3, [1]), ([], 1, [0])],  # the last is AMD's
)
def test_tensorflow_takes_the_first_gpu_that_it_was_built_for(start, capabilities, seen, visible):
    assert start(capabilities, seen) == ("", visible)


def test_the_first_line_says_how_to_install_cuda(start):
    out, _ = start([(9, 0)])
    assert "does not see the NVIDIA GPU" in out and out.endswith(f"{sys.executable} -m pip install '{device.CUDA}'\n")


@pytest.mark.parametrize("seen", [0, 1])  # without CUDA 12, and with it
@pytest.mark.parametrize("has_jax_cuda", [False, True])
def test_the_first_line_says_how_to_use_a_gpu_that_is_too_new_for_tensorflow(
    start, tmp_path, monkeypatch, seen, has_jax_cuda
):
    """RTX 50xx: TensorFlow must not see it."""
    if has_jax_cuda:
        (tmp_path / "jax_cuda13_plugin").mkdir()
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    out, visible = start([(12, 0)], seen)
    install = "" if has_jax_cuda else f"{sys.executable} -m pip install 'jax[cuda13]', then "
    command = "KERAS_BACKEND=jax python recipes/unet_scratch.py --data 'my photos'"
    assert out == f"{NOT_BUILT} To use the GPU: {install}{command}\n" and visible == []


def test_the_first_line_of_a_training_says_how_to_use_all_gpus(start):
    out, visible = start([(9, 0), (8, 0)], 2, uses_all=True)
    assert out.startswith("TensorFlow uses one of 2 GPUs. To use all of them: ")
    assert out.endswith(f"{shlex.join(sys.argv[1:])}\n") and visible == [0]


def test_the_first_line_says_that_jax_misses_cuda(start, monkeypatch):
    jax = SimpleNamespace(local_devices=lambda: [SimpleNamespace(platform="cpu")])
    jax.local_device_count = jax.device_count = jax.process_count = lambda: 1
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    out, _ = start([(12, 0)])
    assert out.startswith("JAX does not see the NVIDIA GPU. To install CUDA for it: ")
    assert f"{sys.executable} -m pip install 'jax[cuda13]'" in out


def test_the_commands_for_cuda_are_those_of_the_readme_and_fit_the_requirements():
    readme = (ROOT / "README.md").read_text()
    assert f"pip install '{device.CUDA}'" in readme and f"pip install '{device.JAX}'" in readme
    assert device.CUDA.replace("[and-cuda]", "") in (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize(
    ("backend", "capabilities", "precision"),
    [
        ("tensorflow", [(6, 1)], "float32"),
        ("tensorflow", [(7, 0)], "mixed_float16"),
        ("tensorflow", [(9, 0)], "mixed_float16"),
        ("jax", [(6, 1)], "float32"),
        ("jax", [(7, 5)], "mixed_float16"),
        ("jax", [(8, 0), (12, 0)], "mixed_bfloat16"),
        ("jax", [(12, 0), (7, 5)], "mixed_float16"),  # the oldest GPU decides
    ],
)
def test_the_precision_of_gpus(monkeypatch, backend, capabilities, precision):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    assert device.best_precision([device.Gpu("GPU", capability) for capability in capabilities]) == precision


@pytest.mark.parametrize(("slower", "precision"), [("bfloat16", "float32"), ("float32", "mixed_bfloat16")])
def test_the_precision_of_a_cpu_is_measured(monkeypatch, slower, precision):
    convolve = keras.ops.conv

    def convolve_as_on_another_cpu(inputs, *args, **options):
        for _ in range(30 if keras.backend.standardize_dtype(inputs.dtype) == slower else 1):
            outputs = convolve(inputs, *args, **options)
        return outputs

    monkeypatch.setattr(keras.ops, "conv", convolve_as_on_another_cpu)
    assert device.best_precision([]) == precision


def test_the_names_of_several_gpus(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    gpus = [SimpleNamespace(device_kind="NVIDIA H200", compute_capability="9.0")] * 2
    gpus += [SimpleNamespace(device_kind="AMD", compute_capability="gfx942")]
    known = [device._from_jax(gpu) for gpu in gpus]
    assert [gpu.capability for gpu in known] == [(9, 0), (9, 0), device.BFLOAT16]
    assert device.description(known) == "2 x NVIDIA H200, AMD with JAX"


@pytest.fixture
def listed_gpu(monkeypatch):
    """TensorFlow lists a GPU, which makes Keras compile with XLA."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [SimpleNamespace(device_type="GPU")])


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_gpu_that_tensorflow_must_not_use_makes_no_xla_on_the_cpu(listed_gpu, has_gpu):
    inputs = keras.Input((8, 8, 3))
    model = backend.prepare(keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs)), has_gpu)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    assert model.jit_compile == has_gpu
    assert type(model.optimizer) is (keras.optimizers.Adam if has_gpu else optimizer.FusedAdam)


@networks.first_recipe_fast
def test_a_training_as_on_a_gpu(command_line, tmp_path, monkeypatch, listed_gpu, name):
    """Two steps compiled by XLA, in mixed_float16 with loss scaling and Keras' own layers, then the saved model."""
    monkeypatch.setattr(device, "start", lambda **_: [device.Gpu("a GPU with tensor cores", (8, 0))])
    models = []
    prepare = runs.Run.prepare
    monkeypatch.setattr(runs.Run, "prepare", lambda run, model: models.append(prepare(run, model)) or models[0])
    flags = ["--data", "synthetic", "--image-size", 32, "--limit", 16, "--batch-size", 8, "--epochs", 1]
    flags += ["--backbone-weights", "none"] if networks.has_encoder(name) else []
    status, out, err = command_line(networks.MODULES[name], *flags, "--output", tmp_path)
    assert status == 0, err  # XLA logs that it was used
    assert "a GPU with tensor cores | mixed_float16" in out.splitlines()[0]

    (model,) = models
    assert model.jit_compile and isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(model.optimizer.inner_optimizer.iterations) == 2  # a step with infinite gradients is not counted
    saved = keras.saving.load_model(tmp_path / f"{name}.keras")
    for trained, loaded in zip(model.get_weights(), saved.get_weights(), strict=True):
        assert np.isfinite(loaded).all()
        np.testing.assert_array_equal(trained, loaded)
