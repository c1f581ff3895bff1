"""On a terminal programs draw progress bars; in a log, as the other tests check, they print plain lines."""

import os
import re
import struct
import subprocess
import sys

import pytest
from conftest import CONTROL, ROOT

fcntl, pty, termios = (
    pytest.importorskip(name, reason="there are no pseudo-terminals on Windows") for name in ("fcntl", "pty", "termios")
)


def on_a_terminal(recipe, *flags) -> str:
    """Runs a recipe on a pseudo-terminal; returns what it shows."""
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    command = [sys.executable, ROOT / "recipes" / f"{recipe}.py", *flags]
    process = subprocess.Popen(list(map(str, command)), stdout=screen, stderr=screen)
    os.close(screen)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux' way to say that the program has closed it
            part = b""
        if not part:
            break
        shown += part
    os.close(terminal)
    assert process.wait() == 0, shown
    return shown.decode().replace("\r\n", "\n")


def test_a_training_shows_keras_progress_bars(tmp_path):
    flags = ("--data", "synthetic", "--image-size", 32, "--epochs", 1, "--batch-size", 8, "--limit", 16)
    shown = on_a_terminal("unet_scratch", *flags, "--output", tmp_path)
    assert re.search(r"2/2.*step - accuracy", shown) and re.search(r"2/2.*/test batch", shown)
    assert CONTROL.search(shown) and "epoch 1/1" not in shown


def test_a_prediction_shows_a_bar(tmp_path):
    photo = ROOT / "resources" / "photos" / "cat.jpg"
    shown = on_a_terminal("unet_mobilenetv2", "--predict", photo, "--output", tmp_path)
    assert re.search(r"\r.*1/1 .*photo", shown)
