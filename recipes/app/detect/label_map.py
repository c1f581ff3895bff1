"""Label maps of TensorFlow's object detection API: class ids and names, as text (.pbtxt)."""

import itertools
import json
import pathlib
import re

from app.cli import InputError, one_line

NAME = "label_map.pbtxt"  # beside a SavedModel
TOKEN = re.compile(r"""\#.* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [^\s{}:;,"'#]+""", re.VERBOSE)


def read(path: pathlib.Path) -> dict[int, str]:
    """Reads a label map: class id to display name or, without one, to name.

    Raises:
      InputError: if the file cannot be read, or has no item with an id and a name.
    """
    items = [{}]
    names = {}
    try:
        tokens = [token for token in TOKEN.findall(path.read_text(encoding="utf-8-sig")) if not token.startswith("#")]
        for token, value in itertools.pairwise(tokens):
            if token == "item":
                items.append({})
            items[-1].setdefault(token, value)  # the first one: a later id is that of a keypoint in the item
        for item in items:
            name = _unquoted(item.get("display_name", "")) or _unquoted(item.get("name", ""))
            if name and "id" in item:
                names[int(item["id"])] = name
    except OSError as error:
        raise InputError(f"--labels {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"--labels {path}: not a label map ({one_line(error)})") from error
    if not names:
        raise InputError(f'--labels {path}: not a label map (no line like item {{ id: 1 display_name: "person" }})')
    return names


def _unquoted(text: str) -> str:
    """The value of a quoted string; its escapes are bytes of UTF-8."""
    return text[1:-1].encode().decode("unicode_escape").encode("latin-1").decode()


def write(path: pathlib.Path, names: dict[int, str]) -> None:
    """Writes a label map of class ids and display names."""
    items = [
        f"item {{ id: {number} display_name: {json.dumps(name, ensure_ascii=False)} }}\n"
        for number, name in names.items()
    ]
    path.write_text("".join(items), encoding="utf-8")
