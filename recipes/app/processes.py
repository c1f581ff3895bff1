"""Training in several processes, on one machine or several, by JAX.

Keras' variables say how many there are and which one this is, or Slurm's where `srun` started them.
"""

import ctypes
import faulthandler
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from app import device
from app.cli import RESUME, SECONDS_TO_STOP, STOPPED, InputError, listed, one_line, print_error

import numpy as np

PREFIX = "KERAS_DISTRIBUTION_"
ADDRESSES, COUNT, NUMBER = (PREFIX + name for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
WAIT = 300  # seconds for all processes to start
SILENCE = 30  # seconds without a sign of life after which a process is lost
MOST_FACTS = 64
LOST = "another process ended or cannot be reached; see what it says, then start all of them again, with --resume"


class Processes(NamedTuple):
    """The processes that train together. The first one writes the files."""

    number: int = 0  # of this one
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.number == 0

    def agree(self, facts: dict[str, Any]) -> None:
        """Raises InputError, naming what differs, unless all processes pass the same facts, at most MOST_FACTS."""
        if self.count == 1:
            return
        facts = {COUNT: self.count, **facts}
        digests = np.zeros(MOST_FACTS, np.uint32)
        for index, value in enumerate([list(facts), *facts.values()]):
            digests[index] = zlib.crc32(json.dumps(value, default=str).encode())
        differ = (self._gather(digests) != digests).any(axis=0)
        if differ.any():
            names = [name for name, is_other in zip(facts, differ[1:], strict=False) if is_other]
            what = listed(names) if names and not differ[0] else "their flags"
            raise InputError(
                f"the processes differ in {what}; give all of them the same flags, with a --precision if their devices "
                "differ, one shared --output, and all or none of them --resume"
            )

    def any(self, fact: bool) -> bool:
        """Whether a fact is true in any process."""
        return fact if self.count == 1 else bool(self._gather(np.uint32(fact)).any())

    def end(self) -> None:
        """Ends the work together; each process may go on alone."""
        if self.count > 1:
            import jax

            jax.distributed.shutdown()

    @staticmethod
    def _gather(values) -> np.ndarray:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(values))


def join() -> Processes:
    """Waits for the other processes, if there are any. Call it before JAX computes anything.

    Raises:
      InputError: if the variables are not valid, or TensorFlow is to train in several processes.
    """
    if any(os.environ.get(name) for name in (ADDRESSES, COUNT, NUMBER)):
        address, number, count = _keras_settings()
    elif device.uses_jax() and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        address, number, count = None, int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"])
    else:
        _refuse_tf_config()
        return Processes()
    if count == 1:
        return Processes()
    if not device.uses_jax():
        raise InputError(f"{COUNT}: several processes train with JAX only: KERAS_BACKEND=jax")
    if address and number == 0:
        _check_port(address)
    _initialize(address, number, count)
    return Processes(number, count)


def _keras_settings() -> tuple[str, int, int]:
    """The address of the first process, the number of this one, and how many there are."""
    addresses, count, number = (os.environ.get(name, "") for name in (ADDRESSES, COUNT, NUMBER))
    address = addresses.split(",")[0]
    host, _, port = address.rpartition(":")
    are_numbers = all(text.isdecimal() for text in (port, count, number))
    if not (host and are_numbers and 0 < int(port) < 2**16 and int(number) < int(count)):
        raise InputError(
            f"{ADDRESSES}={addresses} {COUNT}={count} {NUMBER}={number} is not valid; for two processes: "
            f"{ADDRESSES}=HOST:PORT of the first, {COUNT}=2, and {NUMBER}=0 in the first, 1 in the second"
        )
    return address, int(number), int(count)


