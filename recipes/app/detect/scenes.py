"""Scenes to train a detector on, composed as by Ghiasi et al. (Simple Copy-Paste, CVPR 2021, section 3)."""

from collections.abc import Callable, Sequence

from app.datasets import Scene

import cv2
import numpy as np

FRACTION_PASTED = 0.7  # of the photos get more instances
MOST_PASTED = 3
PASTED_SIZE = (0.2, 0.8)  # of the photo's side: the longer side of a pasted instance
FRACTION_NEAR = 0.6  # of what is pasted: touches or overlaps another instance's box, half of it on the same ground
FRACTION_BEHIND = 0.3  # of what is pasted: behind what is there
FRACTION_DECOYS = 0.2  # of what is pasted: outlines of instances with the pixels of another background
SCALE = (0.7, 1.5)  # of the size at which a photo fits
MOST_ENLARGED = 2.0  # times; a photo also until it fits
LEAST_VISIBLE = 0.1  # of an instance: with less it is left out
DECOY = 0  # the class of decoys
MASK_SIDE = 56  # pixels of the masks to learn, twice as many as the network gives


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a mask [H, W]; the last two are exclusive. All are 0 for an empty mask."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return top, left, top + height, left + width


def prepare(scene: Scene, side: int) -> Scene:
    """A scene to train with: crowds are filled in, and the longer side has at most `side` pixels."""
    height, width = scene.image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))

    def resized(mask):  # turned, because the columns of decoded masks are contiguous
        return cv2.resize(mask.astype(np.uint8).T, size[::-1], interpolation=cv2.INTER_NEAREST).T.astype(bool)

    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA)
    masks = [resized(mask) for mask in scene.masks]
    if scene.crowd is not None:
        image = inpaint(np.random.default_rng(0), image, resized(scene.crowd) & ~np.any(masks, axis=0))
    return _visible(image, scene.classes, masks, np.zeros(len(masks)))  # some may be smaller than a pixel now


def _visible(image: np.ndarray, classes: np.ndarray, masks: Sequence[np.ndarray], pixels: np.ndarray) -> Scene:
    """The scene of those instances that have more than so many pixels each."""
    kept = [k for k, mask in enumerate(masks) if mask.sum() > pixels[k]]
    return Scene(image, classes[kept], np.array([masks[k] for k in kept], bool).reshape(-1, *image.shape[:2]))


