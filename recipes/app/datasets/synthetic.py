"""Synthetic pets: drawn cats and dogs with an exact trimap, for learning and testing without a download.

Every picture is a function of (seed, split, index), so the data set needs no files and no memory. Three poses (side
view, sitting, portrait) are composed of ellipses, polygons and thick curves, rotated, scaled and placed at random,
covered with fur and shaded. Most backgrounds have clutter in the same fur and colours, up to two pieces, so a colour
threshold does not get far: a network has to learn shapes.
"""

from app.datasets import Source
from common.scores import BACKGROUND, BORDER, PET, TRIMAP

import cv2
import numpy as np
import tensorflow as tf

COUNTS = {"train": 1600, "test": 400}
SPLITS = tuple(COUNTS)

COATS = np.array(  # RGB of common coats: ginger, black, grey, white, brown, cream, chestnut, fawn
    [(198, 120, 56), (46, 42, 44), (128, 128, 134), (226, 222, 214), (104, 70, 46), (222, 196, 152), (142, 74, 44),
     (186, 148, 108)],
    np.float32,
)  # fmt: skip
SCENES = np.array(  # RGB of grass, sky, wood, carpet, wall, concrete, night
    [(92, 128, 62), (150, 182, 210), (150, 108, 70), (140, 66, 62), (206, 198, 182), (132, 132, 130), (52, 56, 76)],
    np.float32,
)
BORDER_WIDTH = 0.037  # of the image's side; gives the border its share in Oxford-IIIT Pet, 12 %
SUBPIXEL = 4  # OpenCV draws at 1/2**4 of a pixel


def source(image_size: int, seed: int) -> Source:
    """The data set: pictures drawn on the fly, at the size that is asked for."""

    def numbered(split):
        return tf.data.Dataset.range(COUNTS[split]).map(lambda index: {"index": index, "split": split})

    def draw_numbered(index, split):
        image, label = draw(int(index), split.decode(), seed, image_size)
        return image, label[..., np.newaxis]

    def decode(element):
        image, label = tf.numpy_function(draw_numbered, [element["index"], element["split"]], [tf.uint8, tf.uint8])
        return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(label, (None, None, 1))

    # The drawings vary by themselves. A short training, as of the demo, learns faster without further variation.
    return Source(TRIMAP, numbered("train"), numbered("test"), decode, augmented=False)


