"""What makes a recipe a program; a reader of the recipes need not open it.

Import it before TensorFlow and matplotlib, which read these settings once, when they load.
"""

import importlib.util
import logging
import os
import pathlib
import platform
import warnings

# Without an NVIDIA driver (/dev/dxg on WSL) TensorFlow's warning that it finds none is noise; with one it is news.
has_driver = any(pathlib.Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/dxg"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if has_driver else "3")
if platform.machine() in ("x86_64", "AMD64"):
    # TensorFlow turns oneDNN on only for CPUs with AVX512-VNNI; others train up to twice as fast with it too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
requested_backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
is_installed = requested_backend == "jax" and importlib.util.find_spec("jax") is not None
# Keras needs a backend that it can import. device.check_backend says what is wrong with any other.
os.environ["KERAS_BACKEND"] = "jax" if is_installed else "tensorflow"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take three quarters of a GPU's memory
os.environ.setdefault("JAX_ENABLE_PREEMPTION_SERVICE", "false")  # it would swallow SIGTERM
logging.getLogger("jax").setLevel(logging.ERROR)  # device.py says itself that JAX misses CUDA
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # the recipes report unreadable files themselves
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files, also without a screen
warnings.filterwarnings("ignore", category=FutureWarning, module="google")  # Python 3.10 nears its end of life
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # imported by tensorflow-hub
warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
