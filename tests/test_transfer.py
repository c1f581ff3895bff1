"""--weights in a training: what is taken over, what is refused, and what it is good for."""

import json

from app import checkpoint, device, models
from app.datasets import synthetic

import keras
import numpy as np
import pytest
import unet_mobilenetv2
import unet_scratch
from conftest import ROOT
from networks import MODULES, each_recipe, has_encoder
from PIL import Image

TRIMAP = ("pet", "background", "border")
QUICK = ("--data", "synthetic", "--image-size", 32, "--limit", 32, "--batch-size", 4)
OF_CLASSES = {"fcn_vgg16": 6}  # layers whose shape depends on the number of classes; in the others the last one


def shaken(model):
    """Gives a model weights that no other has."""
    rng = np.random.default_rng(0)
    model.set_weights([array + rng.normal(size=array.shape).astype(array.dtype) for array in model.get_weights()])
    return model


@each_recipe
def test_what_is_taken_over(name, tmp_path):
    build = MODULES[name].build_model
    trained = shaken(build(64, 3))
    models.save(trained, tmp_path / "trained.keras", TRIMAP)
    found = models.load_as_start(name, tmp_path / "trained.keras", build, 64)
    assert sum(found.is_of_classes) == OF_CLASSES.get(name, 1) and found.class_names == TRIMAP

    for names in (TRIMAP, ("cat", "dog", "background"), ("cat", "dog")):
        model = build(64, len(names))
        fresh = [layer.get_weights() for layer in model.layers]
        found.copy_to(model, names)
        kept = 0
        for layer, before, source in zip(model.layers, fresh, trained.layers, strict=True):
            is_kept = all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), before, strict=True))
            if layer.weights and is_kept:
                kept += 1
            else:
                for array, expected in zip(layer.get_weights(), source.get_weights(), strict=True):
                    np.testing.assert_array_equal(array, expected)
        assert kept == (0 if names == TRIMAP else OF_CLASSES.get(name, 1))
        assert ("but the last" in found.summary(names)) == bool(kept)


@pytest.mark.parametrize("name", filter(has_encoder, MODULES))
def test_other_sizes_of_the_same_network(name, tmp_path):
    build = MODULES[name].build_model
    models.save(build(64, 3), tmp_path / "trained.keras", TRIMAP)
    models.load_as_start(name, tmp_path / "trained.keras", build, 96).copy_to(build(96, 3), TRIMAP)


def test_as_many_channels_as_classes(tmp_path):
    """A layer with 63 + 1 channels is not taken for one of 64 classes."""
    names = [f"class {number}" for number in range(63)]
    models.save(unet_scratch.build_model(32, 63), tmp_path / "trained.keras", names)
    found = models.load_as_start("unet_scratch", tmp_path / "trained.keras", unet_scratch.build_model, 32)
    assert sum(found.is_of_classes) == 1


def drawn_pets(folder, class_names):
    """Forty drawn pets whose classes have other names."""
    for place in ("images", "masks"):
        (folder / place).mkdir(parents=True)
    for number in range(40):
        image, label = synthetic.draw(number, seed=1, image_size=32)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(label).save(folder / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(class_names))
    return folder


def train(command_line, output, *flags):
    status, out, err = command_line(unet_scratch, *flags, "--output", output)
    assert (status, err) == (0, "")
    history = checkpoint.read_history(output / "history.csv").history
    return out.splitlines(), history["loss"], json.loads((output / "metrics.json").read_text())["config"]


