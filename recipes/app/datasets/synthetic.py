"""Synthetic pets: drawn cats and dogs with an exact trimap, for learning and testing without a download.

Every picture is a function of (seed, split, index), so the data set needs no files and no memory. Three poses (side
view, sitting, portrait) are composed of ellipses, polygons and thick curves, rotated, scaled and placed at random,
covered with fur and shaded. Most backgrounds have clutter in the same fur and colours, up to two pieces, so a colour
threshold does not get far: a network has to learn shapes.
"""

from app.datasets import Dataset, decode_by
from common import data
from common.scores import BACKGROUND, BORDER, PET, TRIMAP

import cv2
import numpy as np
import tensorflow as tf

NAME = "synthetic"
COUNTS = {"train": 1600, "test": 400}
# RGB of common coats: ginger, black, grey, white, brown, cream, chestnut, fawn
COATS = np.float32(list(bytes.fromhex("c67838 2e2a2c 808086 e2ded6 68462e dec498 8e4a2c ba946c"))).reshape(-1, 3)
# RGB of grass, sky, wood, carpet, wall, concrete, night
SCENES = np.float32(list(bytes.fromhex("5c803e 96b6d2 966c46 8c423e cec6b6 848482 34384c"))).reshape(-1, 3)
BORDER_WIDTH = 0.037  # of the image's side; the border then covers as much as in Oxford-IIIT Pet, 12 %
SUBPIXEL = 4  # OpenCV draws at 1/2**4 of a pixel


def load(image_size: int, seed: int) -> Dataset:
    """The data set: pictures drawn on the fly, at the size that is asked for."""
    count = COUNTS["train"]

    def read(number):
        split, index = ("train", number) if number < count else ("test", number - count)
        return draw(int(index), split, seed, image_size)

    train, validation = data.split(tf.data.Dataset.range(count), seed=seed)
    test = tf.data.Dataset.range(count, count + COUNTS["test"])
    splits = {"train": train, "validation": validation, "test": test}
    # The drawings vary by themselves. A short training, as of the demo, learns faster without further variation.
    return Dataset(TRIMAP, splits, decode_by(read), augmented=False)


