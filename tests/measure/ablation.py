"""Ablation of unet_mobilenetv2: `python tests/measure/ablation.py FLAGS...` trains four variants with two seeds each.

Each run trains for six epochs; FLAGS are the recipe's, such as --image-size or --data-dir. `fine_tuned` and
`no_augmentation` freeze the encoder in the first epoch, `frozen_only` in all six; `random_start` trains at the full
learning rate. Runs and curves go to output/ablation/; `ablation.py VARIANT SEED FLAGS...` repeats one. The table has
the best epoch of each run on the validation photos. These depend on the seed, so compare variants, not seeds.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "output" / "ablation"
sys.path.insert(0, str(ROOT / "recipes"))
SEEDS = (0, 1)
EPOCHS = "6"
VARIANTS = {
    "fine_tuned": ("--frozen-epochs", "1"),
    "frozen_only": ("--frozen-epochs", EPOCHS),
    "no_augmentation": ("--frozen-epochs", "1"),
    "random_start": ("--backbone-weights", "none"),
}


def train(name: str, seed: str, flags: list[str]) -> None:
    import app  # noqa: F401  before TensorFlow
    from common import data

    import unet_mobilenetv2

    if name == "no_augmentation":
        data.augment = lambda images, labels, **_: (images, labels)
    own = ["--epochs", EPOCHS, *VARIANTS[name], "--seed", seed, "--output", str(OUTPUT / f"{name}-{seed}")]
    sys.argv = [unet_mobilenetv2.__file__, *flags, *own]  # the last value of a flag wins
    unet_mobilenetv2.main()


def table(folder: pathlib.Path) -> str:
    """A Markdown table of the best validation epoch of each run in a folder, both seeds of a variant in one cell."""
    from app import report

    lines = ["| | pixel accuracy | mean IoU |", "|---|---|---|"]
    for name in VARIANTS:
        best = []
        for path in sorted(folder.glob(f"{name}-*/history.csv")):
            history = report.read_history(path).history
            best.append(max(zip(history["val_mean_iou"], history["val_accuracy"], strict=True)))
        if best:
            mean_iou, accuracy = (", ".join(f"{value:.3f}" for value in values) for values in zip(*best, strict=True))
            lines.append(f"| {name.replace('_', ' ')} | {accuracy} | {mean_iou} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:] and sys.argv[1] in VARIANTS:
        name, seed, *flags = sys.argv[1:]
        train(name, seed, flags)  # ends the program
    for name in VARIANTS:
        for seed in SEEDS:
            subprocess.run([sys.executable, __file__, name, str(seed), *sys.argv[1:]], check=True)

    from app import report

    report.comparison(OUTPUT)
    print(table(OUTPUT))


if __name__ == "__main__":
    main()
