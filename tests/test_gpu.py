"""What a GPU changes, as far as a CPU can show it."""

import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

from app import backend, device, runs
from app.cpu import optimizer

import fcn_vgg16
import keras
import numpy as np
import pytest
import tensorflow as tf
import unet_mobilenetv2
import unet_scratch
from conftest import ROOT

# In a process of its own, a library that answers like NVIDIA's driver. TensorFlow has looked for the real one before,
# or is told that it sees as many GPUs as that driver.
BESIDE_A_DRIVER = """
import ctypes, runpy, sys
sys.path.insert(0, {folder!r})
import app, tensorflow as tf
tf.config.list_physical_devices()
driver = ctypes.CDLL({driver!r})
if {seen}:
    gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{{index}}", "GPU") for index in range({seen})]
    tf.config.list_physical_devices = lambda kind=None: gpus
    tf.config.set_visible_devices = lambda devices, kind: print("visible", [one.name[-1] for one in devices])
    tf.config.experimental.set_memory_growth = lambda device, grows: None
    tf.config.experimental.get_device_details = lambda device: dict(device_name="used", compute_capability=(9, 0))
sys.argv = [{recipe!r}, *{flags!r}]
runpy.run_path({recipe!r}, run_name="__main__")
"""
DRIVER = """
#include <string.h>
static const int capabilities[] = {%s};
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = %d; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "GeForce", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? capabilities[device] / 10 : attribute == 76 ? capabilities[device] %% 10 : -1;
    return 0;
}
"""
CAT = str(ROOT / "resources" / "photos" / "cat.jpg")


def beside_a_driver(tmp_path, capabilities, *, seen=0, recipe="unet_mobilenetv2", flags=("--predict", CAT), status=0):
    """Runs a recipe beside a driver with GPUs of these compute capabilities, like 90."""
    compiler = shutil.which("cc")
    if not compiler or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    numbers = ", ".join(map(str, capabilities)) or "0"
    (tmp_path / "driver.c").write_text(DRIVER % (numbers, len(capabilities)))
    driver = tmp_path / "driver.so"
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", tmp_path / "driver.c", "-o", driver]
    subprocess.run(command, check=True)
    path = str(ROOT / "recipes" / f"{recipe}.py")
    names = {"folder": str(ROOT / "recipes"), "driver": str(driver), "recipe": path, "seen": seen}
    names |= {"flags": [*flags, "--output", str(tmp_path / "output")]}
    program = BESIDE_A_DRIVER.format(**names)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == status and (status or done.stderr == ""), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("count", [1, 0])
def test_the_first_line_tells_of_a_gpu_that_tensorflow_does_not_see(tmp_path, count):
    first, *lines = beside_a_driver(tmp_path, [90] * count)
    mend = f"{sys.executable} -m pip install '{device.CUDA}'"
    assert ("does not see the NVIDIA GPU" in first and first.endswith(mend)) == bool(count), first
    assert "CPU (" in [first, *lines][count]


@pytest.mark.parametrize("seen", [0, 1])  # without CUDA 12, and with it
@pytest.mark.parametrize("has_jax", [False, True])
def test_the_first_line_tells_of_a_gpu_that_is_too_new_for_tensorflow(tmp_path, monkeypatch, seen, has_jax):
    """RTX 50xx: TensorFlow does not get to see it."""
    if has_jax:  # as if JAX had been installed with CUDA
        (tmp_path / "site" / "jax_cuda13_plugin").mkdir(parents=True)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    first, *lines = beside_a_driver(tmp_path, [120], seen=seen)
    what = f"TensorFlow {tf.__version__} is not built for the GeForce, and uses the CPU."
    install = f"{sys.executable} -m pip install 'jax[cuda13]', then "
    command = f"KERAS_BACKEND=jax python recipes/unet_mobilenetv2.py --predict {CAT} --output {tmp_path / 'output'}"
    assert first == f"{what} On the GPU: {'' if has_jax else install}{command}"
    assert lines[:seen] == ["visible []"][:seen] and "CPU (" in lines[seen]


def test_tensorflow_takes_the_first_gpu_that_it_was_built_for(tmp_path):
    visible, first, *_ = beside_a_driver(tmp_path, [120, 90, 80], seen=3)
    assert visible == "visible ['1']" and first.endswith("| used")


def test_the_first_line_of_a_training_says_how_to_use_all_gpus(tmp_path):
    """The program ends where the training would begin: TensorFlow has no such GPU."""
    flags = ("--data", "no such folder", "--epochs", "1", "--precision", "float32")
    first, visible = beside_a_driver(tmp_path, [90, 80], seen=2, recipe="unet_scratch", flags=flags, status=2)
    command = f"KERAS_BACKEND=jax python recipes/unet_scratch.py {shlex.join(flags)} --output {tmp_path / 'output'}"
    assert first.startswith("TensorFlow uses one of 2 GPUs. On all of them: ") and first.endswith(command)
    assert visible == "visible ['0']"


def test_mask_rcnn_names_no_backend_that_it_cannot_use(tmp_path, monkeypatch):
    """It runs on TensorFlow, with any KERAS_BACKEND."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    first, second, *_ = beside_a_driver(tmp_path, [120], recipe="mask_rcnn_hub", flags=(CAT, "--model", "small"))
    assert first.endswith("is not built for the GeForce, and uses the CPU.")
    assert second.startswith("mask_rcnn_hub | photos: 1 | CPU (") and "JAX" not in second


def test_the_first_line_tells_of_a_gpu_that_jax_does_not_see(tmp_path, monkeypatch):
    pytest.importorskip("jax", reason="JAX is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    first, second, *_ = beside_a_driver(tmp_path, [120])
    assert first.startswith("JAX does not see the NVIDIA GPU, because it is installed without CUDA: ")
    assert f"{sys.executable} -m pip install 'jax[cuda13]'" in first
    assert "with JAX, slower than with TensorFlow" in second


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
        ("jax", [(12, 0), (7, 5)], "mixed_float16"),  # the slowest GPU decides
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
    known = [device._of_jax(gpu) for gpu in gpus]
    assert [gpu.capability for gpu in known] == [(9, 0), (9, 0), device.BFLOAT16]
    assert device.description(known) == "2 x NVIDIA H200, AMD with JAX"


def see_a_gpu(monkeypatch):
    """TensorFlow lists a GPU, which is why Keras would compile with XLA."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [SimpleNamespace(device_type="GPU")])


def test_a_gpu_that_tensorflow_must_not_use_makes_no_xla_on_the_cpu(monkeypatch):
    see_a_gpu(monkeypatch)
    inputs = keras.Input((8, 8, 3))
    own = {}
    for has_gpu in (False, True):
        model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs), name="tiny")
        own[has_gpu] = backend.prepare(model, has_gpu)
        own[has_gpu].compile(keras.optimizers.Adam(0.1), "mse")
    assert not own[False].jit_compile and isinstance(own[False].optimizer, optimizer.FusedAdam)
    assert own[True].jit_compile and type(own[True].optimizer) is keras.optimizers.Adam


@pytest.mark.parametrize(
    "recipe",
    [unet_scratch, *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in (fcn_vgg16, unet_mobilenetv2))],
)
def test_a_training_as_on_a_gpu(command_line, tmp_path, monkeypatch, recipe):
    """Two steps compiled by XLA, in mixed_float16 with a scaled loss and Keras' own layers, and a save."""
    monkeypatch.setattr(device, "start", lambda **_: [device.Gpu("a GPU with tensor cores", (8, 0))])
    see_a_gpu(monkeypatch)
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
