"""The README's pictures of predictions: `python tests/measure/pictures.py` writes resources/strip.jpg.

With `RECIPE FILE` it writes resources/dog_RECIPE.jpg, what a trained model answers.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESOURCES = ROOT / "resources"
PHOTOS = ("dog", "cat")
HEIGHT, GAP, SQUARE = 240, 8, 12  # pixels
SHIPPED = ROOT / "weights" / "unet_mobilenetv2.weights.h5"


def predict(recipe: str, weights: pathlib.Path, names: tuple[str, ...], folder: str) -> None:
    photos = [str(RESOURCES / "photos" / f"{name}.jpg") for name in names]
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), "--predict", *photos]
    subprocess.run([*command, "--weights", str(weights), "--output", folder], check=True)


def tile(path: pathlib.Path) -> Image.Image:
    """A picture of HEIGHT pixels; what is transparent shows a checkerboard."""
    picture = Image.open(path).convert("RGBA")
    picture = picture.resize((round(picture.width * HEIGHT / picture.height), HEIGHT), Image.Resampling.LANCZOS)
    row, column = np.indices((HEIGHT, picture.width)) // SQUARE
    board = Image.fromarray(np.where((row + column) % 2, 225, 255).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(board, picture).convert("RGB")


def strip(paths: list[pathlib.Path]) -> Image.Image:
    tiles = [tile(path) for path in paths]
    joined = Image.new("RGB", (sum(each.width + GAP for each in tiles) - GAP, HEIGHT), "white")
    left = 0
    for each in tiles:
        joined.paste(each, (left, 0))
        left += each.width + GAP
    return joined


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:]:
            recipe, weights = sys.argv[1:]
            predict(recipe, pathlib.Path(weights), PHOTOS[:1], folder)
            picture, name = tile(pathlib.Path(folder, "dog_overlay.png")), f"dog_{recipe}.jpg"
        else:
            predict("unet_mobilenetv2", SHIPPED, PHOTOS, folder)
            made = [pathlib.Path(folder, f"{name}_{kind}.png") for name in PHOTOS for kind in ("overlay", "cutout")]
            photos = [RESOURCES / "photos" / f"{name}.jpg" for name in PHOTOS]
            picture, name = strip([photos[0], *made[:2], photos[1], *made[2:]]), "strip.jpg"
        picture.save(RESOURCES / name, quality=88, optimize=True)


if __name__ == "__main__":
    main()
