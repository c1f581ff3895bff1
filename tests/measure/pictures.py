"""The README's pictures of predictions: `python tests/measure/pictures.py [RECIPE FILE]`

Without arguments it writes resources/strip.jpg and resources/cat_mask_rcnn.jpg, with the weights in this repository;
with FILE, a model trained by RECIPE, it writes resources/dog_RECIPE.jpg.
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
WIDTH = 320  # pixels, of a picture
GAP = 8
SQUARE = 12  # of the checkerboard


def run(recipe: str, flags: list[str], folder: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *flags, "--output", folder], check=True)


def tile(path: pathlib.Path) -> Image.Image:
    """A picture scaled to WIDTH, over a checkerboard."""
    picture = Image.open(path).convert("RGBA")
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    row, column = np.indices((picture.height, WIDTH)) // SQUARE
    board = Image.fromarray(np.where((row + column) % 2, 225, 255).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(board, picture).convert("RGB")


def sheet(rows: list[list[pathlib.Path]]) -> Image.Image:
    """Joins rows of pictures; those of a row have the same shape."""
    tiles = [list(map(tile, row)) for row in rows]
    width = (WIDTH + GAP) * len(rows[0]) - GAP
    joined = Image.new("RGB", (width, sum(row[0].height + GAP for row in tiles) - GAP), "white")
    top = 0
    for row in tiles:
        for number, picture in enumerate(row):
            joined.paste(picture, (number * (WIDTH + GAP), top))
        top += row[0].height + GAP
    return joined


def save(picture: Image.Image, name: str) -> None:
    picture.save(RESOURCES / name, quality=88, optimize=True)


def main() -> None:
    photos = [RESOURCES / "photos" / f"{name}.jpg" for name in PHOTOS]
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:]:
            recipe, weights = sys.argv[1:]
            run(recipe, ["--predict", str(photos[0]), "--weights", weights], folder)
            save(tile(pathlib.Path(folder, "dog_overlay.png")), f"dog_{recipe}.jpg")
        else:
            run("unet_mobilenetv2", ["--predict", *map(str, photos), "--weights", "shipped"], folder)
            made = [[pathlib.Path(folder, f"{name}_{kind}.png") for kind in ("overlay", "cutout")] for name in PHOTOS]
            save(sheet([[photo, *pictures] for photo, pictures in zip(photos, made, strict=True)]), "strip.jpg")
            run("mask_rcnn_hub", [str(photos[1]), "--model", "small"], folder)
            save(tile(pathlib.Path(folder, "cat_overlay.png")), "cat_mask_rcnn.jpg")


if __name__ == "__main__":
    main()
