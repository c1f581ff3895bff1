import functools
import http.server
import pathlib
import sys
import threading

import app  # noqa: F401  before TensorFlow, whose settings it makes

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def same_start():
    """Each test begins with the same random state, in float32, whatever the one before it has set."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float32")
    yield
    keras.backend.clear_session()


@pytest.fixture
def command_line(monkeypatch, capfd):
    """Runs a recipe's command line in this process: gives its exit status, its stdout and its stderr."""

    def run(recipe, *flags):
        monkeypatch.setattr(sys, "argv", [recipe.__file__, *map(str, flags)])
        status = 0
        capfd.readouterr()
        try:
            recipe.main()
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def shared():
    """A folder with the real data, where the machine has it."""
    if not SHARED.exists():
        pytest.skip("the folder with the real data, ../shared, is not on this machine")
    return SHARED


class QuietServer(http.server.ThreadingHTTPServer):
    """Says nothing on stderr, which the tests read, of a client that goes away in the middle."""

    def handle_error(self, *_):
        pass


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def http_server(tmp_path, monkeypatch):
    """A folder, and a server on 127.0.0.1 that serves it over HTTP."""
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


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that two processes end together."""
    slow = ("test_resume", "test_recipes", "test_predict", "test_copying")
    items.sort(key=lambda item: slow.index(item.path.stem) if item.path.stem in slow else len(slow))
