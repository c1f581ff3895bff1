"""The small detector of cats and dogs beside the large one: `python tests/measure/detector.py LARGE PETS OTHERS...`

LARGE is the .tar.gz of the large Mask R-CNN, or "none". Its seconds and memory are measured; its scores are those that
its authors published. PETS is a folder in Oxford's layout. OTHERS are folders of photos without cats and dogs; drawn
backgrounds and two photos of resources/photos are added to them. The composed photos show two to four test pets, put
together like training scenes (app/detect/scenes.py). The overlapping ones are put together otherwise: a photo keeps its
own pet, and up to three others hide parts of it. Writes output/detector.json and prints the README's table.
"""

import functools
import json
import multiprocessing
import pathlib
import sys
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))
SMALL = str(ROOT / "weights" / "mask_rcnn_pets.tar.gz")
COMPOSED = 200  # photos
PETS_IN_A_PHOTO = range(2, 5)
SIDE = 352  # pixels
LENGTHS = (0.25, 0.6)  # of the photo's longer side: the longer side of a pet in front of another
LEAST_PIXELS = 400  # of a pet that can be seen
DRAWN = 100  # backgrounds
ALARM = 0.5  # score
MIN_SCORE = 0.01  # as in training
MAX_DETECTIONS = 100
LATER = {"large": 3, "small": 30}  # photos after the first
PUBLISHED = {"box_ap": 0.390, "mask_ap": 0.346}  # on COCO 2017: the model's page on TensorFlow Hub


def composed(read: list, number: int):
    """Composed photo number `number`; `read` has functions that return the scenes to compose."""
    from app.detect import scenes

    rng = np.random.default_rng([19, number])

    def draw(rng):
        return scenes.prepare(read[rng.integers(len(read))](), SIDE)

    while True:
        scene = scenes.compose(rng, draw(rng), draw, SIDE)
        if len(scene.classes) in PETS_IN_A_PHOTO:
            return scene


def overlapping(read: list, number: int):
    """Overlapping photo number `number`: a test photo as it is, with one to three pets of others in front of it."""
    from app.datasets import Scene

    rng = np.random.default_rng([23, number])
    while True:
        photo, *others = (read[k]() for k in rng.choice(len(read), rng.choice((2, 3, 3, 4)), replace=False))
        image, classes, masks = photo.image.copy(), list(photo.classes), list(photo.masks)
        for other in others:
            if not len(other.classes):
                continue
            x, y, width, height = cv2.boundingRect(other.masks[0].astype(np.uint8))
            scale = rng.uniform(*LENGTHS) * max(image.shape) / max(width, height)
            size = round(width * scale), round(height * scale)
            room = image.shape[0] - size[1], image.shape[1] - size[0]
            if min(room) <= 0:
                continue
            window = slice(y, y + height), slice(x, x + width)
            top, left = rng.integers(room)
            place = slice(top, top + size[1]), slice(left, left + size[0])
            front = np.zeros(image.shape[:2], np.uint8)
            front[place] = cv2.resize(other.masks[0][window].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            opacity = cv2.blur(front.astype(np.float32), (3, 3))[place][..., np.newaxis]
            pixels = cv2.resize(other.image[window], size, interpolation=cv2.INTER_AREA)
            image[place] = np.rint(opacity * pixels + (1 - opacity) * image[place])
            masks = [mask & (front == 0) for mask in masks] + [front > 0]
            classes.append(other.classes[0])
        seen = [k for k, mask in enumerate(masks) if mask.sum() > LEAST_PIXELS]
        if len(seen) > 1:
            return Scene(image, np.array(classes)[seen], np.array(masks)[seen])


def speed(model: str, later: int) -> dict[str, float]:
    """Seconds for loading, the first photo and a later one (median), and the peak memory in GB."""
    import resource  # Linux and macOS only

    from app import photos
    from app.detect import detector

    photo = photos.read(ROOT / "resources" / "photos" / "cat.jpg")
    began = time.perf_counter()
    detect_all = detector.from_saved_model(model)
    seconds = [time.perf_counter() - began]
    for _ in range(1 + later):
        began = time.perf_counter()
        detector.detect(detect_all, photo, {}, MIN_SCORE, MAX_DETECTIONS)
        seconds.append(time.perf_counter() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"load": seconds[0], "first": seconds[1], "later": float(np.median(seconds[2:])), "memory": memory}


def scores(model: str, pets: str, folders: list[str]) -> dict[str, dict]:
    """Average precisions on photos and composed photos; for each folder of others the false alarms and the photos."""
    from app import photos
    from app.datasets import load, synthetic
    from app.detect import detector, evaluation

    detect_all = detector.from_saved_model(model)
    dataset = load.load(pets, for_instances=True)

    def detect(photo):
        return detector.detect(detect_all, photo, dataset.categories, MIN_SCORE, MAX_DETECTIONS)

    read = load.scenes(dataset, "test")
    groups = {"photos": read}
    for compose in (composed, overlapping):
        groups[compose.__name__] = [functools.partial(compose, read, number) for number in range(COMPOSED)]
    result = {
        name: {"photos": len(group), **evaluation.average_precision(group, list(dataset.categories), detect)}
        for name, group in groups.items()
    }
    rng = np.random.default_rng(19)
    others = {"drawn": [synthetic.draw_background(rng, SIDE) for _ in range(DRAWN)]}
    own = [ROOT / "resources" / "photos" / name for name in ("astronaut.jpg", "coffee.jpg")]
    others["resources"] = map(photos.read, own)
    for folder in map(pathlib.Path, folders):
        others[folder.name] = map(photos.read, sorted(folder.glob("*.jpg")))
    result["alarms"] = {}
    for name, pictures in others.items():
        alarms = [any(one.score > ALARM for one in detect(picture)) for picture in pictures]
        result["alarms"][name] = [sum(alarms), len(alarms)]
    return result


def table(result: dict) -> str:
    """The Markdown table of output/detector.json."""
    large = result["large"]
    small = result["small"]
    alarms, photos = np.sum(list(small["alarms"].values()), axis=0)

    def shown(scores):
        return f"{scores['box_ap']:.3f}, {scores['mask_ap']:.3f}"

    rows = [
        ("", "large: Inception-ResNet-V2, 1024 px", "small: MobileNetV2, 320 px"),
        ("---",) * 3,
        ("finds", "the 80 classes of COCO", "cats and dogs"),
        (
            "AP of boxes and of masks",
            f"{shown(PUBLISHED)} on COCO 2017, as published",
            f"{shown(small['photos'])} on {small['photos']['photos']} test photos",
        ),
        ("on photos composed of 2 to 4 pets", "", shown(small["composed"])),
        ("on photos where pets hide parts of others", "", shown(small["overlapping"])),
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
    rows = {
        "photos": "test photos",
        "composed": "photos composed of two to four test pets",
        "overlapping": "photos where up to three test pets hide parts of another",
    }
    for name, what in rows.items():
        scores = result["small"][name]
        lines.append(f"| {scores['photos']} {what} | " + " | ".join(f"{scores[kind]:.3f}" for kind in kinds) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    large, pets, *others = sys.argv[1:]
    result = {}
    for size, model in {"large": large, "small": SMALL}.items():
        if model != "none":
            with multiprocessing.get_context("spawn").Pool(1) as alone:  # a process of its own: its memory is measured
                result[size] = alone.apply(speed, (model, LATER[size]))
    result["small"] |= scores(SMALL, pets, others)
    path = ROOT / "output" / "detector.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if "large" in result:
        print(table(result))


if __name__ == "__main__":
    main()
