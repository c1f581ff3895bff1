"""Downloads with a progress bar and a time limit."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

import requests
from tqdm import tqdm

TIMEOUT = 20  # seconds without an answer


def download(url: str, path: pathlib.Path) -> None:
    """Downloads a URL into a file.

    Raises:
      OSError: if the file cannot be written; as requests.RequestException, if the server refuses, the address is wrong,
        the body is cut off, or TIMEOUT seconds pass without a byte.
    """
    print(f"downloading {url}", flush=True)
    with requests.get(url, stream=True, timeout=TIMEOUT) as response, path.open("wb") as file:
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        with tqdm(total=size, unit="B", unit_scale=True, disable=None, file=sys.stdout) as bar:  # on a terminal only
            for block in response.iter_content(2**20):
                file.write(block)
                bar.update(len(block))


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Applies TIMEOUT to requests made without one, as tensorflow-datasets makes them."""
    send = requests.adapters.HTTPAdapter.send

    def send_with_timeout(adapter, request, **options):
        return send(adapter, request, **{**options, "timeout": options.get("timeout") or TIMEOUT})

    requests.adapters.HTTPAdapter.send = send_with_timeout
    try:
        yield
    finally:
        requests.adapters.HTTPAdapter.send = send
