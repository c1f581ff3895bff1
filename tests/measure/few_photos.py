"""How many steps few photos need, and what helps rare classes: `python tests/measure/few_photos.py IMAGENET [RUN...]`

Draws photos of leaves, and of beetles that cover about 0.7, 0.1 or 0.05 % of the pixels: as large ones, as tiny ones,
or as large ones in few photos. Trains unet_mobilenetv2 on them as RUNS say, all of them or those with these numbers,
and looks for the beetles in new photos. IMAGENET is a file of MobileNetV2's ImageNet weights. Data and runs go to
output/few/, the scores to output/few/scores.jsonl: IoU of leaf and beetle in the test table, and on 24 new photos by
the network's own pixels and by --predict; the beetles of which more than half is marked, and what is marked elsewhere.
"""

import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "output" / "few"
sys.path.insert(0, str(ROOT / "recipes"))
FLAGS = ("--image-size", "128", "--batch-size", "8")
NAMES = ("background", "leaf", "beetle")
SIZE = (480, 320)  # pixels
BEETLES = {"common": (1.0, 1.0), "tiny": (0.33, 1.0), "seldom": (1.0, 0.12)}  # scale, and in how many photos
NEW_PHOTOS = range(100000, 100024)  # their seeds
STEPS = {25: (90, 150, 300, 600), 50: (300,), 100: (150, 300), 400: (300,)}  # by the number of photos
LOSSES = ("as it is", "no class weights", "all inverse", "all gently inverse", "Dice of the batch", "three times Dice")
RUNS = [
    ("common", photos, start, steps, LOSSES[0])
    for start in ("shipped", "ImageNet")
    for photos, lengths in STEPS.items()
    for steps in lengths
]
RUNS += [
    (kind, 100, "shipped", 300, loss) for kind in BEETLES for loss in LOSSES if (kind, loss) != ("common", LOSSES[0])
]


def draw(seed: int, scale: float, chance: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A photo, uint8 RGB, its classes, uint8, and a mask of what is visible of each beetle."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    photo = np.full((height, width, 3), rng.uniform(90, 170, 3), np.float32)
    for cells, strength in ((4, 45), (10, 25), (40, 12), (120, 10)):
        grid = rng.standard_normal((cells * 2 // 3 + 2, cells + 2, 3)).astype(np.float32)
        photo += strength * cv2.resize(grid, SIZE, interpolation=cv2.INTER_CUBIC)
    label = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(0, 6)):  # scratches
        ends = [tuple(int(value) for value in rng.uniform((0, 0), SIZE)) for _ in range(2)]
        cv2.line(photo, *ends, tuple(rng.uniform(10, 80, 3)), int(rng.integers(1, 5)), cv2.LINE_AA)

    def blob(middle, radius, ratio, teeth, depth):
        angles = np.linspace(0, 2 * np.pi, 80, endpoint=False)
        radii = radius * (1 + depth * np.cos(teeth * angles) + rng.normal(0, 0.02, 80))
        turn = rng.uniform(0, np.pi)
        outline = np.stack([radii * np.cos(angles), radii * np.sin(angles) * ratio], axis=-1)
        turned = outline @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]] + middle
        mask = cv2.fillPoly(np.zeros((height, width), np.uint8), [(turned * 16).round().astype(np.int32)], 1, shift=4)
        return mask > 0, np.array([np.cos(turn), np.sin(turn)])

    def paint(mask, color, texture):
        photo[mask] = color + texture * (photo[mask] - photo[mask].mean(axis=0))

    for _ in range(rng.integers(1, 4)):
        middle = rng.uniform((60, 60), (width - 60, height - 60))
        leaf, axis = blob(middle, rng.uniform(42, 60), rng.uniform(0.6, 0.95), 13, 0.05)
        paint(leaf, rng.uniform((10, 90, 10), (90, 180, 80)), 0.35)
        ends = [tuple(int(value) for value in middle + side * 45 * axis) for side in (-1, 1)]
        cv2.line(photo, *ends, (20, 50, 20), 2, cv2.LINE_AA)
        label[leaf] = 1
    beetles = []
    for _ in range(rng.integers(0, 4) if rng.random() < chance else 0):
        middle = rng.uniform((20, 20), (width - 20, height - 20))
        beetle, axis = blob(middle, 16 * scale * rng.uniform(0.85, 1.15), rng.uniform(0.75, 1), 5, 0.02)
        paint(beetle, rng.uniform((190, 10, 10), (235, 70, 70)), 0.2)
        for side in (-1, 1):  # dots
            dot = tuple(int(value) for value in middle + side * 4 * scale * axis)
            cv2.circle(photo, dot, max(1, round(2 * scale)), (20, 5, 5), -1)
        label[beetle] = 2
        beetles.append(beetle)
    photo += rng.normal(0, 6, photo.shape)
    return photo.clip(0, 255).astype(np.uint8), label, [beetle & (label == 2) for beetle in beetles]


