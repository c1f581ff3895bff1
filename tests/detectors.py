"""Fake detectors: SavedModels with Mask R-CNN's interface that return the instances they were given."""

import pathlib

from app import photos
from app.datasets import synthetic
from app.detect.instances import Instance, of_mask

import numpy as np
import tensorflow as tf
from PIL import Image

DETECTIONS = 100  # outputs are padded to this
SIDE = 33  # of a mask


def thing(category: int, mask: np.ndarray, score: float = 1.0) -> Instance:
    """An object in a photo, of a mask [H, W] of the whole photo."""
    return of_mask(mask, "")._replace(category_id=category, score=score)


def sample(instance: Instance) -> np.ndarray:
    """The 33 x 33 mask inside a box, sampled as the object detection API does for training."""
    box = np.nan_to_num(instance.box, posinf=1)  # the mask of an invalid box does not matter
    crops = tf.image.crop_and_resize(np.float32(instance.mask)[None, ..., None], np.float32([box]), [0], (SIDE, SIDE))
    return crops[0, ..., 0].numpy()


class Detector(tf.Module):
    """Recognizes a photo by its pixel sum and returns its instances; none for an unknown photo."""

    def __init__(self, scenes: dict[pathlib.Path, list[Instance]]):
        super().__init__()
        shapes = {"boxes": (4,), "classes": (), "scores": (), "masks": (SIDE, SIDE)}
        tables = {name: np.zeros((len(scenes), DETECTIONS, *shape), np.float32) for name, shape in shapes.items()}
        for row, instances in enumerate(scenes.values()):
            for column, instance in enumerate(instances):
                tables["boxes"][row, column] = instance.box
                tables["classes"][row, column] = instance.category_id
                tables["scores"][row, column] = instance.score
                tables["masks"][row, column] = sample(instance)
        self.keys = tf.constant([photos.read(path).sum(dtype=np.int64) for path in scenes], tf.int64)
        self.counts = tf.constant([len(instances) for instances in scenes.values()], tf.float32)
        self.tables = {f"detection_{name}": tf.constant(table) for name, table in tables.items()}

    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8, name="input_tensor")])
    def __call__(self, input_tensor):
        known = self.keys == tf.reduce_sum(tf.cast(input_tensor, tf.int64))
        row = tf.argmax(known)
        outputs = {name: table[row][tf.newaxis] for name, table in self.tables.items()}
        return {**outputs, "num_detections": tf.where(tf.reduce_any(known), self.counts[row], 0.0)[tf.newaxis]}


def save(folder: pathlib.Path, scenes: dict[pathlib.Path, list[Instance]]) -> pathlib.Path:
    tf.saved_model.save(Detector(scenes), str(folder))
    return folder


def drawn_scenes(folder: pathlib.Path, count: int = 4) -> dict[pathlib.Path, list[Instance]]:
    """Writes 427 x 640 photos to a folder, each with two drawn pets above a bench."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = {}
    for number in range(count):
        photo = np.zeros((427, 640, 3), np.uint8)
        photo[320:] = (200, 190, 170)
        masks = np.zeros((3, 427, 640), bool)
        for side in range(2):
            columns = slice(side * 320, side * 320 + 320)
            photo[:320, columns], label = synthetic.draw(2 * number + side, "test", image_size=320)
            masks[side, :320, columns] = label != 1
        masks[2, 330:420, 20:600] = True
        photo[masks[2]] = (120, 80, 40)
        path = folder / f"{number + 1:012}.png"
        Image.fromarray(photo).save(path)
        scenes[path] = [thing(17, masks[0], 0.95), thing(18, masks[1], 0.65), thing(15, masks[2], 0.35)]
    return scenes
