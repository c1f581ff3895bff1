"""Scores of masks at the photos' own size: `python tests/measure/edges.py DIR [RECIPE --weights FILE]`

FILE is a trained model of RECIPE; without both the shipped weights are measured. DIR holds photos and trimaps at full
size in Oxford's layout: images/, annotations/trimaps/, annotations/test.txt. The masks are those of --predict. The
figures are IoU and boundary F-score with the border counted as pet, the same for the outline along the middle of the
border, the IoU with the border left out, and the mean IoU of the three classes. IoU is pooled over all pixels; the
F-score, with a tolerance of 2 pixels in a photo of 500, is the mean over the photos (Csurka et al., BMVC 2013). The
figures go to output/edges/RECIPE.json, or shipped.json.
"""

import argparse
import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "recipes"))

from app import files
from app.datasets import load, pets
from app.predict import cutout, network
from common import scores
from common.scores import BACKGROUND, BORDER, PET

import cv2
import numpy as np

TOLERANCE = 2  # pixels in a 500 px photo


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
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--weights", type=pathlib.Path)
    args = parser.parse_args()
    if bool(args.recipe) != bool(args.weights):
        parser.error("RECIPE and --weights go together")
    recipe = args.recipe or "unet_mobilenetv2"
    weights = args.weights or files.shipped(recipe)
    trained = network.from_weights(recipe, importlib.import_module(recipe).build_model, weights)
    dataset = load.load(str(args.folder))
    matrix = np.zeros((3, 3), np.int64)
    overlaps = np.zeros((3, 2), np.int64)  # [border as pet, outline, border left out] x [intersection, union]
    f_scores = []
    for photo, trimap in dataset.splits["test"].map(dataset.decode).as_numpy_iterator():
        trimap = trimap[..., 0]
        (probabilities,) = trained.segment([photo])
        label, foreground = cutout.enlarge(photo, probabilities, scores.TRIMAP)
        matrix += np.array(scores.confusion_matrix(trimap, label, 3))
        compared = [
            (trimap != BACKGROUND, label != BACKGROUND),
            (pets.inside_outline(trimap), foreground > 0.5),
            ((trimap == PET)[trimap != BORDER], (foreground > 0.5)[trimap != BORDER]),
        ]
        overlaps += [[np.sum(one & other), np.sum(one | other)] for one, other in compared]
        f_scores.append([boundary_f_score(one, other) for one, other in compared[:2]])
    pet, outline, tight = overlaps[:, 0] / overlaps[:, 1]
    pet_f, outline_f = np.mean(f_scores, axis=0)
    figures = {
        "border as pet: IoU": pet,
        "border as pet: F": pet_f,
        "outline: IoU": outline,
        "outline: F": outline_f,
        "border left out: IoU": tight,
        "mean IoU": scores.report(matrix, scores.TRIMAP)["mean_iou"],
    }
    for name, value in figures.items():
        print(f"{name:<22}{value:.3f}")
    path = files.ROOT / "output" / "edges" / f"{args.recipe or 'shipped'}.json"
    files.write_json(path, {"photos": len(f_scores)} | {name: float(value) for name, value in figures.items()})


if __name__ == "__main__":
    main()
