"""The training of a detector, from its command line to its report."""

import contextlib
import functools
import math
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from app import checkpoint, cli, device, encoders, files, flags, models, runs
from app.datasets import Scene, check, empty_scene, load, synthetic
from app.detect import detector, evaluation, label_map, network, scenes
from app.report import compare, print_files, versions

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tqdm import tqdm

EMPTY = 0.2  # of the scenes begin without an instance
DRAWN = 0.3  # of these: a drawn background, the others a photo whose instances are filled in
LOSSES = ("rpn_score_loss", "rpn_box_loss", "frcnn_cls_loss", "frcnn_box_loss", "mask_loss")  # parts of the total
LEAST_STEPS = 2000
MIN_SCORE = 0.01  # of a detection that is scored
MAX_DETECTIONS = 100  # in a photo, more if a photo of the data has more instances; the network may give fewer
CACHE = 2e9  # bytes of photos that are kept in memory


class DetectionData(NamedTuple):
    """What a detector learns from: functions that read the scenes of each split."""

    categories: dict[int, str]  # names by id; the classes 1, 2, ... of the scenes are the categories in this order
    max_instances: int  # in a photo
    steps_per_epoch: int  # an epoch has as many scenes as there are photos
    train: list[Callable[[], Scene]]
    validation: list[Callable[[], Scene]]
    test: list[Callable[[], Scene]]


def start(recipe: str, doc: str, *, image_size: int, epochs: int, batch_size: int, learning_rate: float) -> runs.Run:
    """Reads the command line and prepares the training, as runs.start does; with --check-data it checks and exits."""
    args = flags.parse(
        recipe,
        doc,
        image_size=image_size,
        size_step=64,  # the stride of the coarsest level
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        has_encoder=True,
        is_network=False,
    )
    if args.check_data:
        check.print_findings(pathlib.Path(args.data), args.image_size, for_instances=True)
        sys.exit(0)
    if args.model.exists() and not (args.model / label_map.NAME).exists():
        raise cli.InputError(f"--output: {args.model} is there already, and no model; name another folder")
    gpus = device.start(runs_on_jax=False)  # before anything else uses them
    tf_keras.utils.set_random_seed(args.seed)
    encoder_weights = encoders.weights_file(keras.applications.MobileNetV2, args.backbone_weights)
    config = {"recipe": recipe, **vars(args)}
    for name in ("predict", "shard", "tiles", "weights"):  # flags of networks
        del config[name]
    options = {"default_epochs": epochs, "least_steps": LEAST_STEPS, "score": "val_mask_ap"}
    return runs.Run(config, gpus, encoder_weights=encoder_weights, **options)


