"""The GPUs or the CPU that a program runs on, and the precision they are fast in."""

import contextlib
import ctypes
import os
import pathlib
import shlex
import sys

import tensorflow as tf

CUDA = "tensorflow[and-cuda]>=2.20,<2.21"  # as in the README


def gpu_details() -> list[dict]:
    """TensorFlow's details of each GPU; prints how to get one that only NVIDIA's driver sees.

    Call it before TensorFlow uses the GPUs: it makes their memory grow as needed.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus and _driver_sees_gpu():
        command = shlex.join([sys.executable, "-m", "pip", "install", CUDA])
        print(f"TensorFlow does not see the NVIDIA GPU. This installs CUDA for it: {command}", flush=True)
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def save_memory() -> None:
    """Makes TensorFlow run one operation at a time on a CPU, each on all cores.

    The backward pass then frees activations as early as possible: measured on two cores, a training takes up to a
    seventh less memory and the same time. Call it before TensorFlow computes anything; later it does nothing.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_inter_op_parallelism_threads(1)


def description(gpus: list[dict]) -> str:
    return ", ".join(gpu.get("device_name", "GPU") for gpu in gpus) or f"CPU ({os.cpu_count()} cores)"


def _driver_sees_gpu() -> bool:
    """Whether NVIDIA's driver offers a GPU, which TensorFlow cannot use without CUDA and cuDNN."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def best_precision(gpus: list[dict]) -> str:
    """The fastest dtype policy of the device. Weights and their updates are float32 in all of them."""
    if gpus:
        tensor_cores = all(gpu.get("compute_capability", (0, 0)) >= (7, 0) for gpu in gpus)
        return "mixed_float16" if tensor_cores else "float32"
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return "mixed_bfloat16" if cpuinfo.exists() and "bf16" in cpuinfo.read_text() else "float32"
