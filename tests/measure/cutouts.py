"""The soft edge of a cutout: `python tests/measure/cutouts.py PETS [OTHERS...]`

PETS holds photos and trimaps in Oxford's layout; its test photos are composed onto others. OTHERS are folders of photos
without pets; with them the opacity is measured too, which needs `pip install pymatting`.

Colours: pets are laid over other photos and over green with a soft edge of known opacity. Their own colours are known
there too: those of the nearest pixels well inside the pet. Prints the mean error of the colour in the edge, 0..255,
weighted by the opacity, for the photo's own pixels and for those of a cutout.

Opacity: within a trimap's border it is estimated by closed-form matting (Levin, Lischinski, Weiss, CVPR 2006), and the
pet with its hair is laid over a photo without pets. The shipped weights cut out the result. Prints the mean absolute
and mean squared error of the opacity, 0..1, within 7 pixels of the hair.
"""

import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "recipes"))

from app import files, photos
from app.datasets import load
from app.datasets import pets as pet_photos
from app.predict import cutout, network
from common import scores

import unet_mobilenetv2

COUNT = 30
SOFTNESS = (1.0, 3.5)  # pixels, the standard deviation of the blur of an outline
GREEN = (40, 200, 60)
HAIRY = 0.03  # fraction of a photo that is border, at least
NEAR = np.ones((15, 15), np.uint8)  # the hair and 7 pixels around it


class Composition(NamedTuple):
    photo: np.ndarray  # uint8 [H, W, 3]
    pet: np.ndarray  # its colours, float32 [H, W, 3]
    opacity: np.ndarray  # float32 [H, W], 0..1


def compose(pet: np.ndarray, opacity: np.ndarray, behind: np.ndarray) -> Composition:
    """Lays a pet over the middle of another photo."""
    height, width = opacity.shape
    scale = max(height / behind.shape[0], width / behind.shape[1])
    size = max(width, round(behind.shape[1] * scale)), max(height, round(behind.shape[0] * scale))
    behind = cv2.resize(behind, size, interpolation=cv2.INTER_AREA)
    top, left = (behind.shape[0] - height) // 2, (behind.shape[1] - width) // 2
    weight = opacity[..., np.newaxis]
    photo = weight * pet + (1 - weight) * behind[top : top + height, left : left + width]
    return Composition(np.rint(photo.clip(0, 255)).astype(np.uint8), pet, opacity)


def extended(image: np.ndarray, core: np.ndarray) -> np.ndarray:
    """The colours of the nearest pixel of the core, float32 [H, W, 3]."""
    _, labels = cv2.distanceTransformWithLabels(1 - core, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colors = np.zeros((labels.max() + 1, 3), np.float32)
    colors[labels[core > 0]] = image[core > 0]
    return np.where(core[..., np.newaxis] > 0, image, cv2.GaussianBlur(colors[labels], (0, 0), 1))


def blurred(read: Iterator[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> Iterator[Composition]:
    """Every second pet over green, the others over the photo after their own."""
    for number, ((image, trimap), (other, _)) in enumerate(zip(read, read, strict=False)):
        mask = pet_photos.inside_outline(trimap).astype(np.float32)
        core = cv2.erode(mask.astype(np.uint8), np.ones((7, 7)))
        if core.any():
            behind = other if number % 2 else np.full_like(image, GREEN)
            opacity = cv2.GaussianBlur(mask, (0, 0), rng.uniform(*SOFTNESS))
            yield compose(extended(image, core), opacity, behind)


def hairy(read: Iterator[tuple[np.ndarray, np.ndarray]], others: list[pathlib.Path]) -> Iterator[Composition]:
    """Pets with their hair over photos without pets."""
    import pymatting

    for number, (image, trimap) in enumerate(read):
        if (trimap == scores.BORDER).mean() < HAIRY or len(np.unique(trimap)) < 3:
            continue
        known = np.select([trimap == scores.PET, trimap == scores.BACKGROUND], [1.0, 0.0], 0.5)
        opacity = pymatting.estimate_alpha_cf(image / 255, known)
        pet = 255 * pymatting.estimate_foreground_ml(image / 255, opacity)
        yield compose(pet.astype(np.float32), opacity.astype(np.float32), photos.read(others[number % len(others)]))


def first(compositions: Iterator[Composition], measure: Callable[[Composition], list]) -> np.ndarray:
    return np.mean([measure(one) for one in itertools.islice(compositions, COUNT)], axis=0)


def main(pets: str, *folders: str) -> None:
    dataset = load.load(pets)
    elements = list(dataset.splits["test"].as_numpy_iterator())
    rng = np.random.default_rng(0)
    order = rng.permutation(len(elements))

    def read():
        for index in order:
            image, label = dataset.decode(elements[index])
            yield image.numpy(), label.numpy()[..., 0]

    def color_errors(one):
        inside = (one.opacity > 0.05) & (one.opacity < 0.95)
        cut = cutout.colors(one.photo, np.rint(255 * one.opacity).astype(np.uint8))
        weighted = [one.opacity[..., np.newaxis] * np.abs(colors - one.pet) for colors in (one.photo, cut)]
        return [error[inside].mean() for error in weighted]

    before, after = first(blurred(read(), rng), color_errors)
    print(f"error of the colour in the edge: the photo's {before:.1f}, the cutout's {after:.1f}")
    if not folders:
        return

    shipped = files.shipped("unet_mobilenetv2")
    trained = network.from_weights("unet_mobilenetv2", unet_mobilenetv2.build_model, shipped)

    def opacity_errors(one):
        hair = np.uint8((one.opacity > 0.02) & (one.opacity < 0.98))
        near = cv2.dilate(hair, NEAR) > 0
        (probabilities,) = trained.segment([one.photo])
        _, foreground = cutout.enlarge(one.photo, probabilities, scores.TRIMAP)
        error = (cutout.alpha(foreground) / 255 - one.opacity)[near]
        return [np.abs(error).mean(), np.square(error).mean()]

    others = sorted(path for place in folders for path in pathlib.Path(place).glob("*.jpg"))
    absolute, squared = first(hairy(read(), others), opacity_errors)
    print(f"error of the opacity: absolute {absolute:.3f}, squared {squared:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
