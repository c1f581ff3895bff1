"""--check-data: what a folder holds, and every problem in it."""

import pathlib

from app.cli import InputError, print_table
from app.datasets import folder

import numpy as np


def print_findings(path: pathlib.Path) -> folder.Survey:
    """Prints what a folder holds, with every remark and problem; returns it.

    Raises:
      InputError: if it has problems.
    """
    found = folder.survey(path)
    layout = found.layout
    validated = f"{len(found.validation)} to validate, " if found.validation else ""
    parts = f"{len(found.train)} to train with, {validated}{len(found.test)} to test"
    print(f"{path}: {len(found.sizes)} {layout.kind} can be used, {parts}")
    if found.sizes:
        smallest, largest = (pick(found.sizes, key=np.prod) for pick in (min, max))
        print("sizes: {} x {} to {} x {} pixels".format(*smallest, *largest))
        shares = found.pixels / max(1, found.pixels.sum())
        column = "value in the masks" if layout.instances is None else "instances"
        table = [("class", "id", column, "share of pixels")]
        for index, (name, share) in enumerate(zip(found.class_names, shares, strict=True)):
            values = ", ".join(map(str, np.flatnonzero(found.ids == index)))
            if layout.instances is not None:
                values = str(layout.instances[name]) if index or layout.instances[name] else ""
            table.append((name, str(index), values, f"{share:.2%}"))
        print_table(table)
    for title, lines in (("remarks", found.remarks), ("problems", found.problems)):
        print(f"{title}: {len(lines) or 'none'}")
        for line in lines:
            print(f"  {line}")
    if found.problems:
        raise InputError(f"--data {path}: not fit for training, problems: {len(found.problems)}; fix or remove them")
    return found
