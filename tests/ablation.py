"""What each part of unet_mobilenetv2 brings: four trainings of six epochs. `python tests/ablation.py FLAGS...`

The flags are those of the recipe, such as --image-size or --data-dir; `python tests/ablation.py VARIANT FLAGS...` does
one of the four. The runs and a figure of their curves lie in output/ablation/. The table is of the validation photos;
each run scores the test photos too, as every training does, but nothing is judged by them.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output" / "ablation"
sys.path.insert(0, str(ROOT / "recipes"))
VARIANTS = {  # the later of two equal flags counts
    "fine_tuned": ("--epochs", "1", "--fine-tune-epochs", "5"),
    "frozen_only": ("--epochs", "6", "--fine-tune-epochs", "0"),
    "no_augmentation": ("--epochs", "1", "--fine-tune-epochs", "5"),
    "random_start": ("--epochs", "1", "--fine-tune-epochs", "5", "--backbone-weights", "none"),
}


def train(name: str, flags: list[str]) -> None:
    from common import data, runs

    import unet_mobilenetv2

    if name == "no_augmentation":
        data.augment = lambda images, labels, **_: (images, labels)
    sys.argv = [unet_mobilenetv2.__file__, *flags, *VARIANTS[name], "--output", str(OUTPUT / name)]
    runs.start(unet_mobilenetv2.main)


def table(folder: pathlib.Path) -> str:
    """A Markdown table of the runs in a folder: their best epochs on the validation photos."""
    from common import plots

    lines = ["| | pixel accuracy | mean IoU |", "|---|---|---|"]
    for name in VARIANTS:
        if (folder / name / "history.csv").exists():
            history = plots.read_history(folder / name / "history.csv").history
            mean_iou, accuracy = max(zip(history["val_mean_iou"], history["val_accuracy"], strict=True))
            lines.append(f"| {name.replace('_', ' ')} | {accuracy:.3f} | {mean_iou:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:] and sys.argv[1] in VARIANTS:
        train(sys.argv[1], sys.argv[2:])  # ends the program
    for name in VARIANTS:
        subprocess.run([sys.executable, __file__, name, *sys.argv[1:]], check=True)

    from common import plots

    plots.comparison(OUTPUT)
    print(table(OUTPUT))


if __name__ == "__main__":
    main()