def write(folder: pathlib.Path, count: int, scale: float, chance: float) -> np.ndarray:
    """Writes a data set; returns the fraction of each class."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    counts = np.zeros(len(NAMES))
    for seed in range(count):
        photo, label, _ = draw(seed, scale, chance)
        cv2.imwrite(str(folder / "images" / f"{seed:04}.png"), photo[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{seed:04}.png"), label)
        counts += np.bincount(label.ravel(), minlength=len(NAMES))
    return counts / counts.sum()


def use_loss(name: str, fractions: list[float]) -> None:
    """Replaces the loss of the recipes by a variant of it; `fractions` are those of the classes."""
    from common import losses

    import keras
    from keras import ops

    own = losses.CrossEntropyAndDice()
    power = {"all inverse": 1.0, "all gently inverse": 0.5}.get(name, 0.0)
    weights = np.power(fractions, -power)
    weights = np.float32(weights / (weights * fractions).sum())  # so that the mean weight of a pixel is 1

    class Variant(keras.losses.Loss):
        def call(self, labels, logits):
            labels = ops.cast(labels, "int32")
            of_pixels = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            entropy = ops.mean(of_pixels, axis=(1, 2))
            dice = own.call(labels, logits) - entropy
            if name == "three times Dice":
                return entropy + 3 * dice
            if name == "Dice of the batch":
                truth, found = ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype), ops.softmax(logits)
                area, overlap, marked = (ops.sum(part, (0, 1, 2)) for part in (truth, truth * found, found))
                present = ops.cast(area > 0, logits.dtype)
                missed = 1 - 2 * overlap / ops.maximum(area + marked, 1)
                return entropy + ops.sum(present * missed) / ops.maximum(ops.sum(present), 1)
            return ops.mean(of_pixels * ops.take(weights, labels), axis=(1, 2)) + dice

    if name != LOSSES[0]:
        losses.CrossEntropyAndDice = lambda class_weights: Variant()


def score(weights: pathlib.Path, scale: float, chance: float) -> dict:
    """What a trained model finds in new photos."""
    from app.predict import cutout, network
    from common import scores as metrics

    import unet_mobilenetv2

    trained = network.from_weights("unet_mobilenetv2", unet_mobilenetv2.build_model, weights)
    matrices = {"network": np.zeros((3, 3)), "predict": np.zeros((3, 3))}
    found = elsewhere = count = 0
    for seed in NEW_PHOTOS:
        photo, label, beetles = draw(seed, scale, max(chance, 0.5))
        (probabilities,) = trained.segment([photo])
        marked, _ = cutout.enlarge(photo, probabilities, NAMES)
        small = cv2.resize(label, (trained.size, trained.size), interpolation=cv2.INTER_NEAREST_EXACT)
        for kind, truth, prediction in (("network", small, probabilities.argmax(-1)), ("predict", label, marked)):
            matrices[kind] += np.array(metrics.confusion_matrix(truth, prediction, len(NAMES)))
        found += sum(float((marked[beetle] == 2).mean()) > 0.5 for beetle in beetles if beetle.any())
        count += sum(beetle.any() for beetle in beetles)
        number, regions = cv2.connectedComponents(np.uint8(marked == 2))
        elsewhere += sum(not (label[regions == region] == 2).any() for region in range(1, number))
    scores = {"found": int(found), "of": int(count), "elsewhere": elsewhere}
    for kind, matrix in matrices.items():
        iou = metrics.report(matrix, NAMES)["iou"]
        scores[kind] = [round(iou[name], 3) for name in NAMES[1:]]
    return scores


def main() -> None:
    if sys.argv[1] == "--train":  # in a process of its own: the loss, the fractions of the classes, the recipe's flags
        import unet_mobilenetv2

        use_loss(sys.argv[2], json.loads(sys.argv[3]))
        sys.argv[1:] = sys.argv[4:]
        unet_mobilenetv2.main()
    imagenet, *numbers = sys.argv[1:]
    starts = {"shipped": ("--weights", "shipped"), "ImageNet": ("--backbone-weights", imagenet)}
    for number in map(int, numbers or range(len(RUNS))):
        kind, photos, start, steps, loss = RUNS[number]
        data, run = OUTPUT / f"{kind} {photos}", OUTPUT / f"run {number}"
        fractions = write(data, photos, *BEETLES[kind])
        trained = photos - 2 * max(1, round(photos / 10))
        epochs = -(-steps // -(-trained // 8))
        flags = ["--data", str(data), *FLAGS, "--epochs", str(epochs), *starts[start], "--output", str(run)]
        command = [sys.executable, __file__, "--train", loss, json.dumps(fractions.tolist()), *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        iou = json.loads((run / "metrics.json").read_text())["test"]["iou"]
        facts = {"run": RUNS[number], "beetle": f"{fractions[2]:.2%}", "table": [iou[name] for name in NAMES[1:]]}
        facts |= score(run / "unet_mobilenetv2.keras", *BEETLES[kind])
        print(json.dumps(facts), flush=True)
        with (OUTPUT / "scores.jsonl").open("a") as file:
            file.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
