"""Synthetic pets: drawn cats and dogs with an exact trimap, for learning and testing without a download.

Every picture is a function of (seed, split, index), so the data set needs no files and no memory. Most backgrounds have
clutter in the fur of the pet, so a colour threshold does not get far: a network has to learn shapes.
"""

from app.datasets import Dataset, decode_by
from common import data
from common.scores import BACKGROUND, BORDER, PET, TRIMAP

import cv2
import numpy as np
import tensorflow as tf

NAME = "synthetic"
COUNTS = {"train": 1600, "test": 400}
# RGB of coats (ginger, black, grey, white, brown, cream) and of scenes (grass, sky, wood, carpet, wall, concrete)
COATS = np.array([(198, 120, 56), (46, 42, 44), (128, 128, 134), (226, 222, 214), (104, 70, 46), (222, 196, 152)])
SCENES = np.array([(92, 128, 62), (150, 182, 210), (150, 108, 70), (140, 66, 62), (206, 198, 182), (132, 132, 130)])
DARK = (24, 20, 22)
PINK = (200, 144, 136)
BORDER_WIDTH = 0.037  # of the image's side; the border then covers as much as in Oxford-IIIT Pet, 12 %
SUBPIXEL = 4  # OpenCV draws at 1/2**4 of a pixel
CIRCLE = np.array([(np.cos(angle), np.sin(angle)) for angle in np.linspace(0, 2 * np.pi, 48)])


def load(image_size: int, seed: int) -> Dataset:
    """The data set: pictures drawn on the fly, at the size that is asked for."""
    count = COUNTS["train"]

    def read(number):
        split, index = ("train", number) if number < count else ("test", number - count)
        return draw(int(index), split, seed, image_size)

    train, validation = data.split(tf.data.Dataset.range(count), seed=seed)
    splits = {"train": train, "validation": validation, "test": tf.data.Dataset.range(count, count + COUNTS["test"])}
    # The drawings vary by themselves. A short training, as of the demo, learns faster without further variation.
    return Dataset(TRIMAP, splits, decode_by(read), augmented=False, size=lambda number: (image_size, image_size))


