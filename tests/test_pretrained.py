"""The recipes with a pretrained encoder: weights are loaded, and the right ones train."""

from app import encoders
from app.datasets import synthetic

import fcn_vgg16
import h5py
import keras
import numpy as np
import pytest
import unet_mobilenetv2
from conftest import CONTROL
from keras.src.legacy.saving import legacy_h5_format  # the format of the files that Keras downloads

FILES = {"fcn_vgg16": "vgg16_imagenet_notop.weights.h5", "unet_mobilenetv2": "mobilenet_v2_1.0_notop.weights.h5"}
RECIPES = {
    "fcn_vgg16": (fcn_vgg16, keras.applications.VGG16),
    "unet_mobilenetv2": (unet_mobilenetv2, keras.applications.MobileNetV2),
}
LAYERS = {  # recipe: {layer of the model: group of the file}
    "fcn_vgg16": {"block1_conv1": "conv2d", "block5_conv3": "conv2d_12"},
    "unet_mobilenetv2": {"Conv1": "conv2d", "bn_Conv1": "batch_normalization", "block_16_project": "conv2d_33"},
}
each_recipe = pytest.mark.parametrize("name", RECIPES)


@each_recipe
def test_the_weights_file_is_loaded_into_the_model(name, shared):
    recipe, encoder = RECIPES[name]
    path = shared / "weights" / FILES[name]
    model = recipe.build_model(64, 3, encoders.weights_file(encoder, str(path)))
    with h5py.File(path) as file:
        for layer, group in LAYERS[name].items():
            for index, weights in enumerate(model.get_layer(layer).get_weights()):
                np.testing.assert_array_equal(weights, file["layers"][group]["vars"][str(index)][:])


@each_recipe
def test_pixels_are_preprocessed_as_the_backbone_expects(name):
    """The input of the first convolution equals keras.applications' preprocessing."""
    application = {"fcn_vgg16": keras.applications.vgg16, "unet_mobilenetv2": keras.applications.mobilenet_v2}[name]
    first = {"fcn_vgg16": "block1_conv1", "unet_mobilenetv2": "Conv1"}[name]
    model = RECIPES[name][0].build_model(64, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    prepared = keras.Model(model.input, model.get_layer(first).input)(pixels)
    np.testing.assert_allclose(prepared, application.preprocess_input(pixels.astype(np.float32)), atol=1e-4)


def one_step(model):
    images, labels = (np.stack(part) for part in zip(*(synthetic.draw(i, image_size=64) for i in (0, 1)), strict=True))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, run_eagerly=True)  # one step is not worth a graph
    model.fit(images, labels, batch_size=2, verbose=0)


def moved(model):
    """Takes a training step and returns for each variable whether it changed."""
    before = {variable.path: np.array(variable) for variable in model.variables}
    one_step(model)
    return {variable.path: not np.array_equal(before[variable.path], variable) for variable in model.variables}


def test_which_weights_train_in_each_stage():
    model = unet_mobilenetv2.build_model(64, 3)
    encoder = {layer.name for layer in keras.applications.MobileNetV2(include_top=False, weights=None).layers}
    for with_encoder in (False, True):
        unet_mobilenetv2.set_encoder_trainable(model, with_encoder)
        for path, has_moved in moved(model).items():
            assert has_moved == (with_encoder or path.split("/")[-2] not in encoder), (with_encoder, path)


def test_the_first_blocks_of_vgg16_stay_frozen():
    model = fcn_vgg16.build_model(64, 3)
    fcn_vgg16.freeze_first_blocks(model)
    one_step(model)  # score layers start at zero: no gradient reaches the encoder in the first step
    for path, has_moved in moved(model).items():
        assert has_moved == (not path.startswith(("block1", "block2"))), path


def test_bilinear_upsampling_matches_opencv():
    import cv2

    small = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype(np.float32)
    for factor in (2, 4, 8):
        layer = keras.layers.Conv2DTranspose(3, 2 * factor, strides=factor, padding="same", use_bias=False)
        layer.build(small.shape)
        layer.set_weights([fcn_vgg16.bilinear_kernel(factor, 3)])
        expected = cv2.resize(small[0], None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        inner = slice(factor, -factor)  # at the edge cv2 repeats pixels, a convolution pads with zeros
        np.testing.assert_allclose(np.array(layer(small))[0, inner, inner], expected[inner, inner], atol=1e-5)


def bad_files(tmp_path):
    yield tmp_path / "nothing.h5", "No such file"
    yield tmp_path, "Is a directory"
    page = tmp_path / "page.weights.h5"
    page.write_text("<html>Please log in</html>")
    yield page, "damaged"
    other = tmp_path / "other.weights.h5"
    keras.applications.MobileNet(include_top=False, weights=None).save_weights(other)
    yield other, "holds other weights"
    half = tmp_path / "half.weights.h5"
    half.write_bytes(other.read_bytes()[: other.stat().st_size // 2])
    yield half, "damaged"


def test_unusable_weights_files(command_line, tmp_path):
    """From the command line: exit status 2, one line that names the file, nothing written."""
    for path, words in bad_files(tmp_path):
        flags = ("--data", "synthetic", "--backbone-weights", path, "--output", tmp_path / "output")
        status, _, err = command_line(unet_mobilenetv2, *flags)
        assert status == 2 and err.count("\n") == 1, err
        assert path.name in err and words in err
        assert not (tmp_path / "output").exists()


def test_imagenet_weights_are_downloaded_once(tmp_path, monkeypatch, http_server, capfd):
    """From a local server that is shut down before the second load."""
    monkeypatch.setattr(encoders, "ROOT", tmp_path)
    served, server = http_server
    application = keras.applications.MobileNetV2
    monkeypatch.setitem(encoders.URLS, application, f"http://127.0.0.1:{server.server_port}/weights.h5")
    mine = application(include_top=False, weights=None)
    with h5py.File(served / "weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, mine)
    for _ in range(2):
        found = application(include_top=False, weights=encoders.weights_file(application, "imagenet"))
        np.testing.assert_array_equal(found.get_weights()[0], mine.get_weights()[0])
        server.shutdown()
        server.server_close()
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["weights.h5"]
    printed = "".join(capfd.readouterr())
    assert printed.count("downloading http://127.0.0.1") == 1 and not CONTROL.search(printed)
