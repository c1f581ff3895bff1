"""What the recipes share: data, masks (rendering), plots, scores and runs.

Import it before TensorFlow: these settings are read once, when TensorFlow and matplotlib load.
"""

import os
import pathlib

# Where there is no NVIDIA driver, TensorFlow's complaint about it is noise; where there is one, it is news.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if pathlib.Path("/proc/driver/nvidia").exists() else "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files, also where there is no screen