def inpaint(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills a part of an image with what is around it, coarsely, with noise."""
    height, width = image.shape[:2]
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8))
    size = max(1, width // 4), max(1, height // 4)  # at full size it would take seconds
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    filled = cv2.inpaint(small, cv2.resize(hole, size), 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, (width, height))
    filled = np.clip(filled + rng.normal(0, 6, filled.shape), 0, 255).astype(np.uint8)
    return np.where(hole[..., None] > 0, filled, image)


def compose(rng: np.random.Generator, scene: Scene, draw: Callable[[np.random.Generator], Scene], side: int) -> Scene:
    """Varies a scene: places it at a random scale in a square, pastes instances of others, mirrors it, varies colors.

    `draw` gives the other scenes; the square has `side` pixels a side.
    """
    canvas = _place(rng, scene, side)
    if rng.random() < FRACTION_PASTED:
        for _ in range(rng.integers(1, MOST_PASTED + 1)):
            other = draw(rng)
            if rng.random() < FRACTION_DECOYS:
                removed = draw(rng)
                background = inpaint(rng, removed.image, removed.masks.any(0))
                background = cv2.resize(background, other.image.shape[1::-1], interpolation=cv2.INTER_AREA)
                other = Scene(background, np.full_like(other.classes, DECOY), other.masks)
            if len(other.classes):
                canvas = _paste(rng, canvas, other)
    if rng.random() < 0.5:
        canvas = Scene(canvas.image[:, ::-1], canvas.classes, canvas.masks[:, :, ::-1])
    return canvas._replace(image=_vary_colors(rng, canvas.image))


def _place(rng: np.random.Generator, scene: Scene, side: int) -> Scene:
    """A scene at a random scale and place in a square: parts outside are cropped, empty areas are gray."""
    height, width = scene.image.shape[:2]
    fit = side / max(height, width)
    scale = min(max(MOST_ENLARGED, fit), fit * np.exp(rng.uniform(*np.log(SCALE))))
    x = (side - width * scale) * rng.random()
    y = (side - height * scale) * rng.random()
    matrix = np.float32([[scale, 0, x], [0, scale, y]])
    image = cv2.warpAffine(scene.image, matrix, (side, side), borderValue=(128, 128, 128))
    nearest = {"M": matrix, "dsize": (side, side), "flags": cv2.INTER_NEAREST}
    masks = [cv2.warpAffine(mask.astype(np.uint8), **nearest) for mask in scene.masks]
    return _visible(image, scene.classes, masks, LEAST_VISIBLE * scale**2 * scene.masks.sum((1, 2)))


def _paste(rng: np.random.Generator, canvas: Scene, other: Scene) -> Scene:
    """Pastes one instance of another scene at a random size and place, in front of what is there or behind it."""
    side = len(canvas.image)
    k = rng.integers(len(other.classes))
    top, left, bottom, right = bounds(other.masks[k])
    image = other.image[top:bottom, left:right]
    mask = other.masks[k][top:bottom, left:right].astype(np.float32)
    if rng.random() < 0.5:
        image = image[:, ::-1]
        mask = mask[:, ::-1]
    scale = min(MOST_ENLARGED, side * rng.uniform(*PASTED_SIZE) / max(mask.shape))
    width = max(4, round(mask.shape[1] * scale))
    height = max(4, round(mask.shape[0] * scale))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    top, left = _choose_place(rng, canvas, height, width)
    rows = slice(max(0, top), min(side, top + height))
    columns = slice(max(0, left), min(side, left + width))
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    alpha = alpha[inside]
    least = LEAST_VISIBLE * np.count_nonzero(alpha > 0.5)
    if rng.random() < FRACTION_BEHIND:
        alpha = alpha * ~canvas.masks[:, rows, columns].any(0)
    pixels = canvas.image.copy()
    part = pixels[rows, columns]
    part[:] = part + alpha[..., None] * (image[inside] - part.astype(np.float32))
    pasted = np.zeros((side, side), bool)
    pasted[rows, columns] = alpha > 0.5
    scene = _visible(pixels, canvas.classes, canvas.masks & ~pasted, LEAST_VISIBLE * canvas.masks.sum((1, 2)))
    if other.classes[k] == DECOY or pasted.sum() <= least:
        return scene
    classes = np.append(scene.classes, other.classes[k]).astype(np.int32)
    return Scene(pixels, classes, np.concatenate([scene.masks, pasted[np.newaxis]]))


def _choose_place(rng: np.random.Generator, canvas: Scene, height: int, width: int) -> tuple[int, int]:
    """Top and left for what is pasted: anywhere, or near an instance, with up to a quarter outside of the photo."""
    side = len(canvas.image)
    least = np.array([-0.25 * height, -0.25 * width])
    most = np.array([side - 0.75 * height, side - 0.75 * width])
    place = rng.uniform(least, most)
    if len(canvas.classes) and rng.random() < FRACTION_NEAR:
        near = np.array(bounds(canvas.masks[rng.integers(len(canvas.classes))]))
        middle = (near[:2] + near[2:] - (height, width)) / 2
        touching = (near[2:] - near[:2] + (height, width)) / 2
        place = middle + rng.random() * rng.uniform(-touching, touching)
        if rng.random() < 0.5:
            place[0] = near[2] - height
        place = np.clip(place, least, most)
    top, left = np.rint(place).astype(int).tolist()
    return top, left


def _vary_colors(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Varies contrast, saturation and brightness, as the other recipes do."""
    contrast, saturation = rng.uniform(0.7, 1.3, 2)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    mean = gray.mean()
    varied = contrast * (gray + saturation * (image - gray) - mean) + mean + rng.uniform(-30, 30)
    return np.clip(np.rint(varied), 0, 255).astype(np.uint8)


def targets(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What to learn from a scene: boxes, classes, and the part of each mask inside its box.

    Boxes are float32 [n, 4] (top, left, bottom, right in pixels), classes int32 [n], masks float32 [n, MASK_SIDE,
    MASK_SIDE], 0..1.
    """
    boxes = np.float32([bounds(mask) for mask in scene.masks]).reshape(-1, 4)
    masks = np.zeros((len(scene.classes), MASK_SIDE, MASK_SIDE), np.float32)
    for k, mask in enumerate(scene.masks):
        top, left, bottom, right = boxes[k].astype(int)
        crop = mask[top:bottom, left:right].astype(np.float32)
        interpolation = cv2.INTER_AREA if min(crop.shape) >= MASK_SIDE else cv2.INTER_LINEAR
        masks[k] = cv2.resize(crop, (MASK_SIDE, MASK_SIDE), interpolation=interpolation)
    return boxes, scene.classes, masks