def load_data(run: runs.Run) -> DetectionData:
    """Loads the data and begins or resumes the run, as Run.load_data does."""
    dataset = run.load_dataset(for_instances=True)
    readers = {split: load.scenes(dataset, split) for split in dataset.splits}
    counts = {split: len(read) for split, read in readers.items()}
    steps = max(1, counts["train"] // run.batch_size)
    run.begin(counts, steps, dataset.categories)
    return DetectionData(dataset.categories, dataset.max_instances, steps, **readers)


def fit(
    run: runs.Run, data: DetectionData, model: tf_keras.Model, step: Callable, optimizer: tf_keras.optimizers.Optimizer
) -> None:
    """Trains from the first unfinished epoch on; after each epoch it scores and keeps the averaged weights.

    `step` is of network.make_train_step, and `optimizer` averages the weights (use_ema).
    """
    optimizer.build(model.trainable_variables)
    variables = {"model": model.variables, "optimizer": optimizer.variables}
    for kind, arrays in run.checkpoint.variables.items():
        checkpoint.restore(variables[kind], arrays)
    detect_all = network.detector(model, run.image_size, list(data.categories))
    detect = _detector(data, lambda photo: detect_all(tf.constant(photo[np.newaxis])))

    def save_model():
        with _averaged(model, optimizer):
            _export(run.model_path, detect_all, data.categories, run.origin)

    first = run.finished_epochs * data.steps_per_epoch * run.batch_size
    draw = scene_composer(data, run.image_size, run.config["seed"])
    most = data.max_instances + scenes.MOST_PASTED
    batches = iter(network.batches(draw, first, run.image_size, run.batch_size, most))
    while run.finished_epochs < run.epochs:
        began = time.perf_counter()
        metrics = _train_epoch(step, batches, data.steps_per_epoch)
        with _averaged(model, optimizer):
            scores = evaluation.average_precision(data.validation, list(data.categories), detect)
        metrics |= {f"val_{name}": value for name, value in scores.items()}
        seconds = time.perf_counter() - began
        run.checkpoint.seconds += seconds
        run.checkpoint.finish_epoch(metrics, variables, save_model, run.epochs)
        run.checkpoint.print_epoch(run.epochs, seconds, ("loss", "val_box_ap", "val_mask_ap"))


def scene_composer(data: DetectionData, image_size: int, seed: int) -> Callable[[int], Scene]:
    """A function that composes a scene of training photos; it depends on the scene's number and the seed alone."""
    photo_bytes = image_size**2 * (3 + data.max_instances)  # three a pixel, and one for each mask

    @functools.lru_cache(maxsize=int(CACHE / photo_bytes))
    def read(index):
        return scenes.prepare(data.train[index](), image_size)

    def draw_photo(rng):
        return read(int(rng.integers(len(data.train))))

    def compose(number):
        rng = np.random.default_rng([seed, number])
        base = draw_photo(rng)
        if rng.random() < EMPTY:
            if rng.random() < DRAWN:
                base = empty_scene(synthetic.draw_background(rng, image_size))
            else:
                base = empty_scene(scenes.inpaint(rng, base.image, base.masks.any(0)))
        return scenes.compose(rng, base, draw_photo, image_size)

    return compose


def _train_epoch(step: Callable, batches: Iterator, steps: int) -> dict[str, float]:
    """Takes the steps of an epoch; returns the mean losses."""
    losses = []
    for _ in tqdm(range(steps), unit="step", disable=None, leave=False, file=sys.stdout):
        losses.append({name: float(value) for name, value in step(*next(batches)).items()})
        if not math.isfinite(losses[-1]["total_loss"]):
            raise cli.InputError("the loss is not finite: start again with a smaller --learning-rate")
    means = {"loss": np.mean([loss["total_loss"] for loss in losses])}
    return means | {name: np.mean([loss[name] for loss in losses]) for name in LOSSES}


@contextlib.contextmanager
def _averaged(model: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer) -> Iterator[None]:
    """In the block, the model has the averages of its weights."""
    own = [variable.numpy() for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        checkpoint.restore(model.trainable_variables, own)


def _export(folder: pathlib.Path, detect_all: Callable, categories: dict[int, str], origin: dict[str, Any]) -> None:
    """Writes the SavedModel, its label map and its origin, see models.save."""
    files.remove_leftovers(folder)
    with tempfile.TemporaryDirectory() as temporary:
        new = pathlib.Path(temporary)
        network.save(detect_all, new)
        label_map.write(new / label_map.NAME, categories)
        files.write_json(new / models.ORIGIN_FILE, origin)
        parts = [path for path in new.rglob("*") if path.is_file()]
        # First what marks the folder as a model, last the weights.
        for path in sorted(parts, key=lambda path: (path.name == "saved_model.pb", path.name != label_map.NAME)):
            with files.replacing(folder / path.relative_to(new)) as copy:
                shutil.copyfile(path, copy)


def _detector(data: DetectionData, detect_all: Callable) -> Callable:
    most = max(MAX_DETECTIONS, data.max_instances)
    return lambda photo: detector.detections(detect_all, photo, data.categories, MIN_SCORE, most)


def report(run: runs.Run, data: DetectionData) -> None:
    """Scores the best model on the test split, writes metrics.json and the pictures, and prints a table."""
    try:
        best = detector.from_saved_model(str(run.model_path))
    except cli.InputError as error:
        raise cli.InputError(f"{error}; deleted or damaged before it could be scored; train again") from error
    detect = _detector(data, best)
    scores = evaluation.average_precision(data.test, list(data.categories), detect)
    train = {"images": len(data.train), "epochs": run.finished_epochs, "seconds": round(run.checkpoint.seconds, 1)}
    run.write_metrics({"images": len(data.test), **scores}, train, versions(tf, tf_keras, np))
    paths = evaluation.draw_pictures(run.output, data.test, list(data.categories.values()), detect)
    run.checkpoint.end()
    print()
    table = [(f"test, {len(data.test)} photos", "AP", "AP at IoU 0.5")]
    for kind in evaluation.KINDS:
        table.append((kind, f"{scores[f'{kind}_ap']:.3f}", f"{scores[f'{kind}_ap50']:.3f}"))
    cli.print_table(table)
    compare(run.checkpoint, scores)
    recipe = os.path.relpath(pathlib.Path(sys.argv[0]).with_name("mask_rcnn_hub.py"))
    print_files(run.model_path, ["python", recipe, "PHOTO", "--model", str(files.shown(run.model_path))], paths)
