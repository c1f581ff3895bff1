"""The README's section "Copy the code", followed outside this project."""

import ast
import os
import re
import shutil
import subprocess
import sys

from app.datasets import synthetic

from conftest import ROOT
from PIL import Image

SECTION = re.search(r"^## Copy.*?(?=^## )", (ROOT / "README.md").read_text(), re.S | re.M)[0]
CHECK = """
import runpy, sys
runpy.run_path("train.py")
files = [str(getattr(module, "__file__", "")) for module in sys.modules.values()]
assert not [file for file in files if file.startswith({recipes!r})]
"""


def model_file(recipe) -> str:
    """build_model with its library imports and constants, as the README says."""
    kept = []
    for node in ast.parse(recipe.read_text()).body:
        is_library = isinstance(node, ast.Import) or getattr(node, "module", "") == "keras"
        if is_library or isinstance(node, ast.Assign) or getattr(node, "name", "") == "build_model":
            kept.append(node)
    return "\n".join(map(ast.unparse, kept))


def test_three_files_and_plain_keras_train_on_your_own_data(tmp_path):
    files = re.findall(r"`(recipes/common/\w+\.py)`", SECTION.split("```")[0])
    assert len(files) == 3
    for name in files:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "model.py").write_text(model_file(ROOT / "recipes" / "unet_scratch.py"))
    code = re.search(r"```python\n(.*?)```", SECTION, re.S)[1]
    (tmp_path / "train.py").write_text(code)
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(10):
        image, label = synthetic.draw(number, image_size=96)
        ending = ("jpg", "JPG", "png")[number % 3]
        Image.fromarray(image).save(tmp_path / "photos" / f"{number:02}.{ending}", quality=95)
        mask = Image.fromarray(label)
        mask.putpalette((224, 0, 0, 0, 128, 0, 90, 90, 224))  # as many tools write them
        mask.save(tmp_path / "masks" / f"{number:02}.png")

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    check = CHECK.format(recipes=str(ROOT / "recipes"))
    command = [sys.executable, "-c", check]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pictures = {path.name: Image.open(path) for path in tmp_path.glob("*.png")}
    assert set(pictures) == {"loss.png", "accuracy.png", "mosaic.png"}
    for picture in pictures.values():
        assert min(picture.size) > 200 and len(picture.convert("RGB").getcolors(2**24)) > 50
