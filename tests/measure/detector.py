"""Average precision, false alarms and seconds of a detector of cats and dogs.

    python tests/measure/detector.py MODEL PETS NOTHING...

MODEL is a SavedModel or .tar.gz. PETS is a folder with pets in Oxford's layout, of which the test photos count. NOTHING
are folders of photos without cats and dogs; to them come drawn backgrounds, and the portrait and the coffee of
resources/photos.

The composed photos have two to four test pets, composed like the scenes of a training (app/detection/scenes.py), from
one seed.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "recipes"))

from app import files
from app.detection import detector, precision, scenes, sources
from app.photos import photos
from app.sources import synthetic

import numpy as np

COMPOSED = 200
PETS_IN_A_PHOTO = range(2, 5)
SIDE = 352  # of a composed photo
DRAWN = 100  # backgrounds
ALARM = 0.5  # score
LEAST_SCORE, MOST = 0.05, 20  # as in training


def composed(read: list, number: int) -> scenes.Scene:
    """The composed photo with this number."""
    rng = np.random.default_rng([19, number])

    def draw(rng):
        return scenes.shrink(read[rng.integers(len(read))](), SIDE)

    while True:
        scene = scenes.compose(rng, draw(rng), draw, SIDE)
        if len(scene.classes) in PETS_IN_A_PHOTO:
            return scene


def main(model: str, pets: str, *folders: str) -> None:
    detect_all = detector.from_saved_model((model,))
    seconds = []

    def detect(photo):
        began = time.perf_counter()
        found = detector.detect(detect_all, photo, sources.PETS, LEAST_SCORE, MOST)
        seconds.append(time.perf_counter() - began)
        return found

    read = sources.load(pets).test
    groups = {
        "test photos": read,
        "composed photos": [lambda number=number: composed(read, number) for number in range(COMPOSED)],
    }
    for name, group in groups.items():
        scores = precision.average_precision(group, list(sources.PETS), detect)
        print(f"{name} ({len(group)}):", ", ".join(f"{kind} {value:.3f}" for kind, value in scores.items()))
    print(f"first photo {seconds[0]:.2f} s, then {np.median(seconds[1:]):.3f} s (median)")

    rng = np.random.default_rng(19)
    nothing = {"drawn backgrounds": [synthetic.draw_background(rng, SIDE) for _ in range(DRAWN)]}
    own = files.ROOT / "resources" / "photos"
    paths = {"resources": [own / "astronaut.jpg", own / "coffee.jpg"]}
    paths |= {folder: sorted(pathlib.Path(folder).glob("*.jpg")) for folder in folders}
    nothing |= {name: map(photos.read, listed) for name, listed in paths.items()}
    for name, pictures in nothing.items():
        scores = [max((one.score for one in detect(picture)), default=0.0) for picture in pictures]
        print(f"{name}: false alarms {sum(score > ALARM for score in scores)} of {len(scores)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
