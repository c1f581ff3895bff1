"""The small detector of cats and dogs beside the large one: `python tests/measure/detector.py LARGE PETS NOTHING...`

LARGE is the .tar.gz of the large Mask R-CNN: its seconds and memory are measured, its scores are those that its authors
published. PETS holds pets in Oxford's layout. NOTHING are folders of photos without cats and dogs; drawn backgrounds,
and the portrait and the coffee of resources/photos are added. The composed photos have two to four test pets, put
together like the scenes of a training (app/detect/scenes.py). It writes output/detector.json, and prints the table
of the README.

--model MODEL measures another small detector, --split validation uses the validation photos; LARGE may be "none".
"""

import argparse
import json
import multiprocessing
import pathlib
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))
COMPOSED, PETS_IN_A_PHOTO, SIDE = 200, range(2, 5), 352
DRAWN = 100  # backgrounds
ALARM = 0.5  # score
MIN_SCORE, MAX_DETECTIONS = 0.01, 100  # as in training
LATER = {"large": 3, "small": 30}  # photos after the first
PUBLISHED = {"box_ap": 0.390, "mask_ap": 0.346}  # on COCO 2017: the model's page on TensorFlow Hub


def composed(read: list, number: int):
    """The composed photo with this number; `read` are functions that give the photos to compose."""
    from app.detect import scenes

    rng = np.random.default_rng([19, number])

    def draw(rng):
        return scenes.prepare(read[rng.integers(len(read))](), SIDE)

    while True:
        scene = scenes.compose(rng, draw(rng), draw, SIDE)
        if len(scene.classes) in PETS_IN_A_PHOTO:
            return scene


def speed(model: str, later: int) -> dict[str, float]:
    """Seconds of the load, of the first photo and of the later ones (median), and the peak of the memory in GB."""
    import resource  # Linux and macOS only

    from app import photos
    from app.detect import detector

    photo = photos.read(ROOT / "resources" / "photos" / "cat.jpg")
    began = time.perf_counter()
    detect_all = detector.from_saved_model((model,))
    seconds = [time.perf_counter() - began]
    for _ in range(1 + later):
        began = time.perf_counter()
        detector.detect(detect_all, photo, {}, MIN_SCORE, MAX_DETECTIONS)
        seconds.append(time.perf_counter() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"load": seconds[0], "first": seconds[1], "later": float(np.median(seconds[2:])), "memory": memory}


def scores(model: str, pets: str, split: str, folders: list[str]) -> dict[str, dict]:
    """Average precisions on photos and composed photos; false alarms and photos of each folder."""
    from app import photos
    from app.datasets import load, synthetic
    from app.detect import detector, precision

    detect_all = detector.from_saved_model((model,))
    dataset = load.load(pets, for_instances=True)

    def detect(photo):
        return detector.detect(detect_all, photo, dataset.categories, MIN_SCORE, MAX_DETECTIONS)

    read = load.scenes(dataset, split)
    groups = {"photos": read, "composed": [lambda number=number: composed(read, number) for number in range(COMPOSED)]}
    result = {
        name: {"photos": len(group), **precision.average_precision(group, list(dataset.categories), detect)}
        for name, group in groups.items()
    }
    rng = np.random.default_rng(19)
    nothing = {"drawn": [synthetic.draw_background(rng, SIDE) for _ in range(DRAWN)]}
    own = [ROOT / "resources" / "photos" / name for name in ("astronaut.jpg", "coffee.jpg")]
    nothing |= {"resources": list(map(photos.read, own))}
    nothing |= {
        pathlib.Path(folder).name: map(photos.read, sorted(pathlib.Path(folder).glob("*.jpg"))) for folder in folders
    }
    result["alarms"] = {}
    for name, pictures in nothing.items():
        alarms = [any(one.score > ALARM for one in detect(picture)) for picture in pictures]
        result["alarms"][name] = [sum(alarms), len(alarms)]
    return result


def table(result: dict) -> str:
    """The Markdown table of output/detector.json."""
    large, small = result["large"], result["small"]
    found, composed = small["photos"], small["composed"]
    alarms, photos = np.sum(list(small["alarms"].values()), axis=0)
    pair = "box_ap", "mask_ap"
    shown = lambda scores: ", ".join(f"{scores[name]:.3f}" for name in pair)  # noqa: E731
    rows = [
        ("", "large: Inception-ResNet-V2, 1024 px", "small: MobileNetV2, 320 px"),
        ("---",) * 3,
        ("finds", "the 80 classes of COCO", "cats and dogs"),
        (
            "AP of boxes and of masks",
            f"{shown(PUBLISHED)} on COCO 2017, as published",
            f"{shown(found)} on {found['photos']} test photos",
        ),
        ("on photos composed of 2 to 4 pets", "", f"{shown(composed)}"),
        ("false alarms in photos without pets", "", f"{alarms} in {photos}"),
        (
            "seconds to load, for the first photo, for another",
            *(f"{one['load']:.1f}, {one['first']:.1f}, {one['later']:.2g}" for one in (large, small)),
        ),
        ("memory", *(f"{one['memory']:.1f} GB" for one in (large, small))),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def details(result: dict) -> str:
    """The Markdown table of weights/README.md."""
    kinds = [f"{kind}_{score}" for kind in ("box", "mask") for score in ("ap", "ap50", "ap75")]
    lines = ["| | boxes: AP | at IoU 0.50 | 0.75 | masks: AP | at IoU 0.50 | 0.75 |", "|---" * 7 + "|"]
    for name, what in (("photos", "test photos"), ("composed", "photos composed of two to four test pets")):
        scores = result["small"][name]
        lines.append(f"| {scores['photos']} {what} | " + " | ".join(f"{scores[kind]:.3f}" for kind in kinds) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("large")
    parser.add_argument("pets")
    parser.add_argument("nothing", nargs="*")
    parser.add_argument("--model", default=str(ROOT / "weights" / "mask_rcnn_pets.tar.gz"))
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    args = parser.parse_args()
    result = {}
    for size, model in {"large": args.large, "small": args.model}.items():
        if model != "none":
            with multiprocessing.get_context("spawn").Pool(1) as alone:  # a process of its own: its memory is measured
                result[size] = alone.apply(speed, (model, LATER[size]))
    result["small"] |= scores(args.model, args.pets, args.split, args.nothing)
    path = ROOT / "output" / "detector.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if "large" in result:
        print(table(result))


if __name__ == "__main__":
    main()
