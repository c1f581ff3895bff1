"""The README's "Use the model elsewhere", line by line, and each exported model in its own runtime."""

import json
import pathlib
import re
import zipfile

from app import models
from app.datasets import synthetic
from common import losses, scores

import keras
import numpy as np
import pytest
from conftest import ROOT
from networks import MODULES, first_recipe_fast

SECTION = re.search(r"^## Use the model elsewhere.*?(?=^## )", (ROOT / "README.md").read_text(), re.S | re.M)[0]
EXPORT, READ, SHIPPED = re.findall(r"```python\n(.*?)```", SECTION, re.S)
SIZE = 32
FILES = {"saved_model": "exported", "litert": "exported.tflite", "onnx": "exported.onnx"}  # as the README names them
each_format = pytest.mark.parametrize(
    "format_", ["saved_model", *(pytest.param(name, marks=pytest.mark.slow) for name in ("litert", "onnx"))]
)


def export(format_):
    """Runs the lines of the README that load a model and export it to one format."""
    if format_ == "litert" and keras.__version__ < "3.13":
        pytest.skip("Keras 3.12, the last one for Python 3.10, does not export to LiteRT")
    load, *exports = re.split(r"^(?=model\.export)", EXPORT, flags=re.M)
    (line,) = (line for line in exports if f'("{FILES[format_]}"' in line)
    exec(load + line, {})


def logits(format_, pixels):
    """The logits of an exported model, read in its runtime by the lines of the README."""
    imports, *readers = READ.split("\n\n")
    (reader,) = (reader for reader in readers if f'("{FILES[format_]}")' in reader)
    names = {"pixels": pixels}
    exec(f"{imports}\n{reader}", names)
    return names["logits"]


def check_export(format_, model, pixels):
    """Exports a model as the README says, and compares the logits."""
    path, member = re.search(r"`unzip -p (\S+) (\S+)`", SECTION).groups()
    models.save(model, pathlib.Path(path), scores.TRIMAP)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read(member)) == list(scores.TRIMAP)
    export(format_)
    batches = [one[np.newaxis] for one in pixels] if format_ == "litert" else [pixels]
    exported = np.concatenate([logits(format_, batch) for batch in batches])
    expected = model.predict(pixels, verbose=0)
    assert np.ptp(expected) > 1  # it has learnt something
    np.testing.assert_allclose(exported, expected, atol=1e-3)
    assert (exported.argmax(axis=-1) == expected.argmax(axis=-1)).mean() >= 0.999


def drawn(count, size):
    images, labels = zip(*(synthetic.draw(index, image_size=size) for index in range(count)), strict=True)
    return np.stack(images).astype(np.float32), np.stack(labels)


@pytest.fixture(scope="module")
def trained():
    """Models after a few steps, made on demand."""
    made = {}

    def get(recipe):
        if recipe not in made:
            keras.utils.set_random_seed(1)
            model = recipe.build_model(SIZE, 3)
            model.compile(keras.optimizers.Adam(1e-3), losses.CrossEntropyAndDice())
            model.fit(*drawn(32, SIZE), batch_size=8, epochs=8, verbose=0)
            made[recipe] = model
        return made[recipe]

    return get


@first_recipe_fast
@each_format
def test_an_exported_model_gives_the_same_logits(trained, tmp_path, monkeypatch, name, format_):
    monkeypatch.chdir(tmp_path)
    check_export(format_, trained(MODULES[name]), drawn(3, SIZE)[0])


@pytest.mark.slow
@each_format
def test_the_shipped_weights_can_be_exported(tmp_path, monkeypatch, format_):
    names = {}
    monkeypatch.chdir(ROOT / "recipes")
    exec(SHIPPED, names)
    monkeypatch.chdir(tmp_path)
    check_export(format_, names["model"], drawn(2, 224)[0])
