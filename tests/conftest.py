import contextlib
import functools
import gc
import http.server
import importlib.util
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

from app import checkpoint, models
from app.cli import InputError
from common import scores

import keras
import pytest
import unet_scratch

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # any control character but the end of a line
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
# Test files that take long; the others follow them, so that both workers end together.
LONGEST = (
    "test_resume",
    "test_jax",
    "test_recipes",
    "test_transfer",
    "test_readme_commands",
    "test_gpu",
    "test_predict",
    "test_mask_rcnn_train",
    "test_detector_training",
    "test_export",
    "test_copying",
)


def pytest_collection_modifyitems(items):
    """Runs the longest files first. The modules that are imported by now are left out of garbage collections."""
    gc.freeze()
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def same_start():
    """Resets the random seed and the dtype policy, so that tests do not affect each other."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float32")
    yield
    keras.backend.clear_session()


@pytest.fixture
def command_line(monkeypatch, capfd):
    """Runs a recipe's command line in this process; returns exit status, stdout and stderr.

    Both are files here, not terminals, so no progress bar may be drawn.
    """

    def run(recipe, *flags):
        monkeypatch.setattr(sys, "argv", [recipe.__file__, *map(str, flags)])
        status = 0
        capfd.readouterr()
        try:
            recipe.main()
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        assert not CONTROL.search(out + err)
        return status, out, err

    return run


@pytest.fixture
def ends_after_an_epoch(monkeypatch):
    """A context in which a training ends when the state of its first epoch is written, with exit status 2."""
    write_state = checkpoint.write_state

    def write_and_end(*args):
        write_state(*args)
        raise InputError("the end")

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "write_state", write_and_end)
            yield patched

    return context


RUNNER = """
import json, os, runpy, sys
commands = json.loads(sys.argv[1])
sys.path.insert(0, os.path.dirname(commands[0][0]))
for command in commands:
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, command
    print(end=chr(0), flush=True)
    import keras
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()
"""


def run_recipes(commands, **options):
    """Runs recipes one after the other in one process, which imports TensorFlow once; returns what each printed."""
    commands = [list(map(str, command)) for command in commands]
    program = [sys.executable, "-c", RUNNER, json.dumps(commands)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, **options)
    errors = [line for line in done.stderr.splitlines() if "retracing" not in line]  # of several models in one process
    assert (done.returncode, errors) == (0, []), done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.split("\0")[:-1]


def start_process(command, **options):
    """Starts a program that a test stops."""
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell makes background jobs ignore Ctrl-C, and child processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def wait_for(condition, process, seconds=240):
    """Waits until a condition holds, while a program runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


@pytest.fixture
def shared():
    """The folder of real data; skips the test if missing."""
    if not SHARED.exists():
        pytest.skip("the folder with the real data, ../shared, is not on this machine")
    return SHARED


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A 64 px U-Net with random weights, for tests that ignore what it predicts."""
    path = tmp_path_factory.mktemp("weights") / "unet_scratch.keras"
    keras.utils.set_random_seed(1)
    models.save(unet_scratch.build_model(64, 3), path, scores.TRIMAP)
    return path


class QuietServer(http.server.ThreadingHTTPServer):
    """Reports no dropped connections on stderr, which the tests read."""

    def handle_error(self, *_):
        pass


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def http_server(tmp_path, monkeypatch):
    """A folder and an HTTP server on 127.0.0.1 that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = functools.partial(QuietHandler, directory=folder)
    server = QuietServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, server
    server.shutdown()
    server.server_close()
