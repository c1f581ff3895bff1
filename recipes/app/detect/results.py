"""detections.json: the objects found in the photos of an output folder, in COCO's results format."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from app import files, inputs
from app.cli import InputError, one_line
from app.inputs import absolute

NAME = "detections.json"
LARGEST_ID = 2**53  # whole numbers up to here are exact in every reader of JSON


def read(folder: pathlib.Path) -> list[dict]:
    """The detections that earlier runs wrote to an output folder; none without the file.

    Raises:
      InputError: if the file there was not written by this recipe, or is damaged; a run would replace it.
    """
    try:
        detections = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if not isinstance(detections, list) or not all(map(_is_ours, detections)):
            raise ValueError("it lacks the names or numbers of the photos")
        return detections
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        advice = "name another folder, or move the file"
        raise InputError(
            f"--output {folder}: {NAME} there was not written by this recipe ({reason}); {advice}"
        ) from error


def _is_ours(one: Any) -> bool:
    return isinstance(one, dict) and type(one.get("image_id")) is int and type(one.get("file_name")) is str


def image_ids(paths: Sequence[pathlib.Path], earlier: Sequence[dict]) -> dict[pathlib.Path, int]:
    """A unique image id for each photo, as COCO's formats need it.

    A photo keeps the id that it has in `earlier`, detections of earlier runs. Otherwise it is the photo's name, if that
    is a number and no other photo has it, else an unused number.
    """
    given = {one["file_name"]: one["image_id"] for one in earlier}
    ids = {path: given[absolute(path)] for path in paths if absolute(path) in given}
    taken = {*given.values()}
    for path in paths:
        if path not in ids and path.stem.isdecimal() and int(path.stem) < LARGEST_ID and int(path.stem) not in taken:
            ids[path] = int(path.stem)
            taken.add(ids[path])
    free = itertools.filterfalse(taken.__contains__, itertools.count(1))
    return {path: ids[path] if path in ids else next(free) for path in paths}


def write(folder: pathlib.Path, found: Mapping[pathlib.Path, Sequence[dict]]) -> None:
    """Writes what was found in each photo, with its image id; what earlier runs found in other photos is kept."""
    with inputs.locked(folder):
        earlier = read(folder)
        ids = image_ids(list(found), earlier)
        photos = set(map(absolute, found))
        detections = [one for one in earlier if one["file_name"] not in photos]
        for path, results in found.items():
            detections += [one | {"image_id": ids[path]} for one in results]
        files.write_text(folder / NAME, json.dumps(detections) + "\n")
