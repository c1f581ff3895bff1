"""unet_mobilenetv2 on few photos, from several starts: `python tests/measure/start.py PETS IMAGENET [FLAGS...]`

PETS holds Oxford-IIIT Pet in its own layout; IMAGENET is a file of MobileNetV2's ImageNet weights. It trains on a
seeded sample of trainval.txt and tests on all of test.txt: once with the classes of the trimaps, once with the classes
cat, dog and background (breeds of cats begin with a capital letter; the border is ignored). Data sets and runs go to
output/start/, the scores to output/start/scores.json. FLAGS are passed on to the recipe.
"""

import json
import pathlib
import random
import subprocess
import sys

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "output" / "start"
sys.path.insert(0, str(ROOT / "recipes"))
RECIPE = "unet_mobilenetv2"
FLAGS = ("--image-size", "192", "--batch-size", "8", "--epochs", "30")
CLASSES = {"trimaps": "pet, background, border", "species": "cat, dog, background"}
RUNS = [("trimaps", 100, start) for start in ("shipped", "ImageNet", "random")]
RUNS += [("species", photos, start) for photos in (25, 50, 100) for start in ("shipped", "ImageNet")]
UNTRAINED = ("trimaps", 0, "shipped")


def write(pets: pathlib.Path, folder: pathlib.Path, classes: str, photos: int) -> None:
    """Writes a data set, with links to its photos."""
    lists = {name: (pets / "annotations" / f"{name}.txt").read_text().split() for name in ("trainval", "test")}
    lists["trainval"] = sorted(random.Random(0).sample(lists["trainval"], photos))
    masks = folder / "annotations" / "trimaps"
    masks.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    for split, names in lists.items():
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            link = folder / "images" / f"{name}.jpg"
            if not link.exists():
                link.symlink_to((pets / "images" / link.name).resolve())
            trimap = np.asarray(Image.open(pets / "annotations" / "trimaps" / f"{name}.png"))
            of_species = (0, 1, 3, 255) if name[0].isupper() else (0, 2, 3, 255)  # pet, background, border
            values = np.array(of_species if classes == "species" else (0, 1, 2, 3), np.uint8)
            Image.fromarray(values[trimap]).save(masks / f"{name}.png")
    if classes == "species":
        (folder / "classes.txt").write_text("cat\ndog\nbackground\n255 ignore\n")


def score_untrained(folder: pathlib.Path) -> float:
    """The test mean IoU of the shipped weights."""
    from app import files, models, report
    from app.datasets import load

    import keras
    import unet_mobilenetv2

    keras.utils.disable_interactive_logging()
    model, names = models.load(RECIPE, files.shipped(RECIPE), unet_mobilenetv2.build_model)
    models.save(model, OUTPUT / "untrained.keras", names)
    dataset = load.load(str(folder), image_size=model.input_shape[1])
    data = load.pipelines(dataset, model.input_shape[1], batch_size=8, seed=0)
    scores, _ = report.score(OUTPUT / "untrained.keras", data, batch_size=8)
    return scores["mean_iou"]


def table(scores: list) -> str:
    """The README's table, of rows [classes, photos, start, mean IoU, minutes]."""
    mean_ious = {tuple(run): mean_iou for *run, mean_iou, _ in scores}
    starts = ("shipped", "ImageNet", "random")
    lines = ["| classes | photos | from the shipped weights | from ImageNet | from random weights |", "|---" * 5 + "|"]
    for classes, photos in dict.fromkeys(run[:2] for run in mean_ious):
        row = [mean_ious.get((classes, photos, start)) for start in starts]
        cells = ["" if mean_iou is None else f"{mean_iou:.3f}" for mean_iou in row]
        lines.append(f"| {CLASSES[classes]} | {photos} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    pets, imagenet, *flags = sys.argv[1:]
    own = {"shipped": ("--weights", "shipped"), "ImageNet": ("--backbone-weights", imagenet)}
    own["random"] = ("--backbone-weights", "none")
    scores = []
    for classes, photos, start in RUNS:
        data = OUTPUT / f"{classes} {photos}"
        write(pathlib.Path(pets), data, classes, photos)
        if not scores:
            scores.append([*UNTRAINED, score_untrained(data), 0])
        output = OUTPUT / f"{data.name} from {start}"
        command = [sys.executable, str(ROOT / "recipes" / f"{RECIPE}.py"), "--data", str(data), *FLAGS, *own[start]]
        subprocess.run([*command, *flags, "--output", str(output)], check=True, stdout=subprocess.DEVNULL)
        metrics = json.loads((output / "metrics.json").read_text())
        scores.append([classes, photos, start, metrics["test"]["mean_iou"], round(metrics["train"]["seconds"] / 60, 1)])
        print(scores[-1], flush=True)
        (OUTPUT / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(table(scores))


if __name__ == "__main__":
    main()