def test_it_starts_at_a_lower_loss_than_random(command_line, tmp_path):
    """Other classes keep all but the last layer."""
    lines, random, config = train(command_line, tmp_path / "random", *QUICK, "--epochs", 4)
    weights = tmp_path / "random" / "unet_scratch.keras"
    assert "starts from" not in lines[0] and (config["weights"], config["learning_rate"]) == (None, 1e-3)

    again = (*QUICK, "--epochs", 1, "--weights", weights)
    lines, same, config = train(command_line, tmp_path / "same", *again)
    assert f"starts from {weights}: all weights |" in lines[0]
    assert config["weights"] == str(weights) and config["learning_rate"] == pytest.approx(3e-4)
    assert same[0] < random[1]

    folder = drawn_pets(tmp_path / "statues", ("statue", "park", "edge"))
    own = ("--data", folder, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--limit", 4)
    lines, _, _ = train(command_line, tmp_path / "other", *own, "--weights", weights)
    assert f"starts from {weights}: all weights but the last layer's |" in lines[0]


@pytest.mark.slow
def test_the_shipped_weights_start_a_training(command_line, tmp_path):
    """The encoder is frozen in the first epoch only if the last layer is new."""
    pets = drawn_pets(tmp_path / "pets", TRIMAP)
    statues = drawn_pets(tmp_path / "statues", ("statue", "park", "edge"))
    shipped = unet_mobilenetv2.build_model(32, 3)
    shipped.load_weights(ROOT / "weights" / "unet_mobilenetv2.weights.h5")
    for data, what in ((pets, "all weights"), (statues, "all weights but the last layer's")):
        output = tmp_path / f"from {data.name}"
        flags = ("--data", data, "--image-size", 32, "--batch-size", 8, "--limit", 16, "--epochs", 1)
        status, out, err = command_line(unet_mobilenetv2, *flags, "--weights", "shipped", "--output", output)
        assert (status, err) == (0, "")
        assert f"/unet_mobilenetv2.weights.h5: {what} |" in out.splitlines()[0]
        config = json.loads((output / "metrics.json").read_text())["config"]
        assert config["backbone_weights"] == "none"  # no ImageNet weights are needed
        trained = keras.saving.load_model(output / "unet_mobilenetv2.keras")
        for layer in ("Conv1", "block_16_project"):
            kernels = (model.get_layer(layer).get_weights()[0] for model in (shipped, trained))
            assert np.array_equal(*kernels) == (data is statues)


def test_resuming_a_training_that_started_from_weights(command_line, tmp_path, monkeypatch, ends_after_an_epoch):
    """It ends after an epoch; without the flag it is not resumed. The precision is the one it began with."""
    weights = tmp_path / "weights.keras"
    models.save(unet_scratch.build_model(32, 3), weights, TRIMAP)
    flags = (*QUICK[:4], "--batch-size", 8, "--limit", 8, "--epochs", 2, "--output", tmp_path / "run")
    with ends_after_an_epoch() as patched:
        patched.setattr(device, "best_precision", lambda gpus: "mixed_bfloat16")
        assert command_line(unet_scratch, *flags, "--weights", weights)[0] == 2
    monkeypatch.setattr(device, "best_precision", lambda gpus: "float32")
    status, _, err = command_line(unet_scratch, *flags, "--resume")
    assert status == 2 and "--weights was" in err and "--learning-rate was" in err and err.count("\n") == 1
    status, out, err = command_line(unet_scratch, *flags, "--resume", "--weights", weights)
    assert (status, err) == (0, "") and "resuming after epoch 1" in out and "mixed_bfloat16" in out


def test_networks_that_do_not_fit_are_refused(command_line, tmp_path):
    deep, other, own = (tmp_path / name / "unet_scratch.keras" for name in ("deep", "other", "output"))
    for path, recipe, size in ((deep, "unet_scratch", 64), (other, "unet_mobilenetv2", 32), (own, "unet_scratch", 32)):
        path.parent.mkdir()
        models.save(MODULES[recipe].build_model(size, 3), path, TRIMAP)
    for flags, words in (
        (("--weights", deep), "for 64 px, has other layers than the one for 32 px; use --image-size 64"),
        (("--weights", other), "of another recipe, unet_mobilenetv2; this one is unet_scratch"),
        (("--weights", own), "this training would replace it"),
        (("--weights", tmp_path / "nowhere.keras"), "no such file"),
        (("--weights", "shipped"), "--weights shipped: none come with unet_scratch"),
    ):
        before = own.read_bytes()
        status, out, err = command_line(unet_scratch, *QUICK, *flags, "--output", own.parent)
        assert status == 2 and out == "" and err.count("\n") == 1 and words in err, err
        assert [path.name for path in own.parent.iterdir()] == [own.name] and own.read_bytes() == before
    flags = ("--weights", "shipped", "--backbone-weights", "imagenet", "--output", tmp_path / "output")
    status, _, err = command_line(unet_mobilenetv2, *QUICK, *flags)
    assert status == 2 and "leave one of the two out" in err and err.count("\n") == 1
