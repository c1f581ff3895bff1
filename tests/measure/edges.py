"""How good are mask edges at a photo's own size? `python tests/measure/edges.py DIR [RECIPE --weights FILE]`

FILE is a trained model of RECIPE; without it the shipped weights are measured. DIR holds photos and trimaps at full
size in Oxford's layout: images/, annotations/trimaps/, annotations/test.txt. For each way to enlarge the network's
answer it prints IoU and boundary F-score with the border counted as pet, the same for the outline along the middle of
the border, the IoU with the border left out, and the mean IoU of the three classes. IoU is pooled over all pixels; the
F-score, with a tolerance of 2 pixels in a photo of 500, is the mean over the photos (Csurka et al., BMVC 2013). The
figures also go to output/edges/RECIPE.json, or shipped.json.
"""

import argparse
import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "recipes"))

from app import files
from app.photos import cutout, network
from app.sources import folder, labels
from app.sources.labels import BACKGROUND, BORDER, PET
from common import scores

import cv2
import numpy as np

SHIPPED = files.ROOT / "weights" / "unet_mobilenetv2.weights.h5"
TOLERANCE = 2  # pixels in a 500 px photo
FIGURES = ("border as pet: IoU", "F", "outline: IoU", "outline: F", "border left out: IoU", "mean IoU")


def nearest(photo, probabilities):
    return _largest(_resized(photo, probabilities, cv2.INTER_NEAREST))


def bilinear(photo, probabilities):
    return _largest(_resized(photo, probabilities, cv2.INTER_LINEAR))


def guided_filter(photo, probabilities):
    radius = round(8 * max(photo.shape) / 500)
    smooth = cv2.ximgproc.guidedFilter(photo, _resized(photo, probabilities, cv2.INTER_LINEAR), radius, 0.001 * 255**2)
    return _largest(smooth)


def fast_global_smoother(photo, probabilities):
    """As it was here before matting (Min et al., TIP 2014); the border is drawn around the outline."""
    scale = max(photo.shape) / 500
    smoother = cv2.ximgproc.createFastGlobalSmootherFilter(photo, 100 * scale**2, 8)
    inside = np.ascontiguousarray(probabilities[..., PET] + probabilities[..., BORDER] / 2)
    foreground = smoother.filter(_resized(photo, inside, cv2.INTER_LINEAR))
    mask = (foreground > 0.5).astype(np.uint8)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5) + cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    label = np.where(distance <= cutout.BORDER * scale, BORDER, np.where(mask == 1, PET, BACKGROUND))
    return label.astype(np.uint8), foreground


def as_here(photo, probabilities):
    return cutout.enlarge(photo, probabilities, scores.TRIMAP)


def _resized(photo, probabilities, interpolation):
    return cv2.resize(probabilities, photo.shape[1::-1], interpolation=interpolation)


def _largest(probabilities):
    """The label map, and the probability of lying inside the border's midline."""
    return probabilities.argmax(-1).astype(np.uint8), probabilities[..., PET] + probabilities[..., BORDER] / 2


def boundary_f_score(truth, predicted):
    tolerance = TOLERANCE * max(truth.shape) / 500
    square = np.ones((3, 3), np.uint8)
    edges = [cv2.morphologyEx(np.uint8(mask), cv2.MORPH_GRADIENT, square) > 0 for mask in (truth, predicted)]
    if not (edges[0].any() and edges[1].any()):
        return float(edges[0].any() == edges[1].any())
    distances = [cv2.distanceTransform(np.uint8(~edge), cv2.DIST_L2, 5) for edge in edges]
    recall, precision = (np.mean(distances[1 - k][edges[k]] <= tolerance) for k in (0, 1))
    return 2 * precision * recall / max(precision + recall, 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("recipe", nargs="?", default="unet_mobilenetv2")
    parser.add_argument("--weights", type=pathlib.Path)
    args = parser.parse_args()
    build_model = importlib.import_module(args.recipe).build_model
    trained = network.from_weights(args.recipe, build_model, args.weights or SHIPPED)
    found = folder.checked(args.folder)
    ways = (nearest, bilinear, guided_filter, fast_global_smoother, as_here)
    matrices = {way: np.zeros((3, 3), np.int64) for way in ways}
    # [border as pet, outline, border left out] x [intersection, union]
    pairs = {way: np.zeros((3, 2), np.int64) for way in ways}
    f_scores = {way: [] for way in ways}
    for example in found.test:
        photo, trimap = found.read(example)
        (probabilities,) = trained.segment([photo])
        for way in ways:
            label, foreground = way(photo, probabilities)
            matrices[way] += np.array(scores.confusion_matrix(trimap, label, 3))
            compared = [
                (trimap != BACKGROUND, label != BACKGROUND),
                (labels.inside_outline(trimap), foreground > 0.5),
                ((trimap == PET)[trimap != BORDER], (foreground > 0.5)[trimap != BORDER]),
            ]
            pairs[way] += [[np.sum(one & other), np.sum(one | other)] for one, other in compared]
            f_scores[way].append([boundary_f_score(one, other) for one, other in compared[:2]])
    print("| | " + " | ".join(FIGURES) + " |")
    print("|---" * 7 + "|")
    results = {}
    for way in ways:
        pet, outline, tight = pairs[way][:, 0] / pairs[way][:, 1]
        pet_f, outline_f = np.mean(f_scores[way], axis=0)
        mean_iou = scores.report(matrices[way], scores.TRIMAP)["mean_iou"]
        name, figures = way.__name__.replace("_", " "), (pet, pet_f, outline, outline_f, tight, mean_iou)
        results[name] = dict(zip(FIGURES, map(float, figures), strict=True))
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in figures)} |")
    path = files.ROOT / "output" / "edges" / f"{args.recipe if args.weights else 'shipped'}.json"
    files.write_json(path, {"photos": len(found.test)} | results)


if __name__ == "__main__":
    main()
