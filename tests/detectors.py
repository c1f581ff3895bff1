"""Fake detectors: SavedModels with Mask R-CNN's interface that return the instances they were given."""

import pathlib
from typing import NamedTuple

from app import photos
from app.datasets import synthetic

import numpy as np
import tensorflow as tf
from PIL import Image

DETECTIONS = 100  # outputs are padded to this
SIDE = 33  # of a mask


class Thing(NamedTuple):
    """An object in a photo."""

    category: int
    box: tuple[float, float, float, float]  # ymin, xmin, ymax, xmax, fractions
    mask: np.ndarray  # bool [H, W], the whole photo
    score: float = 1.0


def sample(mask, box):
    """The 33 x 33 mask inside a box, sampled as the object detection API does for training."""
    box = np.nan_to_num(box, posinf=1)  # the mask of an invalid box does not matter
    crops = tf.image.crop_and_resize(np.float32(mask)[None, ..., None], np.float32([box]), [0], (SIDE, SIDE))
    return crops[0, ..., 0].numpy()


class Detector(tf.Module):
    """Recognises a photo by its pixel sum and returns its things; none for an unknown photo."""

    def __init__(self, scenes: dict[pathlib.Path, list[Thing]]):
        super().__init__()
        shapes = {"boxes": (4,), "classes": (), "scores": (), "masks": (SIDE, SIDE)}
        tables = {name: np.zeros((len(scenes), DETECTIONS, *shape), np.float32) for name, shape in shapes.items()}
        keys, counts = [], []
        for row, (path, things) in enumerate(scenes.items()):
            keys.append(photos.read(path).sum(dtype=np.int64))
            counts.append(len(things))
            for column, thing in enumerate(things):
                tables["boxes"][row, column] = thing.box
                tables["classes"][row, column] = thing.category
                tables["scores"][row, column] = thing.score
                tables["masks"][row, column] = sample(thing.mask, thing.box)
        self.keys, self.counts = tf.constant(keys, tf.int64), tf.constant(counts, tf.float32)
        self.tables = {f"detection_{name}": tf.constant(table) for name, table in tables.items()}

    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8, name="input_tensor")])
    def __call__(self, input_tensor):
        known = self.keys == tf.reduce_sum(tf.cast(input_tensor, tf.int64))
        row = tf.argmax(known)
        answer = {name: table[row][tf.newaxis] for name, table in self.tables.items()}
        return {**answer, "num_detections": tf.where(tf.reduce_any(known), self.counts[row], 0.0)[tf.newaxis]}


def save(folder: pathlib.Path, scenes: dict[pathlib.Path, list[Thing]]) -> pathlib.Path:
    tf.saved_model.save(Detector(scenes), str(folder))
    return folder


def box_of(mask):
    """The tight box around a mask, as fractions."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width


def drawn_scenes(folder: pathlib.Path, count: int = 4) -> dict[pathlib.Path, list[Thing]]:
    """Writes 427 x 640 photos to a folder, each with two drawn pets above a bench."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = {}
    for number in range(count):
        photo, things = np.zeros((427, 640, 3), np.uint8), []
        for side in range(2):
            pet, label = synthetic.draw(2 * number + side, "test", image_size=320)
            photo[:320, side * 320 : side * 320 + 320] = pet
            mask = np.zeros(photo.shape[:2], bool)
            mask[:320, side * 320 : side * 320 + 320] = label != 1
            things.append(Thing((17, 18)[side], box_of(mask), mask, 0.95 - 0.3 * side))
        photo[320:] = (200, 190, 170)
        bench = np.zeros(photo.shape[:2], bool)
        bench[330:420, 20:600] = True
        photo[bench] = (120, 80, 40)
        things.append(Thing(15, box_of(bench), bench, 0.35))
        path = folder / f"{number + 1:012}.png"
        Image.fromarray(photo).save(path)
        scenes[path] = things
    return scenes
