"""Trained detectors as SavedModels, with the inputs and outputs of Mask R-CNN on TensorFlow Hub."""

import pathlib
from collections.abc import Callable, Sequence

from app.detect import network
from app.detect.detector import COARSE_MASKS, PHOTO

import numpy as np
import tensorflow as tf
import tf_keras


def detector(model: tf_keras.Model, image_size: int, category_ids: Sequence[int]) -> tf.types.experimental.Callable:
    """A function from a photo, uint8 [1, H, W, 3], to its instances; see detector.py for the outputs.

    The network's classes 1, 2, ... are the categories of `category_ids`.
    """

    @tf.function(input_signature=[PHOTO])
    def detect(input_tensor):
        shape = tf.cast(tf.shape(input_tensor)[1:3], tf.float32)
        fitted = tf.maximum(tf.round(shape * tf.reduce_min(image_size / shape)), 1.0)
        image = tf.image.resize(input_tensor[0], tf.cast(fitted, tf.int32), antialias=True)
        padding = tf.cast(image_size - fitted, tf.int32)
        image = tf.pad(image, [[0, padding[0]], [0, padding[1]], [0, 0]], constant_values=128)
        image = tf.ensure_shape(network.normalize(image), (image_size, image_size, 3))
        outputs = model(image[tf.newaxis], image_shape=fitted[tf.newaxis], training=False)
        spread = tf.constant(_spread(outputs["detection_masks"].shape[-1]), tf.float32)
        ids = tf.constant([0, *category_ids], tf.int32)  # class 0 is the background
        return {
            "detection_boxes": tf.clip_by_value(outputs["detection_boxes"] / tf.tile(fitted, [2]), 0.0, 1.0),
            "detection_classes": tf.cast(tf.gather(ids, outputs["detection_classes"]), tf.float32),
            "detection_scores": outputs["detection_scores"],
            "detection_masks": tf.einsum("yh,bnhw,xw->bnyx", spread, outputs["detection_masks"], spread),
            "num_detections": tf.cast(outputs["num_detections"], tf.float32),
            COARSE_MASKS: tf.constant([1.0]),
        }

    return detect


def _spread(samples: int) -> np.ndarray:
    """Weights [2 samples, samples] that enlarge the rows or columns of a mask, from its box's edge to edge.

    The network's samples lie in the middle of their parts of the box; readers expect the first and the last on its
    edges.
    """
    places = np.clip(np.linspace(0, samples, 2 * samples) - 0.5, 0, samples - 1)
    return np.maximum(0, 1 - np.abs(places[:, np.newaxis] - np.arange(samples)))


def save(detect: Callable, folder: pathlib.Path) -> None:
    """Writes a detector as a SavedModel, its weights as constants in float16.

    With variables, TensorFlow would trace the network for training too, which fails.
    """
    concrete = detect.get_concrete_function()
    graph = concrete.graph.as_graph_def()
    names = [output.name for output in concrete.outputs]
    values = {id(variable.handle): variable.numpy() for variable in concrete.variables}
    captured = {
        inside.op.name: values[id(handle)] for handle, inside in concrete.graph.captures if id(handle) in values
    }
    for node in list(graph.node):
        if node.op == "ReadVariableOp" and node.input[0] in captured:
            _replace(graph, node, captured[node.input[0]])
        elif node.name in captured:
            graph.node.remove(node)

    @tf.function(input_signature=[PHOTO])
    def restored(input_tensor):
        outputs = tf.graph_util.import_graph_def(graph, {concrete.inputs[0].name: input_tensor}, names)
        return tf.nest.pack_sequence_as(concrete.structured_outputs, outputs)

    module = tf.Module()
    module.detect = restored
    tf.saved_model.save(module, str(folder), signatures={"serving_default": restored})


def _replace(graph: tf.compat.v1.GraphDef, node: tf.compat.v1.NodeDef, values: np.ndarray) -> None:
    """Replaces the reading of a variable by a cast from a constant in float16."""
    half = graph.node.add(name=f"{node.name}/half", op="Const")
    half.attr["dtype"].type = tf.float16.as_datatype_enum
    half.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values.astype(np.float16)))
    node.op = "Cast"
    node.input[:] = [half.name]
    node.attr.clear()
    node.attr["SrcT"].type = tf.float16.as_datatype_enum
    node.attr["DstT"].type = tf.float32.as_datatype_enum
