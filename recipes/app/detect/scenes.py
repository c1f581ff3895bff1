"""Photos with instances to train a detector on, and new ones composed of them (copy-paste).

Source of the composition: Ghiasi et al.: Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation, CVPR 2021, section 3.
"""

from collections.abc import Callable, Sequence

from app.datasets import Scene, empty_scene

import cv2
import numpy as np

SHARE_PASTED = 0.5  # of the photos that get more instances
MOST_PASTED = 3
PASTED_SIZE = (0.2, 0.7)  # of the photo's side: the longer side of a pasted instance
SHARE_DECOYS = 0.2  # of what is pasted: outlines of instances with the pixels of something else
SCALE = (0.7, 1.5)  # of the size at which a photo fits
MOST_ENLARGED = 2.0  # times; a photo also until it fits
LEAST_VISIBLE = 0.2  # of an instance: with less it is left out
DECOY = 0  # the class of decoys
MASK_SIDE = 56  # pixels of the masks to learn, twice as many as the network gives


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a mask [H, W] with at least one pixel; the last two are exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def prepare(scene: Scene, side: int) -> Scene:
    """A scene to train with: crowds are filled in, and the longer side has at most `side` pixels."""
    height, width = scene.image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))

    def resized(mask):
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)

    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA)
    masks = [resized(mask) for mask in scene.masks]
    if scene.crowd is not None:
        image = _fill(np.random.default_rng(0), image, resized(scene.crowd) & ~np.any(masks, axis=0))
    kept = [k for k, mask in enumerate(masks) if mask.any()]  # one may be smaller than a pixel now
    return Scene(image, scene.classes[kept], _stack([masks[k] for k in kept], size[::-1]))


def erase(rng: np.random.Generator, scene: Scene) -> Scene:
    """A photo without its instances: what is around them is drawn into their place."""
    return empty_scene(_fill(rng, scene.image, scene.masks.any(0)))


