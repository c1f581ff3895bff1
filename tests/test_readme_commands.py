"""Every command and code block of the README is run by a test, or listed here with the reason why not."""

import os
import re
import shutil
import subprocess
import sys

from app.datasets import synthetic

from conftest import ROOT
from PIL import Image

README = (ROOT / "README.md").read_text()
# What a training needs to end within seconds; the last value of a flag wins.
QUICK = "--limit 8 --epochs 1 --batch-size 8 --image-size 64"
RUN = {  # in this order, as the README has them, with the flags that are added
    "python recipes/unet_mobilenetv2.py --predict resources/photos/dog.jpg": "",
    ".venv/bin/python recipes/unet_scratch.py --data synthetic --limit 700 --image-size 96 --epochs 3 --batch-size 8 "
    "--output output/demo": QUICK,
    ".venv/bin/python recipes/unet_mobilenetv2.py --predict resources/photos/cat.jpg --output output/demo/cat": "",
    ".venv/bin/python recipes/mask_rcnn_hub.py resources/photos/cat.jpg --model small "
    "--output output/demo/mask_rcnn": "",
    "python recipes/mask_rcnn_hub.py resources/photos/ --model small": "",
    "python recipes/unet_mobilenetv2.py --data DIR --check-data": "",
    "python recipes/unet_mobilenetv2.py --data DIR --weights shipped "
    "--image-size 192 --batch-size 8 --epochs 30": QUICK,
    "python recipes/unet_mobilenetv2.py --data DIR --predict PHOTO": "",
}
ELSEWHERE = {  # by another test
    "python recipes/unet_scratch.py --image-size 128": "test_recipes.py, with drawn pets",
    "python recipes/fcn_vgg16.py --image-size 128": "test_recipes.py, with drawn pets",
    "python recipes/unet_mobilenetv2.py --image-size 128": "test_recipes.py, with drawn pets",
    "unzip -p weights/unet_scratch.keras classes.json": "test_export.py",
    "python recipes/mask_rcnn_train.py": "test_mask_rcnn_train.py, with smaller pictures",
    "python recipes/mask_rcnn_train.py --data DIR --epochs 200": "test_mask_rcnn_train.py, with smaller pictures",
    "python recipes/mask_rcnn_hub.py PHOTO --model weights/mask_rcnn_train-DIR": "test_mask_rcnn_train.py",
}
NOT_RUN = {
    "git clone REPOSITORY cookbook && cd cookbook": "downloads",
    "python3 -m venv .venv && source .venv/bin/activate": "downloads",
    "pip install --upgrade pip && pip install -r requirements.txt": "downloads",
    "!git clone -q REPOSITORY cookbook && pip install -q -r cookbook/requirements.txt": "downloads",
    "!python cookbook/recipes/unet_mobilenetv2.py --predict cookbook/resources/photos/dog.jpg": "as above",
    "from IPython.display import Image": "needs a notebook",
    'Image("cookbook/output/unet_mobilenetv2/predictions/dog_overlay.png")': "needs a notebook",
    "python3 -m venv .venv": "downloads",
    ".venv/bin/pip install --upgrade pip": "downloads",
    ".venv/bin/pip install -r requirements.txt": "downloads",
    ".venv/bin/pip install -r tests/requirements.txt": "downloads",
    ".venv/bin/ruff check": "make test runs it before these tests",
    ".venv/bin/ruff format --check": "make test runs it before these tests",
    '.venv/bin/python -m pytest -m "not slow"': "runs these tests",
    "make demo": "downloads, then runs the commands of the Makefile, which are those above",
    "make test": "runs these tests",
    "make test-all": "runs these tests",
    "make bench": "takes minutes; test_benchmark.py runs a line of it",
    "parallel 'python recipes/unet_mobilenetv2.py --predict photos/ --output out --shard {}/16' ::: $(seq 16)": (
        "needs GNU parallel; test_predict.py runs parts"
    ),
    "sbatch --array=1-16 --wrap 'python recipes/unet_mobilenetv2.py --predict photos/ --output out "
    "--shard $SLURM_ARRAY_TASK_ID/16'": "needs Slurm; test_predict.py runs parts",
    "cat out/predictions-*-of-16.jsonl > all.jsonl": "needs those parts",
    "python recipes/mask_rcnn_hub.py resources/photos/": "downloads; test_mask_rcnn.py serves a model from 127.0.0.1",
    "export KERAS_BACKEND=jax KERAS_DISTRIBUTION_JOB_ADDRESSES=one:2222 KERAS_DISTRIBUTION_NUM_PROCESSES=2": (
        "needs two machines; test_processes.py runs several processes on one"
    ),
    "KERAS_DISTRIBUTION_PROCESS_ID=0 python recipes/unet_mobilenetv2.py --output /shared/run": "as above",
    "pip install tensorflow opencv-python-headless matplotlib tqdm tensorflow-docs": "downloads",
    "pip install tf2onnx": "downloads",
    "pip install jax2onnx": "downloads",
    "pip install onnxruntime ai-edge-litert": "downloads",
    "pip install 'tensorflow[and-cuda]>=2.20,<2.21'": "downloads; test_gpu.py compares it with the program's advice",
    "pip install 'jax[cuda13]'": "downloads; test_gpu.py compares it with the program's advice",
    "KERAS_BACKEND=jax python recipes/unet_mobilenetv2.py": "downloads; test_jax.py trains with drawn pets",
    "pip install --force-reinstall --no-deps 'opencv-contrib-python-headless>=4.14,<5.1'": "downloads",
    'python -c "import tensorflow_datasets as tfds; '
    "tfds.builder('oxford_iiit_pet').download_and_prepare()\"": "downloads",
    "apt install python3-venv": "changes the machine",
    "python -X dev recipes/...": "a pattern; test_terminal.py runs one",
    "python tests/measure/ablation.py --image-size 128": "takes hours; test_benchmark.py runs one variant",
    "python tests/measure/start.py PETS MOBILENETV2.weights.h5": "takes half an hour",
}
PYTHON_BLOCKS = {"Copy the code": 1, "Use the model elsewhere": 3}  # run by test_copying.py and test_export.py
# Runs the commands one after the other in one process, which imports TensorFlow once; stops at the first that fails.
RUNNER = """
import pathlib, runpy, shlex, sys
sys.path.insert(0, "recipes")
for line in pathlib.Path("commands.txt").read_text().splitlines():
    sys.argv = shlex.split(line)[1:]
    print("$", line, flush=True)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, line
    import keras
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()
"""


