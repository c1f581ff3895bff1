"""Mask R-CNN, which runs on TensorFlow, whatever the other recipes run on."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
