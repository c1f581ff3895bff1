"""Trained detectors as SavedModels, with the inputs and outputs of Mask R-CNN on TensorFlow Hub."""

import pathlib
from collections.abc import Sequence

from app.detection import network

import numpy as np
import tensorflow as tf
import tf_keras


class Detector(tf.Module):
    """From a photo, uint8 [1, H, W, 3], to its instances; see detector.py for the outputs.

    It keeps the variables only. TensorFlow would trace a Keras model for training too, which this one does not survive.
    The network's classes 1, 2, ... are the categories of `category_ids`.
    """

    def __init__(self, model: tf_keras.Model, image_size: int, category_ids: Sequence[int]):
        super().__init__()
        self.weights = model.variables
        self.category_ids = tf.constant([0, *category_ids], tf.int32)  # class 0 is the background

        @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8, name="input_tensor")])
        def detect(input_tensor):
            shape = tf.cast(tf.shape(input_tensor)[1:3], tf.float32)
            fitted = tf.maximum(tf.round(shape * tf.reduce_min(image_size / shape)), 1.0)
            image = tf.image.resize(input_tensor[0], tf.cast(fitted, tf.int32), antialias=True)
            padding = tf.cast(image_size - fitted, tf.int32)
            image = tf.pad(image, [[0, padding[0]], [0, padding[1]], [0, 0]], constant_values=128)
            image = tf.ensure_shape(network.normalize(image), (image_size, image_size, 3))
            found = model(image[tf.newaxis], image_shape=fitted[tf.newaxis], training=False)
            spread = tf.constant(_spread(found["detection_masks"].shape[-1]), tf.float32)
            boxes = tf.clip_by_value(found["detection_boxes"] / tf.tile(fitted, [2]), 0.0, 1.0)
            return {
                "detection_boxes": boxes,
                "detection_classes": tf.cast(tf.gather(self.category_ids, found["detection_classes"]), tf.float32),
                "detection_scores": found["detection_scores"],
                "detection_masks": tf.einsum("yh,bnhw,xw->bnyx", spread, found["detection_masks"], spread),
                "num_detections": tf.cast(found["num_detections"], tf.float32),
            }

        self.detect = detect


def _spread(samples: int) -> np.ndarray:
    """Weights [2 samples, samples] that enlarge the rows or columns of a mask, from its box's edge to edge.

    The network's samples lie in the middle of their parts of the box; readers expect the first and the last on its
    edges.
    """
    places = np.clip(np.linspace(0, samples, 2 * samples) - 0.5, 0, samples - 1)
    return np.maximum(0, 1 - np.abs(places[:, np.newaxis] - np.arange(samples)))


def save(detector: Detector, folder: pathlib.Path) -> None:
    """Writes a detector as a SavedModel."""
    signature = detector.detect.get_concrete_function()
    tf.saved_model.save(detector, str(folder), signatures={"serving_default": signature})