def commands(text: str) -> set[str]:
    """The commands in a page: the lines of its blocks except Python and plain text, and those in its sentences."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.S | re.M)
    shell = [re.sub(r"\s*\\\n\s*", " ", block) for kind, block in blocks if kind not in ("python", "text")]
    lines = [line for block in shell for line in block.splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    inline = re.findall(r"`((?:python|pip|make|apt|unzip|git|CUDA_\w+=\S+) [^`]+)`", re.sub(r"\n\s*", " ", prose))
    return {re.sub(r"\s+#.*", "", line).strip() for line in [*lines, *inline]}


def test_every_command_has_its_test_or_a_reason():
    assert sorted(commands(README)) == sorted(RUN | ELSEWHERE | NOT_RUN)
    for reason in (ELSEWHERE | NOT_RUN).values():
        for name in re.findall(r"test_\w+\.py", reason):
            assert (ROOT / "tests" / name).exists(), name


def test_every_block_of_code_has_its_test():
    sections = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", README, re.S | re.M)
    blocks = {title: len(re.findall(r"^ *```python", text, re.M)) for title, text in sections}
    assert {title: count for title, count in blocks.items() if count} == PYTHON_BLOCKS


def test_the_commands_run_in_a_clone(tmp_path):
    """As the README has them, in a copy of the project, so that they write into its own output/ and weights/."""
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
    shutil.copy(ROOT / "resources" / "photos" / "cat.jpg", tmp_path / "PHOTO.jpg")
    lines = [f"{command} {flags}".replace("PHOTO", "PHOTO.jpg") for command, flags in RUN.items()]
    (tmp_path / "commands.txt").write_text("\n".join(lines) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
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
