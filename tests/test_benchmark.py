"""The programs that measure the README's figures."""

import json
import os
import subprocess
import sys

import keras
import pytest
from conftest import ROOT, needs_jax
from keras import layers
from measure import ablation, benchmark, gpu, results
from PIL import Image


def test_operations_by_hand():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2DTranspose(5, 4, strides=2, padding="same")(x)
    first, second, third = 4 * 4 * (3 * 3 * 3 * 4), 4 * 4 * (3 * 3 * 4), 4 * 4 * (4 * 4 * 4 * 5)
    # Multiply and add count as two; forward, weight gradient, input gradient (not for the image).
    model = keras.Model(inputs, x)
    assert benchmark.operations(model) == 2 * (2 * first + 3 * second + 3 * third)
    model.layers[1].trainable = False
    assert benchmark.operations(model) == 2 * (first + 2 * second + 3 * third)


def run(*arguments, **options):
    """Runs Python with these arguments, beside the tests."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, timeout=500, **options)


def test_unknown_line_is_refused():
    finished = run(benchmark.__file__, "speed")
    assert finished.returncode == 2 and finished.stderr.endswith(
        "there are pipeline, step, inference, predict, mask, start\n"
    )


def test_table_of_results(tmp_path):
    """A step, which was measured in float32 too, and a start."""
    ours, plain = benchmark.Measured([0.1, 0.2, 0.2], 150.0), benchmark.Measured([0.4, 0.4, 0.6], 100.0)
    step = benchmark.compare(ours, plain)
    start = benchmark.compare(benchmark.Measured([2.0], 90.0), benchmark.Measured([5.0], 100.0))
    assert benchmark.row("step", step).split() == ["step", "5", "2.5", "3.00", "x", "150", "100", "1.50", "x"]
    assert benchmark.row("start", start, in_seconds=True).split()[:5] == ["start", "2.0", "s", "5.0", "s"]
    (tmp_path / "auto.json").write_text(json.dumps({"step": step, "start": start}))
    (tmp_path / "float32.json").write_text(json.dumps({"step": step}))
    assert benchmark.table(tmp_path).splitlines()[2:] == [
        "| step | 3.00 | 1.50 | 3.00 | 1.50 |",
        "| start | 2.50 | 0.90 |  |  |",
    ]


@pytest.mark.slow
def test_inference_benchmark(tmp_path):
    finished = run(benchmark.__file__, "inference", "--output", tmp_path)
    assert finished.returncode == 0, finished.stderr
    head, *rows, minutes = finished.stdout.splitlines()
    assert "images/s" in head and len(rows) == 2 and minutes.endswith("minutes")
    for row in rows:
        ours, plain, faster, _, megabytes, *_ = row[50:].split()
        assert min(float(ours), float(plain), float(faster), float(megabytes)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["no_augmentation", "fine_tuned"])
def test_ablation_on_grey_photos(variant, tmp_path):
    """The photos have one grey, which augmentation makes brighter or darker in the batches that `fit` gets."""
    photos = tmp_path / "photos"
    for folder in ("images", "masks"):
        (photos / folder).mkdir(parents=True)
        for number in range(12):
            grey = Image.new("L", (32, 32), 100 if folder == "images" else number % 2)
            grey.save(photos / folder / f"{number}.png")
    flags = ["--data", str(photos), "--image-size", "32", "--batch-size", "8", "--backbone-weights", "none"]
    program = f"""
import pathlib
from measure import ablation
from app import runs
import numpy as np

class Watched(runs.Run):
    def load_data(self):
        data = super().load_data()
        print("greys", np.unique(next(iter(data.train))[0]))
        return data

runs.Run = Watched
ablation.OUTPUT = pathlib.Path({str(tmp_path)!r})
ablation.train({variant!r}, "1", {flags})
"""
    finished = run("-c", program)
    assert finished.returncode == 0, finished.stderr
    assert ("greys [100]" in finished.stdout) == (variant == "no_augmentation")
    assert "greys [" in finished.stdout and f"| {variant.replace('_', ' ')} |" in ablation.table(tmp_path)


def test_measured_minutes_replace_the_estimate(tmp_path, monkeypatch):
    case = {"device": "NVIDIA X with JAX", "images_per_second": 552.0}
    cases = {gpu.case_name(recipe, 256): case for recipe in benchmark.RECIPES}
    assert next(iter(results.gpu_row())).startswith("estimated minutes on a GPU")
    (tmp_path / "gpu.json").write_text(json.dumps(cases))
    monkeypatch.setattr(results, "GPU", tmp_path / "gpu.json")
    (row,) = results.gpu_row().items()
    assert row == ("minutes on one NVIDIA X with JAX, at 256 px", ["6", "4", "4"])  # 60, 40 and 45 epochs of 6 s


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=needs_jax)])
def test_gpu_benchmark_on_a_cpu(backend):
    program = """
import json
from measure import gpu

gpu.SECONDS = 0.2
gpu.LIMIT = 8
print(json.dumps(gpu.train("unet_scratch", "32", "4")))
"""
    finished = run("-c", program, env=os.environ | {"KERAS_BACKEND": backend})
    assert finished.returncode == 0, finished.stderr
    case = json.loads(finished.stdout.splitlines()[-1])
    assert "CPU" in case["device"] and ("JAX" in case["device"]) == (backend == "jax")
    assert case["images_per_second"] == pytest.approx(4000 / case["milliseconds_per_step"])
    assert min(case["images_per_second"], case["memory_mb"]) > 0 and case["fraction_of_peak"] is None
