"""The GPUs or the CPU that a program runs on, and the precision they are fast in."""

import contextlib
import ctypes
import importlib.util
import itertools
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
MAJOR, MINOR = 75, 76  # numbers of the compute capability among the attributes of CUDA's driver API
NEWEST = (9, 0)  # compute capability for which TensorFlow's wheels with CUDA are built
TENSOR_CORES, BFLOAT16 = (7, 0), (8, 0)  # compute capabilities from which a GPU is fast in float16 and in bfloat16
DTYPES = ("float32", "bfloat16")
GAIN = 1.2  # a CPU is fast in bfloat16 if it convolves at least this many times as fast as in float32


class Gpu(NamedTuple):
    """A GPU, and its compute capability, such as (9, 0)."""

    name: str
    capability: tuple[int, int]


def check_backend() -> None:
    """Raises InputError if KERAS_BACKEND names a backend that the recipes cannot use."""
    wanted = app.requested_backend
    if wanted not in ("tensorflow", "jax"):
        raise InputError(f"KERAS_BACKEND={wanted}: the recipes run on tensorflow or jax")
    if wanted == "jax" and not uses_jax():
        raise InputError(
            f"KERAS_BACKEND=jax: JAX is not installed; {_pip(JAX)}, or without an NVIDIA GPU {_pip('jax')}"
        )


def uses_jax() -> bool:
    """Whether Keras runs on JAX, otherwise on TensorFlow."""
    return os.environ["KERAS_BACKEND"] == "jax"


def start(runs_on_jax: bool = True, uses_all: bool = False) -> list[Gpu]:
    """Prepares the devices of Keras' backend; returns the GPUs that it uses, and prints how to use the others.

    Call it before TensorFlow or JAX computes anything.

    Args:
      runs_on_jax: whether this program could run on JAX.
      uses_all: whether it would then use all GPUs; otherwise it uses one.
    Raises:
      InputError: if several processes have different numbers of devices.
    """
    if not uses_jax():
        return _start_tensorflow(_use_jax() if runs_on_jax else "", uses_all)
    tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads the photos
    import jax

    own, together = jax.local_device_count(), jax.device_count()
    if own * jax.process_count() != together:
        raise InputError(f"the processes have different numbers of devices, this one {own} of {together}")
    gpus = [_of_jax(device) for device in jax.local_devices() if device.platform != "cpu"]
    if not gpus and driver_gpus() and not os.environ.get("JAX_PLATFORMS"):
        advice = f"for NVIDIA's driver 580 or later {_pip(JAX)}, for an older one {_pip('jax[cuda12]')}"
        why = "its CUDA does not fit the driver" if _has_jax_cuda() else "it is installed without CUDA"
        print(f"JAX does not see the NVIDIA GPU, because {why}: {advice}", flush=True)
    return gpus if uses_all else gpus[:1]


def _start_tensorflow(jax: str, uses_all: bool) -> list[Gpu]:
    """Lets TensorFlow use one GPU, and only one for which it was built.

    On a newer one it would compile for half an hour, or abort. So the driver is asked before TensorFlow is.

    Args:
      jax: the command that runs this program on JAX, if it can.
      uses_all: whether it would then use all GPUs.
    """
    known, newest = driver_gpus(), _newest_for_tensorflow()
    seen = tf.config.list_physical_devices("GPU")  # in the order of the driver, which knows nothing of AMD's GPUs
    pairs = itertools.zip_longest(seen, known[: len(seen)])
    usable = [device for device, gpu in pairs if gpu is None or gpu.capability <= newest]
    too_new = [gpu for gpu in known if gpu.capability > newest]
    if too_new and not usable:
        what = f"TensorFlow {tf.__version__} is not built for the {too_new[0].name}, and uses the CPU."
        print(f"{what} On the GPU: {jax}" if jax else what, flush=True)
    elif known and not usable:
        print(f"TensorFlow does not see the NVIDIA GPU. This installs CUDA for it: {_pip(CUDA)}", flush=True)
    elif len(seen) > 1 and uses_all:
        print(f"TensorFlow uses one of {len(seen)} GPUs. On all of them: {jax}", flush=True)
    tf.config.set_visible_devices(usable[:1], "GPU")
    for device in usable[:1]:
        tf.config.experimental.set_memory_growth(device, True)  # takes memory as needed
    details = [tf.config.experimental.get_device_details(device) for device in usable[:1]]
    return [Gpu(one.get("device_name", "GPU"), one.get("compute_capability", (0, 0))) for one in details]


