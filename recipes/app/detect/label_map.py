"""Label maps of TensorFlow's object detection API: class ids and names, as text (.pbtxt)."""

import itertools
import json
import pathlib
import re
from collections.abc import Iterable

from app.cli import InputError, listed, one_line
from app.files import shown

NAME = "label_map.pbtxt"  # beside a SavedModel
TOKEN = re.compile(r"""\#.* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [^\s{}:;,"'#]+""", re.VERBOSE)
UNICODE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)  # \u65e5, among other escapes


def read(path: pathlib.Path) -> dict[int, str]:
    """Reads a label map: class id to display name or, without one, to name."""
    items = [{}]
    names = {}
    try:
        tokens = [token for token in TOKEN.findall(path.read_text(encoding="utf-8-sig")) if not token.startswith("#")]
        for token, value in itertools.pairwise(tokens):
            if token == "item":
                items.append({})
            items[-1].setdefault(token, value)  # the first one: a later id is that of a keypoint in the item
        for item in items:
            quoted = [item.get(key, "")[1:-1] for key in ("display_name", "name")]
            name = quoted[0] or quoted[1]
            name = UNICODE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[0], name)
            if name and "id" in item:  # the other escapes are bytes of UTF-8
                names[int(item["id"])] = name.encode().decode("unicode_escape").encode("latin-1").decode()
        if not names:
            raise ValueError('no line like item { id: 1 display_name: "person" }')
    except (OSError, ValueError) as error:
        raise InputError(f"--labels {path}: cannot be read as a label map ({one_line(error)})") from error
    return names


def print_unnamed(detections: Iterable[dict], names: dict[int, str], path: pathlib.Path) -> None:
    """Prints which classes of detections, in COCO's format, have no name in the label map at `path`."""
    unnamed = {detection["category_id"] for detection in detections} - names.keys()
    if unnamed:
        ids = listed(sorted(unnamed))
        print(f"--labels {shown(path)}: it has no names for the class ids {ids}; name the label map of the model")


def write(path: pathlib.Path, names: dict[int, str]) -> None:
    """Writes a label map of class ids and display names."""
    quoted = {number: json.dumps(name, ensure_ascii=False) for number, name in names.items()}
    lines = [f"item {{ id: {number} display_name: {name} }}\n" for number, name in quoted.items()]
    path.write_text("".join(lines), encoding="utf-8")
