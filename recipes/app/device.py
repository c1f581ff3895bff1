"""The GPUs or the CPU that a program runs on, and the precision they are fast in."""

import os
import pathlib

import tensorflow as tf


def gpu_details() -> list[dict]:
    """TensorFlow's details of each GPU. Call it before TensorFlow uses them: it makes memory grow as needed."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def description(gpus: list[dict]) -> str:
    return ", ".join(gpu.get("device_name", "GPU") for gpu in gpus) or f"CPU ({os.cpu_count()} cores)"


def best_precision(gpus: list[dict]) -> str:
    """The fastest dtype policy of the device. Weights and their updates are float32 in all of them."""
    if gpus:
        tensor_cores = all(gpu.get("compute_capability", (0, 0)) >= (7, 0) for gpu in gpus)
        return "mixed_float16" if tensor_cores else "float32"
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return "mixed_bfloat16" if cpuinfo.exists() and "bf16" in cpuinfo.read_text() else "float32"
