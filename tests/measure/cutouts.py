"""The colours in the soft edge of a cutout: `python tests/measure/cutouts.py PETS` (Oxford's layout).

Test pets are laid over other photos and over green with a soft edge of known opacity. Their own colours are known
there too: those of the nearest pixels well inside the pet. Prints the mean error of the colour in the edge, 0..255,
weighted by the opacity, for the photo's own pixels and for those of a cutout.
"""

import pathlib
import sys

import cv2
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "recipes"))

from app.detection import sources
from app.photos import cutout

COUNT = 30
SOFTNESS = (1.0, 3.5)  # pixels, the standard deviation of the blur of an outline
GREEN = (40, 200, 60)


def extended(image: np.ndarray, core: np.ndarray) -> np.ndarray:
    """The colours of the nearest pixel of the core, float32 [H, W, 3]."""
    _, labels = cv2.distanceTransformWithLabels(1 - core, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colors = np.zeros((labels.max() + 1, 3), np.float32)
    colors[labels[core > 0]] = image[core > 0]
    return np.where(core[..., np.newaxis] > 0, image, cv2.GaussianBlur(colors[labels], (0, 0), 1))


def main(pets: str) -> None:
    rng = np.random.default_rng(0)
    read = sources.load(pets).test
    order = rng.permutation(len(read))
    errors = []
    while len(errors) < COUNT:
        scene, other = read[order[2 * len(errors)]](), read[order[2 * len(errors) + 1]]()
        mask = scene.masks.any(0).astype(np.float32)
        core = cv2.erode(mask.astype(np.uint8), np.ones((7, 7)))
        if not core.any():
            errors.append((np.nan, np.nan))
            continue
        pet = extended(scene.image, core)
        opacity = cv2.GaussianBlur(mask, (0, 0), rng.uniform(*SOFTNESS))
        behind = cv2.resize(other.image, mask.shape[::-1]) if len(errors) % 2 else np.full_like(scene.image, GREEN)
        share = opacity[..., np.newaxis]
        photo = np.rint(share * pet + (1 - share) * behind).astype(np.uint8)
        edge = (opacity > 0.05) & (opacity < 0.95)
        found = photo, cutout.colors(photo, np.rint(255 * opacity).astype(np.uint8))
        errors.append([(share * np.abs(one - pet))[edge].mean() for one in found])
    before, after = np.nanmean(errors, axis=0)
    print(f"{COUNT} compositions, error of the colour in the edge: the photo's {before:.1f}, the cutout's {after:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