def _refuse_tf_config() -> None:
    """Raises InputError if TF_CONFIG names several workers, which TensorFlow once used."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
        workers = [address for kind in ("chief", "worker") for address in cluster.get(kind, ())]
    except (ValueError, TypeError, AttributeError):
        return
    if len(workers) > 1:
        variables = f"{ADDRESSES}={workers[0]} {COUNT}={len(workers)} {NUMBER}=0 to {len(workers) - 1}"
        raise InputError(f"TF_CONFIG: several machines train with JAX: KERAS_BACKEND=jax {variables}")


def _check_port(address: str) -> None:
    """JAX crashes if the port is in use."""
    port = int(address.rpartition(":")[2])
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        raise InputError(
            f"{ADDRESSES}: port {port} cannot be opened ({one_line(error)}); name another one, unless a second process "
            f"has {NUMBER}=0"
        ) from error


def _initialize(address: str | None, number: int, count: int) -> None:
    import jax

    _explain_aborts(number, count)
    _stop_while_waiting()
    if address is None:
        options = {"local_device_ids": _devices_of_task()}
    else:  # not by what Slurm may say, too
        options = {"coordinator_address": address, "num_processes": count, "process_id": number}
        options |= {"cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(**options, initialization_timeout=WAIT, heartbeat_timeout_seconds=SILENCE)
    except TypeError as error:
        raise InputError(f"{COUNT}: several processes need Python 3.11 and JAX 0.7 or later") from error
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the {count} processes cannot work together: {one_line(error)}") from error


def _devices_of_task() -> list[int] | None:
    """The GPUs of a task that `srun` started: all that it sees, if it is alone on its machine or sees but one.

    None lets JAX choose: one for each task of a machine.
    """
    gpus = len(device.driver_gpus())
    is_alone = os.environ["SLURM_STEP_NUM_TASKS"] == os.environ.get("SLURM_STEP_NUM_NODES")
    return list(range(gpus)) if gpus == 1 or (gpus and is_alone) else None


def _stop_while_waiting() -> None:
    """Lets Ctrl-C and SIGTERM end a process that waits for others: Python's handlers run when JAX returns."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)  # gets the number of each signal at once

    def watch():
        while os.read(reader, 1)[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
        time.sleep(2 * SECONDS_TO_STOP)  # in which Python's handler may end the program
        _end(f"stopped; {RESUME}", STOPPED)

    threading.Thread(target=watch, daemon=True).start()


def _explain_aborts(number: int, count: int) -> None:
    """Turns JAX's aborts into one-line errors.

    When another process is missing or lost, JAX writes pages to stderr and aborts, which no Python handler sees; here
    the C library calls one. From now on native libraries write to a temporary file, and only Python writes to stderr.
    """
    log = tempfile.TemporaryFile()  # noqa: SIM115  open until the process ends
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(log.fileno(), 2)
    faulthandler.enable(sys.stderr)  # of crashes other than aborts

    def explain(_):
        text = os.pread(log.fileno(), 2**20, 0).decode(errors="replace")
        if "RegisterTask" in text and "newer incarnation" in text:
            _end(f"{NUMBER}: another process has the number {number} too; give each its own, 0 to {count - 1}", 2)
        if "RegisterTask" in text:
            reason = "another one is missing, cannot be reached, or has another address, number or count"
            _end(f"{ADDRESSES}: waited {WAIT} s for all {count} processes; {reason}", 2)
        if "JAX distributed service" not in text:
            sys.stderr.write(text)
        _end(LOST, 1)

    def end_at_once(kind, error, trace):
        """JAX would wait for the others before the program ends."""
        if re.search("gloo|nccl|grpc|coordination.service", str(error), re.IGNORECASE) and not sys.flags.dev_mode:
            _end(f"{LOST} ({one_line(error)})", 1)
        traceback.print_exception(kind, error, trace)
        sys.stdout.flush()
        os._exit(1)

    sys.excepthook = end_at_once
    _on_abort(explain)


def _end(message: str, status: int) -> None:
    print_error(message)
    sys.stdout.flush()
    os._exit(status)


def _on_abort(handler: Callable[[int], None]) -> None:
    """Has the C library call `handler` when the process aborts."""
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
    library = ctypes.CDLL(None)
    library.signal.argtypes = ctypes.c_int, ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(callback, ctypes.c_void_p))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))  # never freed
