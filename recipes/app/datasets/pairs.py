"""Folders of images and masks, paired by name.

    DIR/images/NAME.*   DIR/masks/NAME.png                   and optionally DIR/classes.txt
    DIR/images/NAME.*   DIR/annotations/trimaps/NAME.png     Oxford's layout; trainval.txt and test.txt beside trimaps/

A mask is an 8-bit grey or palette PNG. Its values are class ids from 0 or from 1, or 0 and 255 for two classes.
classes.txt names one class per line; with the line "255 ignore" pixels of the value 255 are ignored.
"""

import functools
import pathlib

from app.cli import InputError
from app.datasets import Example, Layout, labels
from common.scores import TRIMAP


def find(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder of the masks."""
    places = (folder / "masks", folder / "annotations" / "trimaps")
    return next((place for place in places if place.is_dir()), None)


def read(folder: pathlib.Path, masks: pathlib.Path) -> Layout:
    """Pairs the images and masks of a folder.

    Raises:
      InputError: if classes.txt or the lists of the splits are wrong.
    """
    names, ignores = labels.read_class_names(folder / "classes.txt")
    pairs, problems, remarks = _pair(folder, masks)
    splits = {"train": pairs}
    if masks.name == "trimaps":
        names = names or TRIMAP
        paths = [masks.parent / name for name in ("trainval.txt", "test.txt")]
        if all(path.exists() for path in paths):
            splits = _split(pairs, paths, remarks)
        else:
            remarks += [f"{path}: not used, the other list is missing" for path in paths if path.exists()]
    return Layout("pairs", splits, masks, names, ignores, problems, remarks)


def _pair(folder: pathlib.Path, masks: pathlib.Path) -> tuple[list[Example], list[str], list[str]]:
    """Pairs images and masks of the same name; returns the pairs, the problems and the remarks."""

    def files(place):
        return sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.is_file())

    by_name = {path.stem: path for path in files(masks) if path.suffix.lower() == ".png"}
    pairs, problems, remarks, used = [], [], [], {}
    for image in files(folder / "images"):
        if image.stem not in by_name:
            remarks.append(f"{image}: no partner, there is no {masks.name}/{image.stem}.png")
        elif image.stem in used:
            problems.append(f"{image}: {used[image.stem].name} has the same mask; keep one of the two")
        else:
            mask = by_name[image.stem]
            pairs.append(Example(image, str(mask), functools.partial(labels.read_mask, mask)))
            used[image.stem] = image
    remarks += [
        f"{path}: no partner, there is no images/{name}.*" for name, path in by_name.items() if name not in used
    ]
    remarks += [f"{path}: not read, a mask has to be a PNG" for path in files(masks) if path.suffix.lower() != ".png"]
    return pairs, problems, remarks


def _split(pairs: list[Example], paths: list[pathlib.Path], remarks: list[str]) -> dict[str, list[Example]]:
    """The pairs of each split by the lists."""
    by_name = {pair.image.stem: pair for pair in pairs}
    splits = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as text in UTF-8") from error
        # A name stands alone or, as in Oxford's lists, before numbers.
        names = [[line.strip(), line.split()[0]] for line in lines if line.strip() and not line.startswith("#")]
        names = [[*own, *(pathlib.PurePath(name).stem for name in own)] for own in names]
        found = [next((name for name in own if name in by_name), None) for own in names]
        missing = [own[0] for own, name in zip(names, found, strict=True) if name is None]
        if missing:
            remarks.append(f"{path}: names without a pair: {len(missing)} ({missing[0]}, ...)")
        splits.append(dict.fromkeys(name for name in found if name))
    both = splits[0].keys() & splits[1].keys()
    if both:
        raise InputError(
            f"{paths[1]}: {len(both)} names are in {paths[0].name} too, like {min(both)}; an image can be in one only"
        )
    train, test = ([by_name[name] for name in split] for split in splits)
    listed = splits[0] | splits[1]
    return {"train": train, "test": test, "neither": [pair for name, pair in by_name.items() if name not in listed]}
