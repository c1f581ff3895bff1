"""The faster CPU layers match Keras' own."""

from app.cpu import layers as cpu_layers

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import MODULES, each_recipe

CONVOLUTIONS = {"fcn_vgg16": 6, "unet_mobilenetv2": 20, "unet_scratch": 8}  # at least; of another recipe one


def network() -> keras.Model:
    """Convolutions of every kind, common and odd, with batch normalisation, on 12 x 12 pixels."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(40, 4, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.Conv2D(50, 3, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2DTranspose(44, (4, 3), strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(epsilon=0.1)(x))
    x = layers.Conv2D(64, 1)(x)
    x = layers.BatchNormalization(trainable=False)(x)
    x = layers.Conv2DTranspose(64, 5, padding="valid", activation="tanh")(x)
    x = layers.DepthwiseConv2D(3, strides=2, use_bias=False)(x)
    x = layers.DepthwiseConv2D(4, strides=2, activation="relu")(layers.ZeroPadding2D(((0, 1), (2, 1)))(x))
    x = layers.Conv2DTranspose(3, 4, strides=2, padding="same", use_bias=False)(x)
    x = layers.Conv2D(40, 1)(x)
    x = layers.Conv2DTranspose(2, 8, strides=4, padding="same", activation="tanh")(x)
    return keras.Model(inputs, x, name="all_kinds")


def kinds(model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers if type(layer) in cpu_layers.PLAIN]


def trained(model, images, targets) -> list[np.ndarray]:
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse", jit_compile=False)
    model.fit(images, targets, batch_size=4, epochs=3, shuffle=False, verbose=0)
    return model.get_weights()


def test_training_and_outputs_match_keras():
    keras.utils.set_random_seed(0)
    plain = network()
    faster = cpu_layers.optimize_for_cpu(plain)
    assert len(kinds(faster)) == len([layer for layer in plain.layers if layer.weights])  # all replaced
    assert faster.name == "all_kinds"
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 12, 12, 3)).astype(np.float32)
    targets = rng.normal(size=(8, *plain.output_shape[1:]))
    before = plain.get_weights()
    np.testing.assert_allclose(faster(images), plain(images), atol=1e-5)
    after, expected = trained(faster, images, targets), trained(plain, images, targets)
    assert max(np.abs(one - other).max() for one, other in zip(before, expected, strict=True)) > 0.1
    for one, other in zip(after, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(faster(images), plain(images), atol=1e-4)


def test_unsupported_layers_are_left_alone():
    inputs = keras.Input((8, 8, 63))
    x = layers.Conv2D(63, 3, padding="same", dilation_rate=2)(inputs)
    x = layers.Conv2D(63, 3, padding="same", groups=3)(x)
    x = layers.Conv2D(63, 3, padding="same")(x)  # fewer channels than pixels
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.BatchNormalization(dtype="float64")(x)
    x = layers.Conv2DTranspose(60, 4, strides=2, padding="same")(x)  # fewer channels than pixels
    x = layers.Conv2DTranspose(300, 3, padding="same", dilation_rate=2)(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="valid", depth_multiplier=2)(x)
    x = layers.DepthwiseConv2D(1, strides=2)(layers.UpSampling2D(4)(x))
    assert kinds(cpu_layers.optimize_for_cpu(keras.Model(inputs, x))) == []

    inputs = keras.Input((None, None, 64))
    assert kinds(cpu_layers.optimize_for_cpu(keras.Model(inputs, layers.Conv2DTranspose(64, 3)(inputs)))) == []


@each_recipe
def test_recipes_get_the_faster_layers(name):
    model = MODULES[name].build_model(128, 3)
    faster = cpu_layers.optimize_for_cpu(model)
    assert [layer.name for layer in faster.layers] == [layer.name for layer in model.layers]
    assert len([kind for kind in kinds(faster) if kind.startswith("Conv")]) >= CONVOLUTIONS.get(name, 1)
    normalized = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    assert kinds(faster).count("FusedBatchNormalization") == len(normalized)
    for one, other in zip(faster.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_as_accurate_as_keras(precision):
    images = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype(np.float32)

    def gradients(precision, adapt):
        keras.config.set_dtype_policy(precision)
        keras.utils.set_random_seed(0)
        model = adapt(network())
        with tf.GradientTape() as tape:
            loss = 1e5 * tf.reduce_mean(tf.cast(model(images, training=True), "float32") ** 2)  # float16 min is 6e-8
        return tape.gradient(loss, model.trainable_variables)

    exact = gradients("float32", lambda model: model)
    plain = gradients(precision, lambda model: model)
    faster = gradients(precision, cpu_layers.optimize_for_cpu)

    def error(approximate):
        errors = [
            np.linalg.norm(one - other) / np.linalg.norm(other) for one, other in zip(approximate, exact, strict=True)
        ]
        return np.mean(errors)

    assert {gradient.dtype.name for gradient in faster} == {"float32"}
    assert 0 < error(faster) < 1.5 * error(plain) < 0.1
