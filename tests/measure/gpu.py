"""Training speed of the recipes on a GPU: `KERAS_BACKEND=jax python tests/measure/gpu.py`, or on TensorFlow without.

Trains each recipe on drawn pets with the batches of CASES. Measures images per second and milliseconds per step after
compilation, peak memory, and the fraction of the GPU's rate for a large matrix product in the same precision. From
these follow the minutes of a training with the recipe's defaults on Oxford-IIIT Pet. Each case runs in a process of its
own. The results go to output/gpu.json; copied to resources/, they replace the estimate in the rows that results.py
prints for the README. It also runs on a CPU, to try it.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import benchmark

OUTPUT = benchmark.ROOT / "output" / "gpu.json"
CASES = ((128, 16), (256, 16), (256, 64))  # pixels a side, images in a batch
DEFAULT_BATCH = 16
SECONDS = 10  # measured training time, at least
PRODUCT = 8192  # side of the matrices
LIMIT = 512  # images


def train(recipe: str, size: str, batch: str) -> dict:
    """Measures one case in this process."""
    sys.path.insert(0, str(benchmark.ROOT / "recipes"))
    from app import backend, device, processes
    from app.datasets import load
    from common import losses, scores

    import keras

    size = int(size)
    batch = int(batch)
    gpus = device.start(uses_all=True)
    backend.distribute(batch)
    keras.config.set_dtype_policy(device.best_precision(gpus))
    dataset = load.load("synthetic", image_size=size, limit=LIMIT)
    pets = backend.feed(load.pipelines(dataset, size, batch, seed=0), batch, processes.Processes())
    model = backend.prepare(benchmark.build(recipe, size), has_gpu=bool(gpus))
    schedule = losses.warm_up_and_cosine(1e-4, 10**6)
    classes = len(pets.class_names)
    model.compile(keras.optimizers.Adam(schedule), losses.CrossEntropyAndDice(), metrics=scores.metrics(classes))

    def steps(count):
        began = time.perf_counter()
        model.fit(pets.train, steps_per_epoch=count, shuffle=False, verbose=0)  # reads the loss at the end
        return time.perf_counter() - began

    def seconds_a_step(count=4):
        """From the difference of two calls of `fit`, so that its start is left out."""
        steps(2)  # compiles
        while True:
            seconds = steps(2 + count) - steps(2)
            if seconds > SECONDS:
                return seconds / count
            count *= 2

    step = seconds_a_step()
    rate = 0.0 if not gpus else matrix_rate()
    operations = benchmark.operations(model) * batch
    return {
        "device": device.description(gpus),
        "precision": keras.config.dtype_policy().name,
        "images_per_second": batch / step,
        "milliseconds_per_step": 1000 * step,
        "memory_mb": memory() if gpus else benchmark.memory("VmHWM"),
        "fraction_of_peak": operations / step / rate if rate else None,
    }


def matrix_rate() -> float:
    """Operations per second of a large matrix product in the training precision."""
    import keras
    from keras import ops

    values = ops.ones((PRODUCT, PRODUCT), keras.config.dtype_policy().compute_dtype)

    def seconds(count=20):
        began = time.perf_counter()
        product = values
        for _ in range(count):
            product = ops.matmul(product, values)
        ops.convert_to_numpy(product[0, 0])
        return (time.perf_counter() - began) / count

    seconds()
    return 2 * PRODUCT**3 / min(seconds() for _ in range(3))


def memory() -> float:
    """The peak memory of the first GPU in this process, MB."""
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e6
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6


def case_name(recipe: str, size: int, batch: int = DEFAULT_BATCH) -> str:
    return f"{recipe}, {size} px, batch {batch}"


def device_name(results: dict) -> str:
    return next(case["device"] for case in results.values() if case)


def minutes(results: dict, recipe: str, size: int) -> float:
    """Minutes of a training with the recipe's defaults on Oxford-IIIT Pet, without validation and start."""
    module = importlib.import_module(recipe)
    images = module.EPOCHS * benchmark.PIPELINE_IMAGES
    return images / results[case_name(recipe, size)]["images_per_second"] / 60


def main() -> None:
    sys.path.insert(0, str(benchmark.ROOT / "recipes"))
    import app  # noqa: F401  before TensorFlow

    results = {}
    for recipe in benchmark.RECIPES:
        for size, batch in CASES:
            command = [sys.executable, __file__, "--case", recipe, str(size), str(batch)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            name = case_name(recipe, size, batch)
            results[name] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None  # no memory
            print(name, results[name], flush=True)
            OUTPUT.parent.mkdir(exist_ok=True)
            OUTPUT.write_text(json.dumps(results, indent=1) + "\n")
    for size in (128, 256):
        for recipe in benchmark.RECIPES:
            if results[case_name(recipe, size)]:
                print(f"{recipe}, {size} px: {minutes(results, recipe, size):.0f} minutes with its defaults")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(train(*sys.argv[2:])))
    else:
        main()