def _newest_for_tensorflow() -> tuple[int, int]:
    """The highest compute capability for which the installed TensorFlow has code, named like sm_89 or compute_90."""
    names = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", ())
    digits = [re.sub(r"\D", "", name) for name in names]
    return max(((int(number[:-1]), int(number[-1])) for number in digits), default=NEWEST)


def _of_jax(device) -> Gpu:
    capability = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    # Other than NVIDIA's, what JAX runs on has bfloat16.
    return Gpu(device.device_kind, tuple(map(int, capability.groups())) if capability else BFLOAT16)


def driver_gpus() -> list[Gpu]:
    """The GPUs that NVIDIA's driver offers, in its order, whether TensorFlow or JAX can use them or not."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, gpus = ctypes.c_int(), []
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    for index in range(count.value):
        gpu, major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(100)
        driver.cuDeviceGet(ctypes.byref(gpu), index)
        driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, gpu)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, gpu)
        driver.cuDeviceGetName(name, len(name), gpu)
        gpus.append(Gpu(name.value.decode(errors="replace"), (major.value, minor.value)))
    return gpus


def _pip(package: str) -> str:
    """The command that installs a package, with what it needs before."""
    needs = "with Python 3.11 or later " if package.startswith("jax") and sys.version_info < (3, 11) else ""
    return needs + shlex.join([sys.executable, "-m", "pip", "install", package])


def _has_jax_cuda() -> bool:
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def _use_jax() -> str:
    """How to run this program on JAX: a command, after another one if JAX has no CUDA yet."""
    command = "KERAS_BACKEND=jax " + shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    return command if _has_jax_cuda() else f"{_pip(JAX)}, then {command}"


def save_memory() -> None:
    """Makes TensorFlow run one operation at a time on a CPU, each on all cores.

    The backward pass then frees activations as early as possible: measured on two cores, a training takes up to a
    seventh less memory and the same time. Call it before TensorFlow computes anything; later it does nothing.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_inter_op_parallelism_threads(1)


def description(gpus: list[Gpu]) -> str:
    """The devices, as the first line of a program names them."""
    names = [gpu.name for gpu in gpus]
    where = ", ".join(
        f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )
    if not uses_jax():
        return where or f"CPU ({os.cpu_count()} cores)"
    return f"{where} with JAX" if where else f"CPU ({os.cpu_count()} cores) with JAX, slower than with TensorFlow"


def best_precision(gpus: list[Gpu]) -> str:
    """The fastest dtype policy of the devices. Weights and their updates are float32 in all of them."""
    if not gpus:
        return "mixed_bfloat16" if _is_bfloat16_faster() else "float32"
    oldest = min(gpu.capability for gpu in gpus)
    if uses_jax() and oldest >= BFLOAT16:  # as fast as float16, and no loss to scale
        return "mixed_bfloat16"
    return "mixed_float16" if oldest >= TENSOR_CORES else "float32"


def _is_bfloat16_faster() -> bool:
    """Convolves a few images on the CPU: some have no instructions for bfloat16, some backends do not use them."""
    from keras import ops  # not before the backend is chosen

    inputs = {dtype: (ops.ones((8, 32, 32, 64), dtype), ops.ones((3, 3, 64, 64), dtype)) for dtype in DTYPES}

    def seconds(dtype):
        began = time.perf_counter()
        ops.convert_to_numpy(ops.conv(*inputs[dtype], padding="same"))
        return time.perf_counter() - began

    for dtype in DTYPES:
        seconds(dtype)  # compiles
    rounds = [[seconds(dtype) for dtype in DTYPES] for _ in range(5)]
    in_float32, in_bfloat16 = (min(times) for times in zip(*rounds, strict=True))
    return in_float32 > GAIN * in_bfloat16
