"""Predictions at a photo's own size: label maps, cutouts and overlays."""

from collections.abc import Sequence

from app.predict import matting, tiles
from common import masks, scores

import cv2
import numpy as np

# Chosen on 100 training photos for the best outline.
ON_OUTLINE = 128  # a depth of d pixels inside the outline is the uint8 ON_OUTLINE + PER_PIXEL * d
PER_PIXEL = 4
BORDER = 8.5  # half the width of a trimap's border in a photo of 500 pixels; in the guide's it is below 127 / PER_PIXEL
FUSED_SIDE = 250  # pixels of the longer side of the copy in which the colours of a soft edge are estimated
BLOCK = 2**20  # pixels of a soft edge that are computed at a time, to save memory
BACKGROUND = scores.TRIMAP[scores.BACKGROUND]  # its name, also among other classes


def enlarge(
    photo: np.ndarray, probabilities: np.ndarray | tiles.Segmentation, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Enlarges class probabilities to a photo's size, guided by the photo (matting.py).

    Takes a photo uint8 [H, W, 3] and probabilities float32 [h, w, classes], 0..1. Returns the label map, uint8 [H, W],
    and the probability of everything but the class "background", float32 0..1, of a copy of the photo with a longer
    side of at most matting.MAX_SIDE; None without such a class. What tiles say has the photo's size already, and stays
    as it is: matting would lose small objects. Its probability is uint8, 255 for 1.
    """
    if isinstance(probabilities, tiles.Segmentation):
        return probabilities
    guide = matting.Guide(photo)
    by_name = {name: probabilities[..., index] for index, name in enumerate(class_names)}
    if scores.is_trimap(class_names):
        pet = guide.fit(by_name["pet"] + by_name["border"] / 2)  # its outline is the middle of the border
        return _trimap(pet, photo, class_names), pet

    label = np.zeros(photo.shape[:2], np.uint8)
    best = np.zeros(photo.shape[:2], np.uint8)
    second, first = np.moveaxis(np.sort(probabilities, axis=-1)[..., -2:], -1, 0)
    for index in np.unique(probabilities.argmax(-1)):  # no other class can win
        own = probabilities[..., index]
        rival = np.where(own == first, second, first)
        channel = _enlarged(_as_bytes(guide.fit(own / (own + rival + 1e-9))), photo)
        label[channel > best] = index
        np.maximum(best, channel, out=best)
    return label, guide.fit(1 - by_name[BACKGROUND]) if BACKGROUND in by_name else None


def _trimap(pet: np.ndarray, photo: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """The label map of a trimap's classes: the border is no edge in the photo but a band around the pet's outline."""
    inside = (pet > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    coded = ON_OUTLINE + PER_PIXEL * depth.clip(-ON_OUTLINE, ON_OUTLINE)  # without an outline it is infinite
    coded = _enlarged(coded.round().clip(0, 255).astype(np.uint8), photo)
    codes = np.arange(256)
    in_border = np.abs(codes - ON_OUTLINE) <= PER_PIXEL * BORDER * max(pet.shape) / 500
    names = np.where(in_border, "border", np.where(codes > ON_OUTLINE, "pet", "background"))
    ids = np.select([names == name for name in class_names], range(len(class_names)))
    return cv2.LUT(coded, ids.astype(np.uint8))


def opacities(class_names: Sequence[str]) -> np.ndarray | None:
    """The opacity of each class in a cutout, float32 [classes], 0..1; None without a class "background"."""
    if BACKGROUND not in class_names:
        return None
    border = 0.5 if scores.is_trimap(class_names) else 1.0  # the outline is the middle of a trimap's border
    of_name = {BACKGROUND: 0.0, scores.TRIMAP[scores.BORDER]: border}
    return np.array([of_name.get(name, 1.0) for name in class_names], np.float32)


def _as_bytes(values: np.ndarray, contrast: float = 1.0) -> np.ndarray:
    """Values around a half, with more contrast, as uint8; 1.0, or 255 of uint8, becomes 255."""
    scale = contrast if values.dtype == np.uint8 else 255 * contrast
    return cv2.addWeighted(values, scale, values, 0, 255 * (1 - contrast) / 2, dtype=cv2.CV_8U)


def _enlarged(values: np.ndarray, photo: np.ndarray) -> np.ndarray:
    return cv2.resize(values, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def cut_out(photo: np.ndarray, foreground: np.ndarray, transparent: np.ndarray | None = None) -> np.ndarray:
    """A photo, uint8 [H, W, 3], on transparency: RGBA, uint8 [H, W, 4]; transparent pixels are black.

    `foreground` is the probability that `enlarge` returns. `transparent` has the photo's own colours and alpha, RGBA,
    if parts of it are transparent; they stay so.
    """
    return on_transparency(photo, _enlarged(alpha(foreground), photo), transparent)


def on_transparency(photo: np.ndarray, opacity: np.ndarray, transparent: np.ndarray | None = None) -> np.ndarray:
    """The same as `cut_out`, by the opacity of the result, uint8 [H, W], where the photo is opaque."""
    visible = colors(photo if transparent is None else _filled(transparent), opacity)
    if transparent is not None:
        own_alpha = transparent[..., 3]
        cv2.copyTo(transparent[..., :3], cv2.inRange(own_alpha, 1, 254), visible)  # these are the object's alone
        opacity = cv2.multiply(opacity, own_alpha, scale=1 / 255)
    result = cv2.cvtColor(cv2.bitwise_and(visible, visible, mask=opacity), cv2.COLOR_RGB2RGBA)
    result[..., 3] = opacity
    return result


def _filled(transparent: np.ndarray) -> np.ndarray:
    """The colours of RGBA, uint8 [H, W, 4]; where nothing is visible those of the visible surroundings.

    So that `colors` takes neither a hidden colour nor a plain one for the background of what is next to it.
    """
    weights = transparent[..., 3].astype(np.float32) / 255
    colored = transparent[..., :3] * weights[..., np.newaxis]
    small, fraction = matting.shrunk(colored, FUSED_SIDE), matting.shrunk(weights, FUSED_SIDE)
    surroundings = np.zeros_like(small)
    for reach in (1, 0.3, 0.1, 0.03):  # of the longer side, the nearest last
        side = max(3, round(reach * max(fraction.shape)))
        near = cv2.blur(fraction, (side, side))
        means = cv2.blur(small, (side, side)).reshape(small.shape) / (near[..., np.newaxis] + 1e-5)
        cv2.copyTo(means, np.uint8(near > 0.01), surroundings)
    filled = transparent[..., :3].copy()
    cv2.copyTo(_enlarged(surroundings.round().astype(np.uint8), filled), np.uint8(transparent[..., 3] == 0), filled)
    return filled


def alpha(foreground: np.ndarray) -> np.ndarray:
    """The opacity of a cutout, uint8 0..255, from the probability of everything but background, 0..1."""
    return _as_bytes(foreground, contrast=1.2)  # chosen on training photos


def colors(photo: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The colours of a cutout, uint8 [H, W, 3]: those of the photo, in a soft edge without the part of the background.

    Blur fusion (Forte, Pitie: Approximate Fast Foreground Colour Estimation, ICIP 2021): foreground and background are
    estimated as weighted means of the surroundings of a pixel in a small copy of the photo, first large and then small
    ones, and corrected so that both together give the photo. `opacity` is uint8 [H, W].
    """
    if not cv2.inRange(opacity, 1, 254).any():
        return photo
    small = matting.shrunk(photo, FUSED_SIDE).astype(np.float32)
    fraction = matting.shrunk(opacity, FUSED_SIDE).astype(np.float32)[..., np.newaxis] / 255
    foreground = background = small
    for surroundings in (0.08, 0.02):  # of the longer side
        side = max(3, round(surroundings * max(fraction.shape)))
        mean_foreground = _mean(foreground, fraction, side)
        background = _mean(background, 1 - fraction, side)
        foreground = _unmixed(small, fraction, mean_foreground, background)

    means = [_enlarged(values.round().astype(np.uint8), photo) for values in (mean_foreground, background)]
    result = photo.copy()
    pictures = [picture.reshape(-1, 3) for picture in (result, *means)]
    opacity = opacity.ravel()
    for start in range(0, opacity.size, BLOCK):
        edge = start + np.flatnonzero(cv2.inRange(opacity[start : start + BLOCK], 1, 254))
        seen, *surroundings = (pixels[edge].astype(np.float32) for pixels in pictures)
        fraction = opacity[edge, np.newaxis] / np.float32(255)
        pictures[0][edge] = np.rint(_unmixed(seen, fraction, *surroundings))
    return result


def _mean(values: np.ndarray, weights: np.ndarray, side: int) -> np.ndarray:
    """Weighted means of squares around each pixel: values [H, W, 3], weights [H, W, 1]."""
    total = cv2.blur(values * weights, (side, side)).reshape(values.shape)
    return total / (cv2.blur(weights, (side, side))[..., np.newaxis] + 1e-5)


def _unmixed(seen: np.ndarray, fraction: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The foreground, 0..255, near the given one, that mixed with the background comes close to what is seen."""
    return np.clip(foreground + fraction * (seen - fraction * foreground - (1 - fraction) * background), 0, 255)


def overlay(photo: np.ndarray, label: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Blends the colours of the classes into a photo, both uint8; the background stays as it is."""
    colored = masks.overlay(photo, label, masks.palette(class_names))
    if BACKGROUND in class_names:
        cv2.copyTo(photo, np.uint8(label == list(class_names).index(BACKGROUND)), colored)
    return colored


def fractions(label: np.ndarray, num_classes: int) -> np.ndarray:
    """The fraction of each class in a label map, uint8 [H, W]: float32 [classes], 0..1."""
    return cv2.calcHist([label], [0], None, [num_classes], [0, num_classes]).ravel() / label.size
