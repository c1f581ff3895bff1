"""The command line: a program's start and end, kinds of flags, tables, and errors reported in one line."""

import argparse
import functools
import math
import os
import pathlib
import re
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

LARGEST = 2**31  # TensorFlow's integers end here
STOPPED = 130  # exit status after Ctrl-C
RESUME = "finished epochs are kept, and the same command with --resume goes on"
OTHER_ADVICE = {  # of flags that start something else than a training
    "--check-data": "nothing was written",
    "--predict": "finished photos are kept, and the same command with --resume goes on",
}
DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # marks that turn the text around
SECONDS_TO_STOP = 3  # enough for a program to delete its temporary files


class InputError(Exception):
    """An error that the user can fix: a wrong flag, file or folder. The text says what is wrong and what to do."""


def program(stop_advice: str = RESUME) -> Callable:
    """Decorates a recipe's main(), which may return an exit status: errors become one line on stderr.

    The exit status is 2 for an InputError, 1 for a file that cannot be read or written, 130 for Ctrl-C, which also
    prints `stop_advice`. `python -X dev` adds the traceback. Any other exception is a fault of the code and keeps it.
    """

    def decorate(main):
        @functools.wraps(main)
        def run():
            sys.stdout.reconfigure(errors="backslashreplace")  # file names can contain anything
            stop_on_signals()
            try:
                sys.exit(main() or 0)
            except InputError as error:
                print_error(str(error))
                leave(2)
            except OSError as error:  # a full disk, a folder that disappeared
                print_error(f"{error.filename or 'a file'}: {one_line(error)}; everything finished before is kept")
                leave(1)
            except (KeyboardInterrupt, SystemError) as error:
                if not isinstance(error.__cause__ or error, KeyboardInterrupt):  # stopped C code raises SystemError
                    raise
                advice = next((text for flag, text in OTHER_ADVICE.items() if flag in sys.argv), stop_advice)
                print_error(f"stopped; {advice}")
                sys.stdout.flush()
                os._exit(STOPPED)  # at once: reader threads may be waiting for the interpreter

        return run

    return decorate


def leave(status: int) -> None:
    """Exits after an error, even where JAX would wait for the other processes of a training."""
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized():
        sys.stdout.flush()
        time.sleep(1)  # they may be about to find the same error
        os._exit(status)
    sys.exit(status)


def stop_on_signals() -> None:
    """Makes Ctrl-C, and the SIGTERM that schedulers send, raise KeyboardInterrupt until the program ends.

    Once is not enough: Python drops exceptions in `__del__`, and Keras catches all of them while it saves a model.
    """

    def stop(*_):
        signal.alarm(SECONDS_TO_STOP)  # SIGALRM
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as Ctrl-C is for a shell's background jobs
            signal.signal(number, stop)

    def report_dropped(dropped):
        if dropped.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(dropped)

    sys.unraisablehook = report_dropped


def print_error(message: str) -> None:
    """Prints an error on stderr, in one line; a progress bar on the screen stays intact."""
    if sys.flags.dev_mode and sys.exc_info()[0]:
        traceback.print_exc()
    tqdm.write(f"{pathlib.Path(sys.argv[0]).name}: {plain(message)}", file=sys.stderr)


def plain(text: str) -> str:
    """A text in one line, without the control characters and marks of direction that a file's name may hold."""
    text = re.sub(r"[\t\n\v\f\r\x85\u2028\u2029]", " ", text)
    return "".join("?" if unicodedata.category(letter) == "Cc" or letter in DIRECTIONS else letter for letter in text)


def one_line(error: Exception) -> str:
    """The text of an error, as part of a line."""
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "IncompleteRead" in str(error):
        return "the connection broke in the middle of the file"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        host = urlsplit(error.request.url).hostname if error.request else "the server"
        return f"no connection to {host}, or no answer in time"
    return " ".join(str(error).split())[:600] or type(error).__name__


def listed(values: Sequence) -> str:
    """Values as part of a line: the first six, and how many more."""
    return ", ".join(map(str, values[:6])) + (f" and {len(values) - 6} more" if len(values) > 6 else "")


def percent(share: float, digits: int = 2) -> str:
    """A share, 0..1, in per cent with so many decimals; below 1 % with two significant digits."""
    if 0 < share < 0.01:
        digits = min(8, 1 - math.floor(math.log10(100 * share)))
    return f"{share:.{digits}%}"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of cells in aligned columns."""
    rows = [list(map(plain, row)) for row in rows]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _width(text: str) -> int:
    """The width of a text on a terminal: Chinese letters are two wide, accents that sit on a letter nothing."""
    kinds = ((unicodedata.category(letter), unicodedata.east_asian_width(letter)) for letter in text)
    return sum(0 if category in ("Mn", "Me") else 2 if width in "FW" else 1 for category, width in kinds)


class Parser(argparse.ArgumentParser):
    """Shows the recipe's docstring as its help; a wrong flag raises InputError."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message):
        raise InputError(f"{message.removeprefix('argument ')} (--help lists the flags)")


def _number(kind: type, is_valid: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")  # which is_valid refuses
        if not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
        return value

    return parse


def positive(kind: type) -> Callable[[str], float]:
    """The type of a flag that takes a number above zero; `kind` is int or float."""
    number = "whole number" if kind is int else "number"
    return _number(kind, lambda value: 0 < value < LARGEST, f"a {number} above zero and below {LARGEST}")


fraction = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
whole = _number(int, lambda value: 0 <= value < LARGEST, f"a whole number from 0 to {LARGEST - 1}")