def draw(index: int, split: str = "train", seed: int = 0, image_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draws one picture and its label map.

    Returns:
      image: uint8 [image_size, image_size, 3], RGB, 0..255.
      label: uint8 [image_size, image_size]; 0 = pet, 1 = background, 2 = border (see TRIMAP).
    Raises:
      ValueError: for an unknown split.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene, fur, coat = _surroundings(rng, image_size)
    pet = Pet(rng, image_size, fur, coat)
    rng.choice([pet.side_view, pet.sitting, pet.portrait])()

    alpha = pet.alpha[..., None] * np.float32(1 / 255)
    image = scene + alpha * (_shade(pet.image, pet.alpha) - scene)
    light = cv2.resize(rng.uniform(0.75, 1.2, (2, 2)).astype(np.float32), (image_size, image_size))
    image = image * light[..., None] + _noise(rng, image_size, image_size, amplitude=rng.uniform(1, 8))
    return np.clip(image, 0, 255).astype(np.uint8), _trimap(pet.alpha)


def draw_background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Draws a picture without a pet: uint8 [image_size, image_size, 3]."""
    scene, _, _ = _surroundings(rng, image_size)
    return np.clip(scene + _noise(rng, image_size, image_size, amplitude=rng.uniform(1, 8)), 0, 255).astype(np.uint8)


def _surroundings(rng, image_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A background with clutter, and the fur and the coat that the clutter has in common with the pet."""
    coat = COATS[rng.integers(len(COATS))] * rng.uniform(0.8, 1.15) + rng.uniform(-12, 12, 3)
    second_coat = COATS[rng.integers(len(COATS))] if rng.random() < 0.6 else coat * rng.uniform(0.6, 0.9)
    fur = _fur(rng, image_size, coat, second_coat)
    scene = _scene(rng, image_size)
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
    shape = np.zeros((size, size), np.uint8)
    center = rng.uniform(-0.05, 1.05, 2) * size
    radius = rng.uniform(0.05, 0.14) * size
    kind = rng.integers(3)
    if kind == 0:
        axes = (radius, radius * rng.uniform(0.5, 1))
        _ellipse(shape, center, axes, rng.uniform(0, 180), 255)
    elif kind == 1:
        box = cv2.boxPoints((center.tolist(), (2 * radius, radius * rng.uniform(0.6, 2)), rng.uniform(0, 90)))
        _polygon(shape, box, 255)
    else:
        rope = center + np.cumsum(rng.normal(0, 0.06 * size, (5, 2)), axis=0)
        _curve(shape, rope, rng.uniform(0.02, 0.06) * size, 255)
    alpha = shape[..., None] * np.float32(1 / 255)
    stuff = np.roll(fur, rng.integers(size, size=2), axis=(0, 1)) * np.float32(rng.uniform(0.85, 1.15))
    return scene + alpha * (_shade(stuff, shape) - scene)


def _shade(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Darkens a shape towards its outline, so it looks round."""
    depth = cv2.distanceTransform((alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
    return image * (0.72 + 0.28 * np.minimum(1, depth / (0.09 * len(alpha))))[..., None].astype(np.float32)


def _fixed(points) -> np.ndarray:
    return np.round(np.asarray(points, np.float64) * 2**SUBPIXEL).astype(np.int32)


def _ellipse(canvas, center, axes, angle, color):
    center, axes = (tuple(_fixed(v).tolist()) for v in (center, np.maximum(axes, 0.5)))
    cv2.ellipse(canvas, center, axes, float(angle), 0, 360, color, -1, cv2.LINE_AA, SUBPIXEL)


def _polygon(canvas, points, color):
    cv2.fillPoly(canvas, [_fixed(points)], color, cv2.LINE_AA, SUBPIXEL)


def _curve(canvas, points, width, color):
    cv2.polylines(canvas, [_fixed(points)], False, color, max(1, round(width)), cv2.LINE_AA, SUBPIXEL)


class Pet:
    """A pet on its own canvas: `image` float32 [size, size, 3] and `alpha` uint8 [size, size].

    Poses are drawn in a square of -1..1 (x to the right, y down), which `_place` rotates, scales and moves.
    """

    def __init__(self, rng, size: int, fur: np.ndarray, coat: np.ndarray):
        self.rng, self.coat, self.is_cat = rng, coat, rng.random() < 0.5
        self.image, self.alpha = fur.copy(), np.zeros((size, size), np.uint8)
        self.scale = size * rng.uniform(0.38, 0.62)
        self.angle = rng.normal(0, 12)
        self.side = rng.choice([-1, 1])  # which way it looks
        cos, sin = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        self.matrix = self.scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([self.side, 1.0])
        self.origin = size * (0.5 + rng.uniform(-0.12, 0.12, 2))

    def _place(self, points) -> np.ndarray:
        return np.asarray(points, np.float64) @ self.matrix.T + self.origin

    def oval(self, center, axes, angle=0.0, color=None):
        """A filled ellipse: silhouette and fur if color is None, otherwise paint on the silhouette."""
        canvas, color = (self.alpha, 255) if color is None else (self.image, tuple(map(float, color)))
        turned = self.angle + self.side * angle
        _ellipse(canvas, self._place(center), np.multiply(axes, self.scale), turned, color)

    def shape(self, points, color=None):
        canvas, color = (self.alpha, 255) if color is None else (self.image, tuple(map(float, color)))
        _polygon(canvas, self._place(points), color)

    def limb(self, points, width):
        """A thick curve with round ends through the points."""
        _curve(self.alpha, self._place(points), width * self.scale, 255)

    def side_view(self):
        """Standing or walking, seen from the side."""
        rng = self.rng
        length, height = rng.uniform(0.5, 0.66), rng.uniform(0.24, 0.34)
        ground = rng.uniform(0.55, 0.8) if not self.is_cat else rng.uniform(0.5, 0.65)
        self.oval((0, 0), (length, height), rng.uniform(-6, 6))
        for x in (-0.8, -0.62, 0.6, 0.78):
            foot = x * length + rng.uniform(-0.14, 0.14)
            self.limb([(x * length, 0.05), (x * length, 0.35), (foot, ground), (foot + 0.06, ground)],
                      rng.uniform(0.12, 0.18))  # fmt: skip
        self._tail((-length, -0.05))
        head = np.array((length + rng.uniform(0.02, 0.16), -height - rng.uniform(0.02, 0.25)))
        self.limb([(0.6 * length, -0.05), head], 2 * rng.uniform(0.15, 0.2))
        self._head(head, rng.uniform(0.24, 0.3), profile=True)

    def sitting(self):
        """Sitting, seen from the front."""
        rng = self.rng
        width = rng.uniform(0.36, 0.48)
        self.oval((0, 0.35), (width, 0.52))
        self.oval((0, -0.1), (0.8 * width, 0.36))
        for x in (-0.45, 0.45):
            self.limb([(x * width, 0.1), (x * width, 0.85)], rng.uniform(0.15, 0.22))
            self.oval((2.0 * x * width, 0.78), (0.24, 0.14))
        self._tail((-width, 0.7))
        self._head(np.array((rng.uniform(-0.1, 0.1), -0.55)), rng.uniform(0.3, 0.38))

    def portrait(self):
        """Head and shoulders, close up, as in many photos of pets."""
        rng = self.rng
        self.origin += (0, 0.12 * self.scale)
        self.limb([(0, 0.1), (0, 1.0)], 0.75)
        self.oval((0, 1.15), (rng.uniform(0.75, 1.0), 0.7))
        self._head(np.array((0.0, -0.15)), rng.uniform(0.5, 0.6))

    def _tail(self, root):
        rng = self.rng
        turns = np.cumsum(rng.normal(0, 28, 7)) + rng.uniform(140, 260)
        steps = rng.uniform(0.08, 0.13) * np.stack([np.cos(np.radians(turns)), np.sin(np.radians(turns))], axis=1)
        self.limb(np.vstack([root, root + np.cumsum(steps, axis=0)]), rng.uniform(0.07, 0.14))

    def _head(self, center, radius, profile=False):
        rng, dark, pink = self.rng, (24, 20, 22), (206, 140, 136)
        pale = np.clip(self.coat * 0.5 + 120, 0, 255)
        at = lambda x, y: center + radius * np.array((x, y))  # noqa: E731

        self.oval(center, (radius, radius * rng.uniform(0.82, 0.95)))
        pointed = self.is_cat or rng.random() < 0.4
        for side in (-1, 1):
            self._ear(at, radius, side, pointed)
        look = 0.35 if profile else rng.uniform(-0.12, 0.12)
        if not self.is_cat:  # a muzzle, which sticks out in profile
            reach = 0.75 if profile else 0.0
            self.oval(at(look + reach, 0.3), (radius * rng.uniform(0.42, 0.6), radius * 0.36))
            self.oval(at(look + reach, 0.32), (radius * 0.36, radius * 0.28), color=pale)
            self.oval(at(look + 1.3 * reach, 0.18), (radius * 0.15, radius * 0.11), color=dark)
        else:
            self.oval(at(look, 0.38), (radius * 0.34, radius * 0.24), color=pale)
            self.oval(at(look, 0.24), (radius * 0.09, radius * 0.07), color=pink)
        iris = rng.uniform((70, 90, 40), (220, 190, 110)) if self.is_cat else (70, 44, 26)
        for side in (-1, 1):
            eye = at(look + 0.38 * side, -0.12)
            self.oval(eye, (radius * 0.15, radius * 0.13), color=iris)
            self.oval(eye, (radius * (0.05 if self.is_cat else 0.09), radius * 0.11), color=dark)

    def _ear(self, at, radius, side, pointed):
        rng = self.rng
        if pointed:
            tip = at(side * rng.uniform(0.75, 0.95), rng.uniform(-1.5, -1.2))
            base = [at(side * 0.15, -0.75), at(side * 0.98, -0.2)]
            self.shape([*base, tip])
            middle = (base[0] + base[1] + tip) / 3
            self.shape([middle + 0.5 * (p - middle) for p in (*base, tip)], color=(196, 146, 136))
        else:
            self.oval(
                at(side * 0.95, rng.uniform(0.0, 0.3)), (radius * 0.3, radius * rng.uniform(0.55, 0.8)), -side * 15
            )
