"""What a program does differently on Keras' two backends, TensorFlow and JAX."""

import contextlib
from collections.abc import Callable, Iterator

from app import device
from app.cli import InputError
from app.cpu import layers, optimizer
from app.processes import Processes
from common.data import Data

import keras
import numpy as np
import tensorflow as tf

IGNORED = 255  # label of the pixels that fill up a batch


def distribute(batch_size: int) -> None:
    """Lets JAX share each batch between all devices of all processes. Call it before a model is built.

    Raises:
      InputError: if the devices cannot share a batch evenly.
    """
    devices = len(keras.distribution.list_devices()) if device.uses_jax() else 1
    if batch_size % devices:
        advice = f"use a multiple of {devices}"
        raise InputError(f"--batch-size: {batch_size} cannot be shared by {devices} devices; {advice}")
    if devices > 1:
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)  # `feed` divides the batches
        keras.distribution.set_distribution(parallel)


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """The models that are built here belong to this process alone."""
    distribution = keras.distribution.distribution()  # None on TensorFlow
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def prepare(model: keras.Model, has_gpu: bool) -> keras.Model:
    """The model to train; for TensorFlow on a CPU a copy with faster layers, which also takes a faster Adam."""
    if device.uses_jax() or has_gpu:
        return model
    model = layers.optimize_for_cpu(model)
    optimizer.use_fused_adam(model)
    return model


def feed(data: Data, batch_size: int, processes: Processes) -> Data:
    """The data as `fit` takes it.

    JAX compiles for each size of a batch, and cannot share every size between devices: the last validation batch is
    filled up with ignored images, whose weight in the loss is 0. Several processes get their part of each batch.
    """
    if not device.uses_jax():
        return data
    part = batch_size // processes.count
    own = slice(processes.number * part, (processes.number + 1) * part)
    count = data.counts["validation"]
    total = -(-count // batch_size) * batch_size

    def fill(images, labels):
        missing = batch_size - tf.shape(images)[0]
        images = tf.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        labels = tf.pad(labels, ((0, missing), (0, 0), (0, 0)), constant_values=IGNORED)
        # Keras divides by all images, those that fill up included.
        weights = tf.where(tf.range(batch_size) < batch_size - missing, total / count, 0.0)
        return images, labels, tf.cast(weights, tf.float32)

    def divide(*parts):
        return tuple(one[own] for one in parts)

    return data._replace(
        train_from=lambda step: data.train_from(step).map(divide),
        validation=data.validation.map(fill).map(divide).prefetch(tf.data.AUTOTUNE),
    )


def forward(model: keras.Model, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a model for batches of up to `batch_size` images, float32 [B, H, W, 3], once or, on JAX, twice."""
    if not device.uses_jax():
        call = tf.function(
            lambda pixels: model(pixels, training=False), input_signature=[tf.TensorSpec(model.input_shape)]
        )
        return lambda pixels: call(pixels).numpy()

    import jax

    call = jax.jit(lambda variables, pixels: model.stateless_call(*variables, pixels, training=False)[0])
    groups = model.trainable_variables, model.non_trainable_variables
    variables = [[variable.value for variable in group] for group in groups]

    def fill_and_call(pixels):
        missing = batch_size - len(pixels) if len(pixels) > 1 else 0
        filled = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0)))
        return np.asarray(call(variables, filled))[: len(pixels)]

    return fill_and_call
