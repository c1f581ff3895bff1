"""Predictions at a photo's own size: label maps, cutouts and overlays."""

from collections.abc import Sequence

from common import masks, scores

import cv2
import numpy as np

# Chosen on 100 training photos for the best outline. Lengths are those in a photo of 500 pixels.
SMOOTHNESS = 100.0  # of the edge-aware filter
EDGE_TOLERANCE = 8.0  # grey levels
BORDER = 8.5  # half the width of a trimap's border
CONTRAST = 3.0  # of a cutout's edge: alpha goes from 0 to 1 within 1 / CONTRAST of the probability's range
SURROUNDINGS = (0.08, 0.02)  # of the longer side, from which the colours of a soft edge are estimated
FUSED_SIDE = 500  # pixels of the copy in which they are
BACKGROUND = "background"


def enlarge(
    photo: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Enlarges class probabilities to a photo's size, guided by the photo.

    They are smoothed where the photo is smooth and keep their steps at its edges (Min et al.: Fast Global Image
    Smoothing Based on Weighted Least Squares, TIP 2014). A trimap's border is no edge in the photo but a band on
    both sides of the outline, so it is drawn around the guided outline.

    Args:
      photo: uint8 [H, W, 3].
      probabilities: float32 [h, w, classes], 0..1.
      class_names: one of them may be "background".
    Returns:
      The label map, uint8 [H, W], and the probability of everything but background, float32 [H, W], 0..1; None if no
      class is the background.
    """
    height, width = photo.shape[:2]
    scale = max(height, width) / 500
    edge_aware = edge_filter(photo, scale)

    def guided(channel):
        channel = np.ascontiguousarray(channel, np.float32)
        return edge_aware.filter(cv2.resize(channel, (width, height), interpolation=cv2.INTER_LINEAR))

    of = {name: probabilities[..., index] for index, name in enumerate(class_names)}
    if scores.is_trimap(class_names):
        pet = guided(of["pet"] + of["border"] / 2)  # its outline is the middle of the border
        inside = (pet > 0.5).astype(np.uint8)
        to_outline = cv2.distanceTransform(inside, cv2.DIST_L2, 5) + cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
        ids = {name: list(class_names).index(name) for name in scores.TRIMAP}
        label = np.where(inside == 1, ids["pet"], ids["background"])
        return np.where(to_outline <= BORDER * scale, ids["border"], label).astype(np.uint8), pet

    label, best = np.zeros((height, width), np.uint8), np.full((height, width), -1, np.float32)
    for index in np.unique(probabilities.argmax(-1)):  # no other class can win
        channel = guided(probabilities[..., index])
        label[channel > best] = index
        np.maximum(best, channel, out=best)
    return label, guided(1 - of[BACKGROUND]) if BACKGROUND in of else None


def edge_filter(photo: np.ndarray, scale: float) -> cv2.ximgproc.FastGlobalSmootherFilter:
    """A filter that smooths where a photo, or a part of one, is smooth; scale is the photo's longer side over 500."""
    return cv2.ximgproc.createFastGlobalSmootherFilter(
        np.ascontiguousarray(photo), SMOOTHNESS * scale**2, EDGE_TOLERANCE
    )


def alpha(foreground: np.ndarray) -> np.ndarray:
    """The opacity of a cutout, uint8 0..255, from the probability of everything but background, 0..1."""
    return np.round(((foreground - 0.5) * CONTRAST + 0.5).clip(0, 1) * 255).astype(np.uint8)


def colors(photo: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The colours of a cutout: a photo's, in the soft edge without the background's share in them.

    Blur fusion (Forte, Pitie: Approximate Fast Foreground Colour Estimation, ICIP 2021): foreground and background are
    estimated as weighted means of what is around a pixel, in ever smaller surroundings, and corrected so that both
    together give the photo. The means come from a small copy of the photo.

    Args:
      photo: uint8 [H, W, 3].
      opacity: uint8 [H, W].
    Returns:
      uint8 [H, W, 3].
    """
    rows, columns = np.nonzero((opacity > 0) & (opacity < 255))
    if not len(rows):
        return photo
    height, width = photo.shape[:2]
    scale = min(1.0, FUSED_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    seen = cv2.resize(photo, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    share = cv2.resize(opacity, size, interpolation=cv2.INTER_AREA).astype(np.float32)[..., np.newaxis] / 255
    foreground = background = seen
    for surroundings in SURROUNDINGS:
        side = max(3, round(surroundings * max(size)))
        near_foreground, background = _mean(foreground, share, side), _mean(background, 1 - share, side)
        foreground = _unmixed(seen, share, near_foreground, background)

    result = photo.copy()
    places = [((place + 0.5) * scale - 0.5).astype(np.float32) for place in (columns, rows)]
    sampled = [_sample(values, *places) for values in (near_foreground, background)]
    share = opacity[rows, columns, np.newaxis] / np.float32(255)
    result[rows, columns] = np.rint(_unmixed(photo[rows, columns], share, *sampled))
    return result


def _mean(values: np.ndarray, weights: np.ndarray, side: int) -> np.ndarray:
    """Weighted means of squares around each pixel: values [H, W, 3], weights [H, W, 1]."""
    total = cv2.blur(values * weights, (side, side)).reshape(values.shape)
    return total / (cv2.blur(weights, (side, side))[..., np.newaxis] + 1e-5)


def _unmixed(seen: np.ndarray, share: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The foreground, 0..255, near the given one, that mixed with the background comes close to what is seen."""
    return np.clip(foreground + share * (seen - share * foreground - (1 - share) * background), 0, 255)


def _sample(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The colours [n, 3] of a picture at places between its pixels."""
    columns = 1024  # OpenCV takes no long rows
    padding = -len(x) % columns
    x, y = (np.pad(place, (0, padding)).reshape(-1, columns) for place in (x, y))
    sampled = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(-1, 3)[: x.size - padding]


def overlay(photo: np.ndarray, label: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Blends the colours of the classes into a photo, both uint8; the background stays as it is."""
    colored = masks.overlay(photo, label, masks.palette(class_names))
    if BACKGROUND in class_names:
        background = label == list(class_names).index(BACKGROUND)
        colored[background] = photo[background]
    return colored
