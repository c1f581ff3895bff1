"""What the recipes share; each file says at its top what it is for.

Import it before TensorFlow: these settings are read once, when TensorFlow and matplotlib load.
"""

import os
import pathlib
import platform
import warnings

# Where there is no NVIDIA driver (/dev/dxg is WSL's), TensorFlow's complaint about it is noise; else it is news.
has_driver = any(pathlib.Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/dxg"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if has_driver else "3")
if platform.machine() in ("x86_64", "AMD64"):
    # TensorFlow uses oneDNN by itself on CPUs with AVX512-VNNI only; others train up to twice as fast with it too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # what it cannot read, the recipes say themselves
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files, also where there is no screen
warnings.filterwarnings("ignore", category=FutureWarning, module="google")  # about Python 3.10's end of life
warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in letters that the font lacks
