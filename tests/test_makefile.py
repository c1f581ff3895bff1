"""How the Makefile finds a Python."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(not MAKE, reason="make is not on this machine")


@pytest.fixture
def make(tmp_path):
    """Runs `make .venv/bin/pip` beside a copy of the Makefile, with only the given programs on the path."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bin").mkdir()

    def run(*flags, **programs):
        for name, text in {"sh": None, **programs}.items():
            path = tmp_path / "bin" / name.replace("_", ".")
            if text is None:
                path.symlink_to(shutil.which(name))
            else:
                path.write_text(f"#!/bin/sh\n{text}\n")
                path.chmod(0o755)
        environment = {"PATH": str(tmp_path / "bin"), "HOME": os.environ.get("HOME", "")}
        command = [MAKE, *flags, ".venv/bin/pip"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    ("programs", "command"),
    [
        ({"python3_13": "exit 1", "python3_11": "exit 0", "python3": "exit 0"}, "python3.11 -m venv .venv"),
        ({"python3": "exit 1"}, "uv venv --python 3.13 --seed --allow-existing .venv"),
    ],
)
def test_a_python_that_fits_comes_first_then_uv(make, programs, command):
    assert make("-n", uv="exit 0", **programs).stdout.splitlines()[0] == command


def test_without_either_a_line_says_how_to_get_one(make):
    done = make(python3="exit 1")
    assert done.returncode == 2 and done.stdout == ""
    line, end = done.stderr.splitlines()
    for words in (
        "No Python 3.10 to 3.13",
        "docs.astral.sh/uv",
        "apt install python3-venv",
        "brew install python@3.13",
    ):
        assert words in line
    assert end.startswith("make: ***")
