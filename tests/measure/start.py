"""Where to start from with few photos: `python tests/measure/start.py PETS IMAGENET` trains unet_mobilenetv2 from each.

PETS holds Oxford-IIIT Pet in its own layout, IMAGENET is a file of MobileNetV2's ImageNet weights. 100 seeded photos of
trainval.txt are trained on, all of test.txt are the test, with the classes of the trimaps and with the classes cat, dog
and background (breeds of cats begin with a capital letter; the border is ignored). Data sets and runs go to
output/start/; further flags are passed on.
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
PHOTOS = 100
FLAGS = ("--image-size", "192", "--batch-size", "8", "--epochs", "30")
OF_TRIMAPS = np.array([0, 1, 2, 3], np.uint8)
OF_SPECIES = {True: np.array([0, 1, 3, 255], np.uint8), False: np.array([0, 2, 3, 255], np.uint8)}  # is it a cat?


def write(pets: pathlib.Path, folder: pathlib.Path, by_species: bool) -> None:
    """Writes the data set, with links to the photos."""
    lists = {name: (pets / "annotations" / f"{name}.txt").read_text().split() for name in ("trainval", "test")}
    lists["trainval"] = sorted(random.Random(0).sample(lists["trainval"], PHOTOS))
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
            values = OF_SPECIES[name[0].isupper()] if by_species else OF_TRIMAPS
            Image.fromarray(values[trimap]).save(masks / f"{name}.png")
    if by_species:
        (folder / "classes.txt").write_text("cat\ndog\nbackground\n255 ignore\n")


def main() -> None:
    pets, imagenet, *flags = sys.argv[1:]
    starts = {
        "shipped": ("--weights", "shipped"),
        "ImageNet": ("--backbone-weights", imagenet),
        "random": ("--backbone-weights", "none"),
    }
    print("| classes | start | mean IoU | minutes |\n|---|---|---|---|", flush=True)
    for by_species in (False, True):
        data = OUTPUT / ("species" if by_species else "trimaps")
        write(pathlib.Path(pets), data, by_species)
        for start, own in starts.items():
            output = OUTPUT / f"{data.name} from {start}"
            recipe = [sys.executable, str(ROOT / "recipes" / "unet_mobilenetv2.py")]
            command = [*recipe, "--data", str(data), *FLAGS, *own, *flags, "--output", str(output)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            metrics = json.loads((output / "metrics.json").read_text())
            minutes = metrics["train"]["seconds"] / 60
            print(f"| {data.name} | {start} | {metrics['test']['mean_iou']:.3f} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
