"""Small objects in large photos, with and without --tiles: `python tests/measure/tiles.py [--side N] [FLAGS...]`

It draws 10 photos of 2048 x 2048 (N x N) with objects of 6 to 40 pixels, in two classes, on a background of the same
texture with lines in the objects' colours. unet_mobilenetv2 trains on them from the shipped weights, once with --tiles,
then for as many minutes on resized photos. Both are scored by --predict's code on 10 other photos, at their own size:
the mean IoU, and the fraction of objects that are found, by their size. An object is found if its class has half of its
pixels. Photos and runs go to output/tiles/, the scores to output/tiles/scores.json. FLAGS are passed on to the recipe.
"""

import argparse
import itertools
import json
import pathlib
import re
import subprocess
import sys

import cv2
import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "output" / "tiles"
sys.path.insert(0, str(ROOT / "recipes"))
RECIPE = "unet_mobilenetv2"
FLAGS = ("--weights", "shipped", "--image-size", "256", "--batch-size", "8", "--epochs", "2")  # epochs with tiles
PROBE = 10  # epochs on resized photos, by which their time is measured
CLASSES = ("background", "seed", "chip")
COLORS = np.array([(120, 120, 120), (150, 100, 80), (90, 110, 155)])
PHOTOS, NEW = 10, 10
SIDES = (6, 10, 16, 40)  # limits of the sizes in the table, in pixels
PIXELS_PER_OBJECT = 12000  # of a photo


def draw(number: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws a photo, uint8 [side, side, 3]; its label map, uint8; and the number of the object at each pixel, int32.

    The objects have the numbers 1, 2, ...; number k is of class 1 + k % 2, SIDES[k % 3] to SIDES[k % 3 + 1] long.
    """
    rng = np.random.default_rng(number)
    texture = np.zeros((side, side, 3), np.float32)
    for grain in (2, 8, 32):
        noise = rng.normal(0, 12, (side // grain, side // grain, 3)).astype(np.float32)
        texture += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    colored = np.zeros((side, side), np.int32)
    for _ in range(side // 40):  # lines, which are background
        ends = rng.integers(0, side, (2, 2)).tolist()
        cv2.line(colored, *ends, int(rng.integers(1, 3)), int(rng.integers(2, 5)))
    objects = np.zeros((side, side), np.int32)
    for k in range(1, side * side // PIXELS_PER_OBJECT):
        length = float(rng.uniform(*SIDES[k % 3 : k % 3 + 2]))
        center = tuple(rng.uniform(0, side, 2).tolist())
        box = (center, (length, 0.7 * length), float(rng.uniform(0, 180)))
        if k % 2:
            cv2.fillConvexPoly(objects, cv2.boxPoints(box).round().astype(np.int32), k)
        else:
            cv2.ellipse(objects, box, k, -1)
    label = np.where(objects, 1 + objects % 2, 0).astype(np.uint8)
    image = COLORS[np.where(label, label, colored)] + texture
    return cv2.GaussianBlur(image.clip(0, 255).astype(np.uint8), (0, 0), 0.7), label, objects


def write(folder: pathlib.Path, side: int) -> None:
    """Writes the data set to train with."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(PHOTOS):
        image, label, _ = draw(number, side)
        Image.fromarray(image).save(folder / "images" / f"{number:02}.png")
        Image.fromarray(label).save(folder / "masks" / f"{number:02}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def train(name: str, flags: list[str]) -> tuple[float, float]:
    """Trains; returns the seconds of all epochs, and of the first."""
    command = [sys.executable, str(ROOT / "recipes" / f"{RECIPE}.py"), "--data", str(OUTPUT / "data"), *FLAGS, *flags]
    done = subprocess.run([*command, "--output", str(OUTPUT / name)], check=True, stdout=subprocess.PIPE, text=True)
    metrics = json.loads((OUTPUT / name / "metrics.json").read_text())
    return metrics["train"]["seconds"], float(re.search(r"^epoch 1/\d+: (\d+) s", done.stdout, re.M)[1])


def score(name: str, side: int) -> dict:
    """The scores of a trained model on photos that it has not seen."""
    from app.predict import cutout, network
    from common import scores

    import unet_mobilenetv2

    trained = network.from_weights(RECIPE, unet_mobilenetv2.build_model, OUTPUT / name / f"{RECIPE}.keras")
    matrix = np.zeros((3, 3), np.int64)
    found = np.zeros((3, 2), np.int64)  # [range of sizes] x [found, all]
    for number in range(PHOTOS, PHOTOS + NEW):
        image, label, objects = draw(number, side)
        (probabilities,) = trained.segment([image])
        predicted, _ = cutout.enlarge(image, probabilities, trained.class_names)
        matrix += np.array(scores.confusion_matrix(label, predicted, 3))
        full = np.bincount(objects.ravel())
        hit = np.bincount(objects[predicted == label], minlength=len(full))
        for k in np.flatnonzero(full)[1:]:
            found[k % 3] += [2 * hit[k] >= full[k], 1]
    return {"mean_iou": scores.report(matrix, CLASSES)["mean_iou"], "found": (found[:, 0] / found[:, 1]).tolist()}


def table(results: dict) -> str:
    """A Markdown table of what `main` measured."""
    ranges = [f"found: {low} to {high} px" for low, high in itertools.pairwise(SIDES)]
    lines = [f"| | minutes | mean IoU | {' | '.join(ranges)} |", "|---" * (3 + len(ranges)) + "|"]
    for name, result in results.items():
        cells = [f"{result['minutes']:.0f}", f"{result['mean_iou']:.3f}", *(f"{one:.2f}" for one in result["found"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    args, flags = parser.parse_known_args()
    write(OUTPUT / "data", args.side)
    seconds = {"tiles": train("tiles", [*flags, "--tiles"])[0]}
    probe, first = train("probe", [*flags, "--epochs", str(PROBE)])
    epochs = 1 + round(max(0, seconds["tiles"] - first) / (probe - first) * (PROBE - 1))
    seconds["resized"] = train("resized", [*flags, "--epochs", str(max(2, epochs))])[0]
    results = {name: {"minutes": seconds[name] / 60, **score(name, args.side)} for name in ("resized", "tiles")}
    (OUTPUT / "scores.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
