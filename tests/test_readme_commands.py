"""The commands of the README: those that run recipes are run in a clone, unless there is a reason not to."""

import os
import re
import shlex
import shutil

from app.datasets import synthetic

from conftest import ROOT, run_recipes
from PIL import Image

README = (ROOT / "README.md").read_text()
NOT_RUN = [  # what commands match from their beginning on
    r"git |!|pip |\.venv/bin/pip |python3 -m venv|apt |python -c .*download_and_prepare",  # download
    r"from IPython|Image\(",  # need a notebook
    r"make |\.venv/bin/ruff |\.venv/bin/python -m pytest ",  # run these tests, and the commands of the Makefile
    r"parallel |sbatch |cat ",  # test_predict.py runs parts
    r"export KERAS|KERAS_\w+=",  # test_jax.py and test_processes.py
    r"unzip ",  # test_export.py
    r"python tests/measure/",  # take hours; test_benchmark.py runs some of it
    r"python -X dev ",  # test_terminal.py
    r"python \S+ --image-size 128$",  # train on the pets; test_recipes.py trains on drawn ones
    r"python recipes/mask_rcnn_train.py|.* weights/mask_rcnn_train-DIR$",  # test_mask_rcnn_train.py
    r"python recipes/mask_rcnn_hub.py resources/photos/$",  # downloads; test_mask_rcnn.py
]
QUICK = " --limit 8 --epochs 1 --batch-size 8 --image-size 64"  # added to a training; the last value of a flag wins
PYTHON_BLOCKS = {"Copy the code": 1, "Use the model elsewhere": 3}  # run by test_copying.py and test_export.py


def commands(text: str) -> list[str]:
    """The commands in a page: the lines of its blocks except Python and plain text, and those in its sentences."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.S | re.M)
    lines = [line for kind, block in blocks if kind not in ("python", "text") for line in block.splitlines()]
    prose = re.sub(r"\n\s*", " ", re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M))
    lines += re.findall(r"`((?:python|pip|make|apt|unzip|git|[A-Z_]+=\S+) [^`]+)`", prose)
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


def test_every_block_of_code_has_its_test():
    sections = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", README, re.S | re.M)
    blocks = {title: len(re.findall(r"^ *```python", text, re.M)) for title, text in sections}
    assert {title: count for title, count in blocks.items() if count} == PYTHON_BLOCKS


def test_the_commands_run_in_a_clone(tmp_path):
    """As the README has them, in a copy of the project, so that they write to its own output/ and weights/."""
    for folder in ("recipes", "resources"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "weights").mkdir()
    for name in ("unet_mobilenetv2.weights.h5", "mask_rcnn_pets.tar.gz"):
        shutil.copy(ROOT / "weights" / name, tmp_path / "weights")
    for folder in ("DIR/images", "DIR/masks"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(20):
        image, label = synthetic.draw(number, image_size=64)
        Image.fromarray(image).save(tmp_path / "DIR" / "images" / f"{number}.png")
        Image.fromarray(label).save(tmp_path / "DIR" / "masks" / f"{number}.png")
    shutil.copy(ROOT / "resources" / "photos" / "cat.jpg", tmp_path / "PHOTO")
    run = []
    for line in dict.fromkeys(commands(README)):
        if not re.match("|".join(NOT_RUN), line):
            python, recipe, *flags = shlex.split(line)
            assert python.endswith("python") and recipe.startswith("recipes/"), f"{line}: run it, or say why not"
            is_training = "mask_rcnn" not in recipe and not {"--predict", "--check-data"} & set(flags)
            run.append([recipe, *flags, *(QUICK.split() if is_training else [])])
    assert len(run) >= 8
    run_recipes(run, cwd=tmp_path, env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written > {
        "output/unet_mobilenetv2/predictions/dog_cutout.png",
        "output/demo/mosaic_best.png",
        "output/demo/cat/cat_overlay.png",
        "output/demo/mask_rcnn/cat_overlay.png",
        "output/mask_rcnn_hub/detections.json",
        "weights/unet_mobilenetv2-DIR.keras",
        "output/unet_mobilenetv2-DIR/predictions/PHOTO_mask.png",
    }
