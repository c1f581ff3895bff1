"""A time limit for downloads."""

import contextlib
import socket
from collections.abc import Iterator

import requests

TIMEOUT = 20  # seconds without an answer


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Applies TIMEOUT to connections that libraries open without a limit, by urllib or by requests."""
    send = requests.adapters.HTTPAdapter.send
    default = socket.getdefaulttimeout()

    def send_with_timeout(adapter, request, **options):
        return send(adapter, request, **{**options, "timeout": options.get("timeout") or TIMEOUT})

    requests.adapters.HTTPAdapter.send = send_with_timeout
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        requests.adapters.HTTPAdapter.send = send
        socket.setdefaulttimeout(default)
