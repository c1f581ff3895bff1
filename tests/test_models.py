"""What every model of the cookbook has to do, in one test each."""

from common import runs, synthetic

import fcn_vgg16
import keras
import numpy as np
import pytest
import unet_mobilenetv2
import unet_scratch

# name: (build_model, {image size: parameters with 3 classes})
MODELS = {
    "unet_scratch": (unet_scratch.build_model, {64: 29_251_843, 128: 41_838_851, 256: 54_425_859}),
    "fcn_vgg16": (fcn_vgg16.build_model, {64: 0, 128: 0}),
    "unet_mobilenetv2": (unet_mobilenetv2.build_model, {64: 0, 128: 0}),
}
each_model = pytest.mark.parametrize("name", MODELS)


@each_model
def test_shapes_and_parameters(name):
    build, parameters = MODELS[name]
    for size, count in parameters.items():
        model = build(size, 3)
        assert model.input_shape == (None, size, size, 3) and model.output_shape == (None, size, size, 3)
        assert model.count_params() == count
    assert build(96, 7).output_shape == (None, 96, 96, 7)


@each_model
def test_other_sizes_are_refused(name):
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


@each_model
def test_saved_and_loaded_by_plain_keras(name, tmp_path):
    """Trained in half precision, saved, and loaded in a process that asks for float32: the same answers."""
    pixels = np.stack([synthetic.draw(index, image_size=64)[0] for index in range(2)])
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = MODELS[name][0](64, 3)
    logits = np.array(model(pixels))
    runs.save_model(model, tmp_path / "model.keras")

    keras.config.set_dtype_policy("float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {str(layer.dtype_policy.name) for layer in loaded.layers} == {"float32"}
    exact = MODELS[name][0](64, 3)
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(loaded(pixels), exact(pixels), atol=1e-5)
    np.testing.assert_allclose(loaded(pixels), logits, atol=0.1 * np.std(logits))
    np.testing.assert_array_equal(loaded(pixels), loaded(pixels.astype(np.float32)))


@each_model
def test_overfits_four_images(name):
    images, labels = zip(*(synthetic.draw(index, image_size=32) for index in range(4)), strict=True)
    images, labels = np.stack(images), np.stack(labels)
    model = MODELS[name][0](32, 3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8  # its averages follow within the few steps that a test has time for
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(np.tile(images, (80, 1, 1, 1)), np.tile(labels, (80, 1, 1)), batch_size=4, verbose=0, shuffle=False)
    assert (np.argmax(model(images), axis=-1) == labels).mean() > 0.95
