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


def distribute(batch_size: int) -> None:
    """Divides each batch between all devices of all processes, on JAX. Call it before a model is built."""
    devices = len(keras.distribution.list_devices()) if device.uses_jax() else 1
    if batch_size % devices:
        raise InputError(f"--batch-size: {batch_size} is not a multiple of {devices}, the number of devices")
    if devices > 1:
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)  # `feed` divides the batches
        keras.distribution.set_distribution(parallel)


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """Models that are built in this context belong to this process alone."""
    distribution = keras.distribution.distribution()  # None on TensorFlow
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def prepare(model: keras.Model, has_gpu: bool) -> keras.Model:
    """The model to train: for TensorFlow on a CPU a copy with faster layers, whose `compile` takes a faster Adam."""
    if device.uses_jax() or has_gpu:
        return model
    model = layers.optimize_for_cpu(model)
    optimizer.use_fused_adam(model)
    return model


def feed(data: Data, batch_size: int, processes: Processes) -> Data:
    """The data as `fit` takes it: on JAX, this process' part of each batch.

    JAX compiles once per batch size, so the last validation batch is filled up with images whose weight is 0.
    """
    if not device.uses_jax():
        return data
    part = batch_size // processes.count
    own = slice(processes.number * part, (processes.number + 1) * part)
    count = data.counts["validation"]
    filled_count = -(-count // batch_size) * batch_size

    def fill(images, labels):
        missing = batch_size - tf.shape(images)[0]
        images = tf.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        labels = tf.pad(labels, ((0, missing), (0, 0), (0, 0)), constant_values=255)  # no class: ignored
        # Keras divides the loss by the number of all images, ignored ones included.
        weights = tf.where(tf.range(batch_size) < batch_size - missing, filled_count / count, 0.0)
        return images, labels, tf.cast(weights, tf.float32)

    def divide(*parts):
        return tuple(part[own] for part in parts)

    return data._replace(
        train_from=lambda step: data.train_from(step).map(divide),
        validation=data.validation.map(fill).map(divide).prefetch(tf.data.AUTOTUNE),
    )


def forward(model: keras.Model, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A compiled function from float32 images [B, H, W, 3], B <= `batch_size`, to the model's outputs.

    JAX compiles it for full batches, which shorter ones are filled up to, and for single images.
    """
    if not device.uses_jax():
        call = tf.function(lambda pixels: model(pixels, training=False), [tf.TensorSpec(model.input_shape)])
        return lambda pixels: call(pixels).numpy()

    import jax

    call = jax.jit(lambda variables, pixels: model.stateless_call(*variables, pixels, training=False)[0])
    groups = (model.trainable_variables, model.non_trainable_variables)
    variables = [[variable.value for variable in group] for group in groups]

    def fill_and_call(pixels):
        missing = batch_size - len(pixels) if len(pixels) > 1 else 0
        filled = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0)))
        return np.asarray(call(variables, filled))[: len(pixels)]

    return fill_and_call