def draw(index: int, split: str = "train", seed: int = 0, image_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draws a picture, uint8 [image_size, image_size, 3], and its label map, uint8 [image_size, image_size], of TRIMAP.

    Raises ValueError for an unknown split.
    """
    rng = np.random.default_rng([seed, list(COUNTS).index(split), index])
    scene, fur, coat = _surroundings(rng, image_size)
    is_cat = rng.random() < 0.5
    pet = Drawing(
        fur,
        scale=image_size * rng.uniform(0.38, 0.62),
        angle=rng.normal(0, 12),
        side=rng.choice([-1, 1]),  # which way it looks
        origin=image_size * (0.5 + rng.uniform(-0.12, 0.12, 2)),
    )
    rng.choice([_side_view, _sitting, _portrait])(rng, pet, is_cat, coat)
    image = pet.onto(scene)
    light = cv2.resize(rng.uniform(0.75, 1.2, (2, 2)).astype(np.float32), (image_size, image_size))
    image = image * light[..., None] + _noise(rng, image_size, image_size, amplitude=rng.uniform(1, 8))
    return np.clip(image, 0, 255).astype(np.uint8), _trimap(pet.alpha)


def draw_background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Draws a picture without a pet: uint8 [image_size, image_size, 3]."""
    scene, _, _ = _surroundings(rng, image_size)
    return np.clip(scene + _noise(rng, image_size, image_size, amplitude=rng.uniform(1, 8)), 0, 255).astype(np.uint8)


def _surroundings(rng, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A background with clutter, and the fur and the coat that the clutter has in common with the pet."""
    coat = COATS[rng.integers(len(COATS))] * rng.uniform(0.8, 1.15) + rng.uniform(-12, 12, 3)
    second_coat = COATS[rng.integers(len(COATS))] if rng.random() < 0.6 else coat * rng.uniform(0.6, 0.9)
    fur = _fur(rng, size, coat, second_coat)
    scene = _scene(rng, size)
    for _ in range(rng.integers(0, 3)):
        scene = _add_clutter(rng, scene, fur)
    return scene, fur, coat


def _trimap(alpha: np.ndarray) -> np.ndarray:
    """The exact label map of a silhouette: a ring along its outline is border, as in Oxford-IIIT Pet."""
    inside = (alpha > 127).astype(np.uint8)
    distances = [cv2.distanceTransform(side, cv2.DIST_L2, 5) for side in (inside, 1 - inside)]
    label = np.where(inside, np.uint8(PET), np.uint8(BACKGROUND))
    # A pixel's centre is half a pixel closer to the outline than to the nearest pixel beyond it.
    label[distances[0] + distances[1] - 0.5 < BORDER_WIDTH * len(alpha) / 2] = BORDER
    return label


def _noise(rng, size: int, cells: int, amplitude: float) -> np.ndarray:
    """Smooth noise float32 [size, size, 1] in -amplitude..amplitude, with about `cells` bumps per side."""
    coarse = rng.random((cells, cells), np.float32) * np.float32(2 * amplitude) - np.float32(amplitude)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]


def _fur(rng, size: int, coat: np.ndarray, second_coat: np.ndarray) -> np.ndarray:
    """A texture of fur, float32 [size, size, 3]: plain, tabby stripes or patches, with hairs."""
    kind = rng.integers(3)
    if kind == 0:  # plain
        mix = _noise(rng, size, 3, 0.2) + 0.2
    elif kind == 1:  # tabby: a sine wave bent by noise
        along = np.linspace(0, rng.uniform(25, 60), size, dtype=np.float32)
        mix = 0.5 + 0.5 * np.sin(along[None, :, None] + _noise(rng, size, 5, 3.0))
    else:  # patches
        mix = np.clip(0.5 + _noise(rng, size, 6, 3.0), 0, 1)
    hairs = cv2.resize(_noise(rng, size, size, 22.0), (size, size))
    hairs = cv2.blur(hairs, (1, max(2, size // 32)))[..., None]  # stretched along one direction
    return (coat * (1 - mix) + second_coat * mix + 1.6 * hairs).astype(np.float32)


def _scene(rng, size: int) -> np.ndarray:
    """A background, float32 [size, size, 3]: a gradient, clouds, boards, tiles, grass or a floor with a wall."""
    first, second = SCENES[rng.choice(len(SCENES), 2, replace=False)]
    if rng.random() < 0.5:
        second = first * rng.uniform(0.6, 0.9)
    y, x = np.meshgrid(*[np.linspace(0, 1, size, dtype=np.float32)] * 2, indexing="ij")
    kind = rng.integers(6)
    if kind == 0:
        mix = y
    elif kind == 1:
        mix = np.clip(0.5 + _noise(rng, size, 6, 0.9)[..., 0], 0, 1)
    elif kind == 2:  # boards
        angle = rng.uniform(0, np.pi)
        mix = (((np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(4, 12)) % 1) ** 4
    elif kind == 3:  # tiles
        tiles = rng.uniform(3, 8)
        mix = ((x * tiles + rng.random()) % 1 < 0.5) ^ ((y * tiles) % 1 < 0.5)
    elif kind == 4:  # grass: noise stretched upwards
        mix = np.clip(0.5 + cv2.blur(_noise(rng, size, size, 2.5), (1, max(2, size // 10))), 0, 1)
    else:  # a floor and a wall
        mix = (y > rng.uniform(0.4, 0.8)).astype(np.float32)
    mix = np.asarray(mix, np.float32)[..., None]
    return first * (1 - mix) + second * mix + _noise(rng, size, 24, rng.uniform(3, 25))


def _add_clutter(rng, scene: np.ndarray, fur: np.ndarray) -> np.ndarray:
    """Adds a cushion, box or rope in the pet's own fur (shifted and tinted) to the scene."""
    size = len(scene)
    clutter = Drawing(fur)
    center = rng.uniform(-0.05, 1.05, 2) * size
    radius = rng.uniform(0.05, 0.14) * size
    kind = rng.integers(3)
    if kind == 0:
        clutter.oval(center, (radius, radius * rng.uniform(0.5, 1)), rng.uniform(0, 180))
    elif kind == 1:
        sides = 2 * radius, radius * rng.uniform(0.6, 2)
        clutter.polygon(cv2.boxPoints((center.tolist(), sides, rng.uniform(0, 90))))
    else:
        rope = center + np.cumsum(rng.normal(0, 0.06 * size, (5, 2)), axis=0)
        clutter.curve(rope, rng.uniform(0.02, 0.06) * size)
    clutter.image = np.roll(fur, rng.integers(size, size=2), axis=(0, 1)) * np.float32(rng.uniform(0.85, 1.15))
    return clutter.onto(scene)


class Drawing:
    """A shape on a square canvas: its texture `image`, float32 [size, size, 3], and `alpha`, uint8 [size, size].

    It is drawn in coordinates of its own, x to the right and y down, which are mirrored (if `side` is -1), rotated,
    scaled and moved. The poses of pets lie in a square of -1..1.
    """

    def __init__(self, texture: np.ndarray, scale: float = 1.0, angle: float = 0.0, side: int = 1, origin=(0.0, 0.0)):
        self.image = texture.copy()
        self.alpha = np.zeros(texture.shape[:2], np.uint8)
        self.scale = scale
        self.angle = angle
        self.side = side
        self.origin = origin
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        self.matrix = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([side, 1.0])

    def _place(self, points) -> np.ndarray:
        return _fixed(np.asarray(points, np.float64) @ self.matrix.T + self.origin)

    def oval(self, center, axes, angle: float = 0.0, color=None) -> None:
        """Adds an ellipse to the shape or, if a color is given, paints it on the texture."""
        canvas = self.alpha if color is None else self.image
        color = 255 if color is None else np.asarray(color, float).tolist()
        axes = _fixed(np.maximum(np.multiply(axes, self.scale), 0.5)).tolist()
        turned = float(self.angle + self.side * angle)
        cv2.ellipse(canvas, self._place(center).tolist(), axes, turned, 0, 360, color, -1, cv2.LINE_AA, SUBPIXEL)

    def polygon(self, points, color=None) -> None:
        canvas = self.alpha if color is None else self.image
        color = 255 if color is None else color
        cv2.fillPoly(canvas, [self._place(points)], color, cv2.LINE_AA, SUBPIXEL)

    def curve(self, points, width: float) -> None:
        """A thick curve with round ends through the points."""
        width = max(1, round(width * self.scale))
        cv2.polylines(self.alpha, [self._place(points)], False, 255, width, cv2.LINE_AA, SUBPIXEL)

    def onto(self, scene: np.ndarray) -> np.ndarray:
        """The scene with this shape on it, which is darker towards its outline, so it looks round."""
        depth = cv2.distanceTransform((self.alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
        shade = 0.72 + 0.28 * np.minimum(1, depth / (0.09 * len(self.alpha)))
        alpha = self.alpha[..., None] * np.float32(1 / 255)
        return scene + alpha * (self.image * shade[..., None].astype(np.float32) - scene)


def _fixed(points) -> np.ndarray:
    return np.round(points * 2**SUBPIXEL).astype(np.int32)


def _side_view(rng, pet: Drawing, is_cat: bool, coat: np.ndarray) -> None:
    """Standing or walking, seen from the side."""
    length, height = rng.uniform(0.5, 0.66), rng.uniform(0.24, 0.34)
    ground = rng.uniform(0.5, 0.65) if is_cat else rng.uniform(0.55, 0.8)
    pet.oval((0, 0), (length, height), rng.uniform(-6, 6))
    for x in (-0.8, -0.62, 0.6, 0.78):
        foot = x * length + rng.uniform(-0.14, 0.14)
        leg = [(x * length, 0.05), (x * length, 0.35), (foot, ground), (foot + 0.06, ground)]
        pet.curve(leg, rng.uniform(0.12, 0.18))
    _tail(rng, pet, (-length, -0.05))
    head = np.array((length + rng.uniform(0.02, 0.16), -height - rng.uniform(0.02, 0.25)))
    pet.curve([(0.6 * length, -0.05), head], 2 * rng.uniform(0.15, 0.2))
    _head(rng, pet, is_cat, coat, head, rng.uniform(0.24, 0.3), profile=True)


def _sitting(rng, pet: Drawing, is_cat: bool, coat: np.ndarray) -> None:
    """Sitting, seen from the front."""
    width = rng.uniform(0.36, 0.48)
    pet.oval((0, 0.35), (width, 0.52))
    pet.oval((0, -0.1), (0.8 * width, 0.36))
    for x in (-0.45, 0.45):
        pet.curve([(x * width, 0.1), (x * width, 0.85)], rng.uniform(0.15, 0.22))
        pet.oval((2.0 * x * width, 0.78), (0.24, 0.14))
    _tail(rng, pet, (-width, 0.7))
    _head(rng, pet, is_cat, coat, np.array((rng.uniform(-0.1, 0.1), -0.55)), rng.uniform(0.3, 0.38))


def _portrait(rng, pet: Drawing, is_cat: bool, coat: np.ndarray) -> None:
    """Head and shoulders, close up, as in many photos of pets."""
    pet.origin += (0, 0.12 * pet.scale)
    pet.curve([(0, 0.1), (0, 1.0)], 0.75)
    pet.oval((0, 1.15), (rng.uniform(0.75, 1.0), 0.7))
    _head(rng, pet, is_cat, coat, np.array((0.0, -0.15)), rng.uniform(0.5, 0.6))


def _tail(rng, pet: Drawing, root) -> None:
    turns = np.radians(np.cumsum(rng.normal(0, 28, 7)) + rng.uniform(140, 260))
    steps = rng.uniform(0.08, 0.13) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    pet.curve(np.vstack([root, root + np.cumsum(steps, axis=0)]), rng.uniform(0.07, 0.14))


def _head(rng, pet: Drawing, is_cat: bool, coat: np.ndarray, center, radius: float, profile: bool = False) -> None:
    dark = (24, 20, 22)
    pale = np.clip(coat * 0.5 + 120, 0, 255)
    at = lambda x, y: center + radius * np.array((x, y))  # noqa: E731

    pet.oval(center, (radius, radius * rng.uniform(0.82, 0.95)))
    is_pointed = is_cat or rng.random() < 0.4
    for side in (-1, 1):
        _ear(rng, pet, at, radius, side, is_pointed)
    look = 0.35 if profile else rng.uniform(-0.12, 0.12)
    if is_cat:
        pet.oval(at(look, 0.38), (radius * 0.34, radius * 0.24), color=pale)
        pet.oval(at(look, 0.24), (radius * 0.09, radius * 0.07), color=(206, 140, 136))
    else:  # a muzzle, which sticks out in profile
        reach = 0.75 if profile else 0.0
        pet.oval(at(look + reach, 0.3), (radius * rng.uniform(0.42, 0.6), radius * 0.36))
        pet.oval(at(look + reach, 0.32), (radius * 0.36, radius * 0.28), color=pale)
        pet.oval(at(look + 1.3 * reach, 0.18), (radius * 0.15, radius * 0.11), color=dark)
    iris = rng.uniform((70, 90, 40), (220, 190, 110)) if is_cat else (70, 44, 26)
    for side in (-1, 1):
        eye = at(look + 0.38 * side, -0.12)
        pet.oval(eye, (radius * 0.15, radius * 0.13), color=iris)
        pet.oval(eye, (radius * (0.05 if is_cat else 0.09), radius * 0.11), color=dark)


def _ear(rng, pet: Drawing, at, radius: float, side: int, is_pointed: bool) -> None:
    if not is_pointed:
        center = at(side * 0.95, rng.uniform(0.0, 0.3))
        pet.oval(center, (radius * 0.3, radius * rng.uniform(0.55, 0.8)), -side * 15)
        return
    tip = at(side * rng.uniform(0.75, 0.95), rng.uniform(-1.5, -1.2))
    corners = np.array([at(side * 0.15, -0.75), at(side * 0.98, -0.2), tip])
    pet.polygon(corners)
    middle = corners.sum(axis=0) / 3
    pet.polygon(middle + 0.5 * (corners - middle), color=(196, 146, 136))
