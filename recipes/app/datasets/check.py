"""--check-data: what a folder holds, and every problem in it."""

import collections
import pathlib

from app.cli import InputError, percent, print_table
from app.datasets import Contents, folder

import numpy as np


def print_findings(path: pathlib.Path, image_size: int | None, for_instances: bool = False) -> None:
    """Prints what a folder holds, with every warning and problem; `image_size` is that of a training, None on tiles.

    Raises:
      InputError: if it has problems, or instances are needed, and it has none.
    """
    contents, _ = folder.scan(path, folder.read(path), image_size=image_size, for_instances=for_instances)
    places = folder.split(contents, seed=0)
    validated = f"{len(places['validation'])} to validate, " if "validation" in places else ""
    parts = f"{len(places['train'])} to train with, {validated}{len(places['test'])} to test"
    print(f"{path}: {len(contents.sizes)} {contents.kind} can be used, {parts}")
    if contents.sizes:
        smallest = min(contents.sizes, key=np.prod)
        largest = max(contents.sizes, key=np.prod)
        print("sizes: {} x {} to {} x {} pixels".format(*smallest, *largest))
        print_table(_table(contents))
    for title, lines in (("warnings", contents.warnings), ("problems", contents.problems)):
        print(f"{title}: {len(lines) or 'none'}")
        for line in lines:
            print(f"  {line}")
    if contents.problems:
        problems = len(contents.problems)
        raise InputError(f"--data {path}: not fit for training, problems: {problems}; fix or remove them")
    if for_instances:
        folder.instances(path, contents, places["train"])


def _table(contents: Contents) -> list[tuple[str, ...]]:
    """A row for each class, below a title."""
    annotations = [one for example in contents.examples for one in example.annotations]
    instances = collections.Counter(one.class_id for one in annotations if not one.is_crowd)
    is_masks = contents.kind == "pairs"
    table = [("class", "id", "value in the masks" if is_masks else "instances", "share of pixels")]
    for number, (name, count) in enumerate(zip(contents.class_names, contents.pixels, strict=True)):
        if is_masks:
            cell = ", ".join(map(str, np.flatnonzero(contents.ids == number)))
        else:
            cell = str(instances[number]) if number or instances[number] else ""
        table.append((name, str(number), cell, percent(count / max(1, contents.pixels.sum()))))
    return table
