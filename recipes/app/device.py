"""The GPU or CPU that a program runs on, and the fastest precision there."""

import collections
import contextlib
import ctypes
import importlib.util
import os
import re
import shlex
import sys
import time
from typing import NamedTuple

import app
from app.cli import InputError

import tensorflow as tf

CUDA = "tensorflow[and-cuda]>=2.20,<2.21"  # as in the README
JAX = "jax[cuda13]"
BFLOAT16 = (8, 0)  # compute capability from which bfloat16 is fast


class Gpu(NamedTuple):
    name: str
    capability: tuple[int, int]  # compute capability, such as (9, 0)


def check_backend() -> None:
    """Raises InputError if KERAS_BACKEND names a backend that the recipes cannot use."""
    wanted = app.requested_backend
    if wanted not in ("tensorflow", "jax"):
        raise InputError(f"KERAS_BACKEND={wanted}: the recipes run on tensorflow or jax")
    if wanted == "jax" and not uses_jax():
        raise InputError(f"KERAS_BACKEND=jax: JAX is not installed; {_pip(JAX)}, or without a GPU {_pip('jax')}")


def uses_jax() -> bool:
    """Whether Keras runs on JAX, otherwise on TensorFlow."""
    return os.environ["KERAS_BACKEND"] == "jax"


def start(runs_on_jax: bool = True, uses_all: bool = False) -> list[Gpu]:
    """Selects the GPUs to use and returns them; prints how to use those that are left out.

    Call it before TensorFlow or JAX computes anything. `runs_on_jax` says whether this program also runs on JAX, and
    `uses_all` whether it uses all GPUs there, or one.
    """
    if not uses_jax():
        return _start_tensorflow(runs_on_jax, uses_all)
    tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads the photos
    import jax

    local = jax.local_device_count()
    if local * jax.process_count() != jax.device_count():
        raise InputError(f"the processes have different numbers of devices, this one {local} of {jax.device_count()}")
    gpus = [_from_jax(device) for device in jax.local_devices() if device.platform != "cpu"]
    if not gpus and driver_gpus() and not os.environ.get("JAX_PLATFORMS"):
        advice = f"for driver 580 or later {_pip(JAX)}, for an older one {_pip('jax[cuda12]')}"
        print(f"JAX does not see the NVIDIA GPU. To install CUDA for it: {advice}", flush=True)
    return gpus if uses_all else gpus[:1]


def _start_tensorflow(runs_on_jax: bool, uses_all: bool) -> list[Gpu]:
    """Makes one GPU visible to TensorFlow: the first that it was built for.

    On a newer one it would compile for half an hour, or abort, so the driver is asked first.
    """
    known = driver_gpus()
    # Named like sm_89 or compute_90; wheels without CUDA name none, and those with CUDA reach 9.0.
    built_for = tf.sysconfig.get_build_info().get("cuda_compute_capabilities") or ["sm_90"]
    newest = divmod(max(int(re.sub(r"\D", "", name)) for name in built_for), 10)
    seen = tf.config.list_physical_devices("GPU")  # in the driver's order; it does not know AMD's GPUs
    usable = [gpu for index, gpu in enumerate(seen) if index >= len(known) or known[index].capability <= newest]
    too_new = [gpu.name for gpu in known if gpu.capability > newest]
    if usable:
        if len(seen) > 1 and uses_all:
            print(f"TensorFlow uses one of {len(seen)} GPUs. To use all of them: {_jax_command()}", flush=True)
    elif too_new:
        advice = f" To use the GPU: {_jax_command()}" if runs_on_jax else ""
        print(f"TensorFlow {tf.__version__} is not built for the {too_new[0]}, and uses the CPU.{advice}", flush=True)
    elif known:
        print(f"TensorFlow does not see the NVIDIA GPU. To install CUDA for it: {_pip(CUDA)}", flush=True)
    tf.config.set_visible_devices(usable[:1], "GPU")
    if not usable:
        return []
    tf.config.experimental.set_memory_growth(usable[0], True)  # takes memory as needed
    details = tf.config.experimental.get_device_details(usable[0])
    return [Gpu(details.get("device_name", "GPU"), details.get("compute_capability", (0, 0)))]


def _from_jax(device) -> Gpu:
    capability = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    # GPUs of other makers have none; those that JAX supports have bfloat16.
    return Gpu(device.device_kind, tuple(map(int, capability.groups())) if capability else BFLOAT16)


def driver_gpus() -> list[Gpu]:
    """The GPUs of NVIDIA's driver in its order, whether or not TensorFlow or JAX can use them."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    gpus = []
    for index in range(count.value):
        gpu, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(100)
        driver.cuDeviceGet(ctypes.byref(gpu), index)
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, gpu)  # 75 and 76 are the compute capability
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, gpu)
        driver.cuDeviceGetName(name, len(name), gpu)
        gpus.append(Gpu(name.value.decode(errors="replace"), (major.value, minor.value)))
    return gpus


def _pip(package: str) -> str:
    """The command that installs a package, after what it needs."""
    needs = "with Python 3.11 or later " if package.startswith("jax") and sys.version_info < (3, 11) else ""
    return needs + shlex.join([sys.executable, "-m", "pip", "install", package])


def _jax_command() -> str:
    """The command that runs this program on JAX, after the one that installs JAX with CUDA where it is missing."""
    command = "KERAS_BACKEND=jax " + shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    has_cuda = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    return command if has_cuda else f"{_pip(JAX)}, then {command}"


def save_memory() -> None:
    """Makes TensorFlow run one operation at a time, each on all cores of a CPU, unless it has computed anything yet.

    The backward pass then frees activations earlier: up to a seventh less memory in the same time, on two cores.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_inter_op_parallelism_threads(1)


def description(gpus: list[Gpu]) -> str:
    """The devices and the backend, for the first line that a program prints."""
    counts = collections.Counter(gpu.name for gpu in gpus)
    names = [f"{count} x {name}" if count > 1 else name for name, count in counts.items()]
    text = ", ".join(names) or f"CPU ({os.cpu_count()} cores)"
    if not uses_jax():
        return text
    return f"{text} with JAX" if gpus else f"{text} with JAX, slower than with TensorFlow"


def best_precision(gpus: list[Gpu]) -> str:
    """The dtype policy in which these devices train fastest. Weights and their updates are float32 in all of them."""
    if not gpus:
        return "mixed_bfloat16" if _is_bfloat16_faster() else "float32"
    oldest = min(gpu.capability for gpu in gpus)
    if uses_jax() and oldest >= BFLOAT16:  # as fast as float16, and needs no loss scaling
        return "mixed_bfloat16"
    return "mixed_float16" if oldest >= (7, 0) else "float32"  # the first with tensor cores


def _is_bfloat16_faster() -> bool:
    """Times a convolution on the CPU: some have no bfloat16 instructions, and some backends do not use them."""
    from keras import ops  # not before the backend is chosen

    seconds = {"float32": [], "bfloat16": []}
    inputs = {dtype: (ops.ones((8, 32, 32, 64), dtype), ops.ones((3, 3, 64, 64), dtype)) for dtype in seconds}
    for _ in range(6):  # the first round compiles; of the others one will do that no other program disturbs
        for dtype, times in seconds.items():
            began = time.perf_counter()
            ops.convert_to_numpy(ops.conv(*inputs[dtype], padding="same"))
            times.append(time.perf_counter() - began)
    return min(seconds["float32"]) > 1.2 * min(seconds["bfloat16"])  # not for a small gain
