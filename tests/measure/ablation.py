"""Ablation of unet_mobilenetv2: `python tests/measure/ablation.py [VARIANT] FLAGS...` trains four variants, or one.

Each variant trains for six epochs and takes the recipe's flags, such as --image-size or --data-dir. Runs and curves go
to output/ablation/. The table compares the best epochs on the validation set; the runs' test scores are not used.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "output" / "ablation"
sys.path.insert(0, str(ROOT / "recipes"))
VARIANTS = {  # the last value of a flag wins
    "fine_tuned": ("--epochs", "6", "--frozen-epochs", "1"),
    "frozen_only": ("--epochs", "6", "--frozen-epochs", "6"),
    "no_augmentation": ("--epochs", "6", "--frozen-epochs", "1"),
    "random_start": ("--epochs", "6", "--backbone-weights", "none"),
}


def train(name: str, flags: list[str]) -> None:
    import app  # noqa: F401  before TensorFlow
    from common import data

    import unet_mobilenetv2

    if name == "no_augmentation":
        data.augment = lambda images, labels, **_: (images, labels)
    sys.argv = [unet_mobilenetv2.__file__, *flags, *VARIANTS[name], "--output", str(OUTPUT / name)]
    unet_mobilenetv2.main()


def table(folder: pathlib.Path) -> str:
    """A Markdown table of the best validation epoch of each run in a folder."""
    from app.training import report

    lines = ["| | pixel accuracy | mean IoU |", "|---|---|---|"]
    for name in VARIANTS:
        if (folder / name / "history.csv").exists():
            history = report.read_history(folder / name / "history.csv").history
            mean_iou, accuracy = max(zip(history["val_mean_iou"], history["val_accuracy"], strict=True))
            lines.append(f"| {name.replace('_', ' ')} | {accuracy:.3f} | {mean_iou:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:] and sys.argv[1] in VARIANTS:
        train(sys.argv[1], sys.argv[2:])  # ends the program
    for name in VARIANTS:
        subprocess.run([sys.executable, __file__, name, *sys.argv[1:]], check=True)

    from app.training import report

    report.comparison(OUTPUT)
    print(table(OUTPUT))


if __name__ == "__main__":
    main()
