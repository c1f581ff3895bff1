"""What each part of unet_mobilenetv2 brings: four trainings of six epochs. `python tests/ablation.py FLAGS...`

The flags are those of the recipe, such as --image-size or --data-dir. It ends with a table; the runs and their curves
lie in output/ablation/.
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


def main() -> None:
    if sys.argv[1:] and sys.argv[1] in VARIANTS:
        train(sys.argv[1], sys.argv[2:])
    for name in VARIANTS:
        subprocess.run([sys.executable, __file__, name, *sys.argv[1:]], check=True)

    from common import plots

    plots.comparison(OUTPUT)
    print((OUTPUT / "comparison.md").read_text())


if __name__ == "__main__":
    main()
