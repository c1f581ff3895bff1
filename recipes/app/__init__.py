"""What makes a recipe a program; a reader of the recipes need not open it.

Import it before TensorFlow, Keras and matplotlib, which read these settings when they are imported.
"""

import importlib.util
import logging
import os
import pathlib
import platform
import warnings

# TensorFlow warns if it finds no CUDA. That matters only on a machine with an NVIDIA driver (/dev/dxg on WSL).
has_driver = any(pathlib.Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/dxg"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if has_driver else "3")
if platform.machine() in ("x86_64", "AMD64"):
    # TensorFlow turns oneDNN on only for CPUs with AVX512-VNNI; others train up to twice as fast with it too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
requested_backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
# Keras must be able to import its backend; device.check_backend explains what is wrong with the requested one.
os.environ["KERAS_BACKEND"] = "jax" if requested_backend == "jax" and importlib.util.find_spec("jax") else "tensorflow"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take three quarters of a GPU's memory
os.environ.setdefault("JAX_ENABLE_PREEMPTION_SERVICE", "false")  # it would swallow SIGTERM
logging.getLogger("jax").setLevel(logging.ERROR)  # device.start says itself that JAX has no CUDA
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # the recipes report unreadable files themselves
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if platform.system() == "Darwin":  # where Python from python.org has no certificates of its own
    import certifi

    os.environ.setdefault("SSL_CERT_FILE", certifi.where())
os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files, also without a screen
warnings.filterwarnings("ignore", category=FutureWarning, module="google")  # about the end of Python 3.10
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # imported by tensorflow-hub
warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
