"""Tests that every model of the cookbook must pass."""

from app import models
from app.cpu import layers as cpu_layers
from app.datasets import synthetic

import keras
import numpy as np
import pytest
from networks import MODULES, each_recipe

PARAMETERS = {  # by image size, with 3 classes: what build_model(size, 3).count_params() says
    "unet_scratch": {64: 29_251_843, 128: 41_838_851, 256: 54_425_859},
    "fcn_vgg16": {64: 14_795_289, 128: 14_795_289},
    "unet_mobilenetv2": {64: 10_127_427, 128: 10_127_427},
}
MEMORISED = {"fcn_vgg16": 0.8}  # share of the pixels at 64 px, 0.97 of the others: its finest logits have stride 8


@each_recipe
def test_shapes_and_parameters(name):
    build = MODULES[name].build_model
    for size, count in PARAMETERS[name].items():
        model = build(size, 3)
        assert model.input_shape == (None, size, size, 3) and model.output_shape == (None, size, size, 3)
        assert model.count_params() == count
    assert build(96, 7).output_shape == (None, 96, 96, 7)


@each_recipe
def test_invalid_image_sizes_are_refused(name):
    for size in (0, 33, 100, -64):
        with pytest.raises(ValueError, match="multiple of 32"):
            MODULES[name].build_model(size, 3)


@each_recipe
def test_logits_are_float32_in_every_precision(name):
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    for precision in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(precision)
        logits = MODULES[name].build_model(64, 3)(pixels)
        assert logits.dtype == "float32"


def fit(model, images, labels, steps, learning_rate=1e-3):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, jit_compile=False, run_eagerly=steps == 1)
    images, labels = (np.tile(part, (steps, *[1] * (part.ndim - 1))) for part in (images, labels))
    model.fit(images, labels, batch_size=len(images) // steps, verbose=0, shuffle=False)


def drawn(count, size):
    images, labels = zip(*(synthetic.draw(index, image_size=size) for index in range(count)), strict=True)
    return np.stack(images), np.stack(labels)


@each_recipe
def test_saved_models_load_in_plain_keras(name, tmp_path):
    """Trained in half precision, saved and loaded as float32: logits match, from uint8 and float input."""
    images, labels = drawn(2, size=64)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = cpu_layers.optimize_for_cpu(MODULES[name].build_model(64, 3))
    fit(model, images, labels, steps=1)
    models.save(model, tmp_path / "model.keras", ("pet", "background", "border"))

    keras.config.set_dtype_policy("float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {layer.dtype_policy.name for layer in loaded.layers} == {"float32"}
    assert not any("app.cpu" in type(layer).__module__ for layer in loaded.layers)
    exact = MODULES[name].build_model(64, 3)
    exact.set_weights(model.get_weights())
    logits = np.array(loaded(images))
    assert logits.std() > 0
    np.testing.assert_allclose(logits, exact(images), atol=1e-5)
    np.testing.assert_allclose(logits, model(images), atol=0.1 * logits.std())
    np.testing.assert_array_equal(logits, loaded(images.astype(np.float32)))


@pytest.mark.slow
@each_recipe
def test_overfits_four_images(name):
    build, share = MODULES[name].build_model, MEMORISED.get(name, 0.97)
    images, labels = drawn(4, size=64)
    model = build(64, 3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8  # its averages converge within the test's few steps
    fit(model, images, labels, steps=60)
    assert (np.argmax(model(images), axis=-1) == labels).mean() > share