def draw(index: int, split: str = "train", seed: int = 0, image_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draws a picture, uint8 [image_size, image_size, 3], and its label map, uint8 [image_size, image_size], of TRIMAP.

    Raises ValueError for an unknown split.
    """
    rng = np.random.default_rng([seed, list(COUNTS).index(split), index])
    fur = _fur(rng, image_size)
    pet = Drawing(rng, fur, scale=rng.uniform(0.37, 0.56), origin=rng.uniform(0.4, 0.6, 2))
    _draw_pet(rng, pet)
    image = pet.onto(draw_background(rng, image_size, fur)) * (1 + _noise(rng, image_size, (2, 2), 0.2))  # uneven light
    return np.clip(image, 0, 255).astype(np.uint8), _trimap(pet.alpha)


def draw_background(rng: np.random.Generator, image_size: int, fur: np.ndarray | None = None) -> np.ndarray:
    """Draws a picture without a pet, uint8 [image_size, image_size, 3], with clutter in a pet's fur (default: any)."""
    fur = _fur(rng, image_size) if fur is None else fur
    y, x = np.indices((image_size, image_size, 1), np.float32)[:2] / image_size
    tiles = rng.uniform(3, 8)
    kind = rng.integers(4)
    if kind == 0:  # a floor and a wall
        mix = np.float32(y > rng.uniform(0.4, 0.8))
    elif kind == 1:
        mix = np.float32((x * tiles % 1 < 0.5) ^ (y * tiles % 1 < 0.5))
    else:  # clouds or grass
        mix = np.clip(0.5 + _noise(rng, image_size, (8, 6 if kind == 2 else image_size), 0.75), 0, 1)
    scene = _blend(rng, SCENES, mix) + _noise(rng, image_size, (24, 24), rng.uniform(3, 18))
    for _ in range(rng.integers(3)):
        texture = np.roll(fur, rng.integers(image_size, size=2), axis=(0, 1)) * rng.uniform(0.85, 1.15)
        clutter = Drawing(rng, texture, scale=rng.uniform(0.05, 0.14), origin=rng.uniform(-0.05, 1.05, 2))
        if rng.random() < 0.5:  # a cushion
            clutter.oval((0, 0), rng.uniform(0.5, 1, 2))
        else:  # a rope
            clutter.curve(np.cumsum(rng.normal(0, 0.7, (5, 2)), axis=0), rng.uniform(0.3, 0.7))
        scene = clutter.onto(scene)
    return np.clip(scene, 0, 255).astype(np.uint8)


def _trimap(alpha: np.ndarray) -> np.ndarray:
    """The exact label map of a silhouette: a ring along its outline is border, as in Oxford-IIIT Pet."""
    inside = (alpha > 127).astype(np.uint8)
    distance = sum(cv2.distanceTransform(side, cv2.DIST_L2, 5) for side in (inside, 1 - inside))
    label = np.where(inside, np.uint8(PET), np.uint8(BACKGROUND))
    # A pixel's centre is half a pixel closer to the outline than to the nearest pixel beyond it.
    label[distance - 0.5 < BORDER_WIDTH * len(alpha) / 2] = BORDER
    return label


def _noise(rng, size: int, cells: tuple[int, int], amplitude: float) -> np.ndarray:
    """Smooth noise float32 [size, size, 1] in -amplitude..amplitude, with so many (rows, columns) of bumps."""
    coarse = (rng.random(cells, np.float32) * 2 - 1) * amplitude
    return cv2.resize(coarse, (size, size))[..., np.newaxis]


def _blend(rng, palette: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """Two colours of a palette, varied in brightness and mixed: float32 [size, size, 3]."""
    first, second = np.float32(rng.choice(palette, 2) * rng.uniform(0.75, 1.15, (2, 1)))
    return first + (second - first) * mix


def _fur(rng, size: int) -> np.ndarray:
    """A texture of fur, float32 [size, size, 3]: patches or stripes, with upright hairs."""
    patches = np.clip(0.5 + _noise(rng, size, rng.integers(2, 12, 2), 1.5), 0, 1)
    return _blend(rng, COATS, patches) + _noise(rng, size, (max(1, size // 8), size), 24)


class Drawing:
    """A shape on a square canvas: its texture `image`, float32 [size, size, 3], and `alpha`, uint8 [size, size].

    Its coordinates have a unit of `scale` and (0, 0) at `origin`, in fractions of the canvas; x may point to the left.
    """

    def __init__(self, rng, texture: np.ndarray, scale: float, origin: np.ndarray):
        self.image = texture.copy()
        self.alpha = np.zeros(texture.shape[:2], np.uint8)
        self.unit = len(texture) * scale * rng.choice([(-1, 1), (1, 1)])
        self.origin = len(texture) * origin

    def zoom(self, center, scale: float) -> None:
        """Moves the origin to `center` and makes the unit `scale` times as long."""
        self.origin = self.origin + self.unit * center
        self.unit = self.unit * scale

    def _place(self, points) -> np.ndarray:
        return np.round((self.unit * points + self.origin) * 2**SUBPIXEL).astype(np.int32)

    def polygon(self, points, color=None) -> None:
        """Adds a polygon to the shape or, if a color is given, paints it on the texture."""
        canvas = self.alpha if color is None else self.image
        cv2.fillPoly(canvas, [self._place(points)], 255 if color is None else color, cv2.LINE_AA, SUBPIXEL)

    def oval(self, center, radii, color=None) -> None:
        self.polygon(center + CIRCLE * radii, color)

    def curve(self, points, width: float) -> None:
        """Adds a thick curve with round ends to the shape."""
        width = max(1, round(width * self.unit[1]))
        cv2.polylines(self.alpha, [self._place(points)], False, 255, width, cv2.LINE_AA, SUBPIXEL)

    def onto(self, scene: np.ndarray) -> np.ndarray:
        """The scene with this shape on it, which is darker towards its outline, so it looks round."""
        depth = cv2.distanceTransform((self.alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
        shade = 0.64 + 0.36 * np.minimum(1, depth / (0.09 * len(self.alpha)))
        alpha = self.alpha[..., np.newaxis] * np.float32(1 / 255)
        return scene + alpha * (self.image * shade[..., np.newaxis] - scene)


def _draw_pet(rng, pet: Drawing) -> None:
    """Standing or sitting; some close up, as in many photos of pets."""
    sits = rng.random() < 0.6
    if sits and rng.random() < 0.4:
        pet.zoom((-0.4, 0.75), 1.8)
    rump = np.array((-0.15, 0.45) if sits else (-0.45, 0)) + rng.uniform(-0.1, 0.1, 2)
    chest = np.array((0.1, -0.1) if sits else (0.45, 0)) + rng.uniform(-0.1, 0.1, 2)
    pet.curve([rump, chest], rng.uniform(0.5, 0.65))
    for hip, step in ((rump, -0.1), (rump, 0.1), (chest, -0.1), (chest, 0.1)):
        foot = hip[0] + step + rng.uniform(-0.12, 0.12)
        pet.curve([hip, (foot, 0.72), (foot + 0.08, 0.72)], rng.uniform(0.14, 0.2))
    turns = rng.uniform(2.4, 4.5) + np.cumsum(rng.normal(0, 0.5, 7))
    tail = rng.uniform(0.08, 0.13) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    pet.curve(np.cumsum([rump - (0.2, 0), *tail], axis=0), rng.uniform(0.07, 0.14))
    head = chest + rng.uniform((0.05, -0.6), (0.35, -0.4))
    pet.curve([chest, head], rng.uniform(0.3, 0.4))
    pet.zoom(head, rng.uniform(0.26, 0.36))
    _draw_head(rng, pet, turn=rng.uniform(-0.2, 1))


def _draw_head(rng, pet: Drawing, turn: float) -> None:
    """A cat's or dog's head of radius 1 at the origin; turn: 0 faces the viewer, 1 is in profile."""
    is_cat = rng.random() < 0.5
    pet.oval((0, 0), (1, rng.uniform(0.82, 0.95)))
    muzzle = (0.35 if is_cat else 1.1) * turn  # a dog's sticks out
    pet.oval((muzzle, 0.3), (0.34 if is_cat else 0.5, 0.36))
    pet.oval((muzzle, 0.35), (0.36, 0.26), color=(222, 208, 194))
    pet.oval((1.2 * muzzle, 0.2), (0.1, 0.08) if is_cat else (0.15, 0.11), PINK if is_cat else DARK)
    iris = rng.uniform((70, 90, 40), (220, 190, 110)) if is_cat else (96, 60, 34)
    for side in (-1, 1):
        if is_cat:
            ear = np.array([(0.15, -0.75), (0.98, -0.2), rng.uniform((0.75, -1.5), (0.95, -1.2))]) * (side, 1)
            pet.polygon(ear)
            pet.polygon((ear + ear.mean(axis=0)) / 2, PINK)
        else:
            pet.oval((0.95 * side, rng.uniform(0, 0.3)), (0.3, rng.uniform(0.55, 0.8)))
        eye = (0.35 * turn + 0.38 * side, -0.12)
        pet.oval(eye, (0.15, 0.13), iris)
        pet.oval(eye, (0.05 if is_cat else 0.09, 0.11), DARK)