def _fill(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills a part of an image with what is around it, coarsely, with noise."""
    height, width = image.shape[:2]
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8))
    size = max(1, width // 4), max(1, height // 4)  # at full size it would take seconds
    small, small_hole = cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.resize(hole, size)
    filled = cv2.resize(cv2.inpaint(small, small_hole, 3, cv2.INPAINT_TELEA), (width, height))
    filled = np.clip(filled + rng.normal(0, 6, filled.shape), 0, 255).astype(np.uint8)
    return np.where(hole[..., None] > 0, filled, image)


def compose(rng: np.random.Generator, scene: Scene, draw: Callable[[np.random.Generator], Scene], side: int) -> Scene:
    """Varies a scene: places it at a random scale in a square, pastes instances of others, mirrors and recolours it.

    Args:
      rng: the source of all randomness.
      scene: the photo to begin with.
      draw: another scene, to take instances from.
      side: of the square, pixels.
    """
    canvas = _place(rng, scene, side)
    if rng.random() < SHARE_PASTED:
        for _ in range(rng.integers(1, MOST_PASTED + 1)):
            other = draw(rng)
            if rng.random() < SHARE_DECOYS:
                other = _disguise(rng, other, draw(rng))
            if len(other.classes):
                canvas = _paste(rng, canvas, other)
    if rng.random() < 0.5:
        canvas = Scene(canvas.image[:, ::-1], canvas.classes, canvas.masks[:, :, ::-1])
    return canvas._replace(image=_recolour(rng, canvas.image))


def _place(rng: np.random.Generator, scene: Scene, side: int) -> Scene:
    """A scene at a random scale and place in a square: parts outside are cropped, empty areas are grey."""
    height, width = scene.image.shape[:2]
    fit = side / max(height, width)
    scale = min(max(MOST_ENLARGED, fit), fit * np.exp(rng.uniform(*np.log(SCALE))))
    free_x, free_y = side - width * scale, side - height * scale
    matrix = np.float32([[scale, 0, free_x * rng.random()], [0, scale, free_y * rng.random()]])
    image = cv2.warpAffine(scene.image, matrix, (side, side), borderValue=(128, 128, 128))
    masks = [
        cv2.warpAffine(mask.astype(np.uint8), matrix, (side, side), flags=cv2.INTER_NEAREST) for mask in scene.masks
    ]
    kept = [k for k, mask in enumerate(masks) if mask.sum() > LEAST_VISIBLE * scale**2 * scene.masks[k].sum()]
    return Scene(image, scene.classes[kept], _stack([masks[k] for k in kept], (side, side)))


def _paste(rng: np.random.Generator, canvas: Scene, other: Scene) -> Scene:
    """Pastes one instance of another scene at a random size and place, in front of what is there."""
    side = len(canvas.image)
    k = rng.integers(len(other.classes))
    top, left, bottom, right = bounds(other.masks[k])
    window = slice(top, bottom), slice(left, right)
    image, mask = other.image[window], other.masks[k][window].astype(np.float32)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    scale = min(MOST_ENLARGED, side * rng.uniform(*PASTED_SIZE) / max(mask.shape))
    size = max(4, round(mask.shape[1] * scale)), max(4, round(mask.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    # Up to a quarter of it may be outside of the photo.
    left, top = (round(rng.uniform(-0.25 * part, side - 0.75 * part)) for part in size)
    x, y = max(0, left), max(0, top)
    right, bottom = min(side, left + size[0]), min(side, top + size[1])
    seen = slice(y - top, bottom - top), slice(x - left, right - left)
    place = slice(y, bottom), slice(x, right)
    pixels, alpha = canvas.image.copy(), alpha[seen]
    pixels[place] = pixels[place] + alpha[..., None] * (image[seen] - pixels[place].astype(np.float32))
    pasted = np.zeros((side, side), bool)
    pasted[place] = alpha > 0.5
    masks = [mask & ~pasted for mask in canvas.masks]
    kept = [n for n, mask in enumerate(masks) if mask.sum() > LEAST_VISIBLE * canvas.masks[n].sum()]
    classes, masks = canvas.classes[kept], [masks[n] for n in kept]
    if other.classes[k] != DECOY and pasted.any():
        classes, masks = np.append(classes, other.classes[k]).astype(np.int32), [*masks, pasted]
    return Scene(pixels, classes, _stack(masks, (side, side)))


def _disguise(rng: np.random.Generator, scene: Scene, other: Scene) -> Scene:
    """Decoys: the outlines of a scene's instances, with the background of another photo in them."""
    background = cv2.resize(erase(rng, other).image, scene.image.shape[1::-1], interpolation=cv2.INTER_AREA)
    return Scene(background, np.full_like(scene.classes, DECOY), scene.masks)


def _recolour(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Varies contrast, saturation and brightness, as the other recipes do."""
    contrast, saturation = rng.uniform(0.7, 1.3, 2)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    mean = grey.mean()
    varied = contrast * (grey + saturation * (image - grey) - mean) + mean + rng.uniform(-30, 30)
    return np.clip(np.rint(varied), 0, 255).astype(np.uint8)


def _stack(masks: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    return np.stack(masks).astype(bool) if len(masks) else np.zeros((0, *shape), bool)


def targets(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The training targets of a scene.

    Returns:
      Boxes float32 [n, 4] (top, left, bottom, right in pixels), classes int32 [n], and the part of each mask inside
      its box, float32 [n, MASK_SIDE, MASK_SIDE], 0..1.
    """
    boxes, crops = np.zeros((len(scene.classes), 4), np.float32), []
    for box, mask in zip(boxes, scene.masks, strict=True):
        box[:] = top, left, bottom, right = bounds(mask)
        crop = mask[top:bottom, left:right].astype(np.float32)
        small = min(crop.shape) >= MASK_SIDE
        crops.append(
            cv2.resize(crop, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA if small else cv2.INTER_LINEAR)
        )
    masks = np.stack(crops) if crops else np.zeros((0, MASK_SIDE, MASK_SIDE), np.float32)
    return boxes, scene.classes, masks
