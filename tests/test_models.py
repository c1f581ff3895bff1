"""Tests that every model of the cookbook must pass."""

from app import models
from app.cpu import layers as cpu_layers
from app.datasets import synthetic

import fcn_vgg16
import keras
import numpy as np
import pytest
import unet_mobilenetv2
import unet_scratch

# name: (build_model, {image size: parameters with 3 classes}, share of pixels it can memorise at 64 px)
MODELS = {
    "unet_scratch": (unet_scratch.build_model, {64: 29_251_843, 128: 41_838_851, 256: 54_425_859}, 0.97),
    "fcn_vgg16": (fcn_vgg16.build_model, {64: 14_795_289, 128: 14_795_289}, 0.8),  # its finest logits have stride 8
    "unet_mobilenetv2": (unet_mobilenetv2.build_model, {64: 10_127_427, 128: 10_127_427}, 0.97),
}
each_model = pytest.mark.parametrize("name", MODELS)


@each_model
def test_shapes_and_parameters(name):
    build, parameters, _ = MODELS[name]
    for size, count in parameters.items():
        model = build(size, 3)
        assert model.input_shape == (None, size, size, 3) and model.output_shape == (None, size, size, 3)
        assert model.count_params() == count
    assert build(96, 7).output_shape == (None, 96, 96, 7)


@each_model
def test_invalid_image_sizes_are_refused(name):
    for size in (0, 33, 100, -64):
        with pytest.raises(ValueError, match="multiple of 32"):
            MODELS[name][0](size, 3)


@each_model
def test_logits_are_float32_in_every_precision(name):
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    for precision in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(precision)
        logits = MODELS[name][0](64, 3)(pixels)
        assert logits.dtype == "float32"


def fit(model, images, labels, steps, learning_rate=1e-3):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, jit_compile=False, run_eagerly=steps == 1)
    images, labels = (np.tile(part, (steps, *[1] * (part.ndim - 1))) for part in (images, labels))
    model.fit(images, labels, batch_size=len(images) // steps, verbose=0, shuffle=False)


def drawn(count, size):
    images, labels = zip(*(synthetic.draw(index, image_size=size) for index in range(count)), strict=True)
    return np.stack(images), np.stack(labels)


@each_model
def test_saved_models_load_in_plain_keras(name, tmp_path):
    """Trained in half precision, saved and loaded as float32: logits match, from uint8 and float input."""
    images, labels = drawn(2, size=64)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = cpu_layers.optimize_for_cpu(MODELS[name][0](64, 3))
    fit(model, images, labels, steps=1)
    models.save(model, tmp_path / "model.keras", ("pet", "background", "border"))

    keras.config.set_dtype_policy("float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {layer.dtype_policy.name for layer in loaded.layers} == {"float32"}
    assert not any("app.cpu" in type(layer).__module__ for layer in loaded.layers)
    exact = MODELS[name][0](64, 3)
    exact.set_weights(model.get_weights())
    logits = np.array(loaded(images))
    assert logits.std() > 0
    np.testing.assert_allclose(logits, exact(images), atol=1e-5)
    np.testing.assert_allclose(logits, model(images), atol=0.1 * logits.std())
    np.testing.assert_array_equal(logits, loaded(images.astype(np.float32)))


@pytest.mark.slow
@each_model
def test_overfits_four_images(name):
    build, _, share = MODELS[name]
    images, labels = drawn(4, size=64)
    model = build(64, 3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8  # its averages converge within the test's few steps
    fit(model, images, labels, steps=60)
    assert (np.argmax(model(images), axis=-1) == labels).mean() > share
