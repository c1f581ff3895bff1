"""Training in several processes with JAX, on one machine or several.

Keras' environment variables give the number of processes and that of this one, or Slurm's if `srun` started them.
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
from typing import Any, NamedTuple

from app import device
from app.cli import RESUME, SECONDS_TO_STOP, STOPPED, InputError, listed, one_line, print_error

import numpy as np

PREFIX = "KERAS_DISTRIBUTION_"
ADDRESSES = PREFIX + "JOB_ADDRESSES"
COUNT = PREFIX + "NUM_PROCESSES"
NUMBER = PREFIX + "PROCESS_ID"
WAIT = 300  # seconds for all processes to start
SILENCE = 30  # seconds without a heartbeat after which a process is lost
LOST = "another process ended or cannot be reached; see its output, then start all of them again, with --resume"


class Processes(NamedTuple):
    """The processes that train together. The first one writes the files."""

    number: int = 0  # of this process
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.number == 0

    def agree(self, facts: dict[str, Any]) -> None:
        """Raises InputError, which names what differs, unless all processes pass the same facts."""
        if self.count == 1:
            return
        facts = {COUNT: self.count, **facts}
        digests = {name: zlib.crc32(json.dumps(value, default=str).encode()) for name, value in facts.items()}
        text = json.dumps(digests).ljust(4096)
        rows = _gather(np.frombuffer(text.encode(), np.uint8))
        differ = {name for row in rows for name, _ in json.loads(bytes(row)).items() ^ digests.items()}
        if differ:
            advice = "the same flags, one shared --output, and a --precision if their devices differ"
            raise InputError(f"the processes differ in {listed(sorted(differ))}; give all of them {advice}")

    def any(self, fact: bool) -> bool:
        """Whether a fact is true in any process."""
        return fact if self.count == 1 else bool(_gather(np.uint32(fact)).any())

    def end(self) -> None:
        """Ends the work together; from here on each process is on its own."""
        if self.count > 1:
            import jax

            jax.distributed.shutdown()


def _gather(values: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def join() -> Processes:
    """Waits for the other processes, if there are any. Call it before JAX computes anything.

    Raises:
      InputError: if the variables are invalid, or ask TensorFlow to train in several processes.
    """
    address = None
    if any(os.environ.get(name) for name in (ADDRESSES, COUNT, NUMBER)):
        address, number, count = _keras_settings()
    elif device.uses_jax() and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        number = int(os.environ["SLURM_PROCID"])
        count = int(os.environ["SLURM_STEP_NUM_TASKS"])
    else:
        tasks = re.findall(r'"([^"]+:\d+)"', os.environ.get("TF_CONFIG", ""))  # TensorFlow's way to set up a cluster
        if len(tasks) > 1:
            variables = f"{ADDRESSES}={tasks[0]} {COUNT}={len(tasks)} {NUMBER}=0 to {len(tasks) - 1}"
            raise InputError(f"TF_CONFIG: several machines train with JAX: KERAS_BACKEND=jax {variables}")
        return Processes()
    if count == 1:
        return Processes()
    if not device.uses_jax():
        raise InputError(f"{COUNT}: several processes train with JAX only: KERAS_BACKEND=jax")
    _initialize(address, number, count)
    return Processes(number, count)


def _keras_settings() -> tuple[str, int, int]:
    """The address of the first process, the number of this one, and the number of processes."""
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


def _initialize(address: str | None, number: int, count: int) -> None:
    import jax

    if address and number == 0:
        try:
            socket.create_server(("", int(address.rpartition(":")[2]))).close()  # JAX would crash
        except OSError as error:
            advice = f"name another port, unless a second process has {NUMBER}=0"
            raise InputError(f"{ADDRESSES}: {address} cannot be opened ({one_line(error)}); {advice}") from error
    _explain_aborts(number, count)
    _stop_while_waiting()
    if address:
        options = {"coordinator_address": address, "num_processes": count, "process_id": number}
        options["cluster_detection_method"] = "deactivate"  # Keras' variables take precedence over Slurm's
    else:
        options = {"local_device_ids": _devices_of_task()}
    try:
        jax.distributed.initialize(**options, initialization_timeout=WAIT, heartbeat_timeout_seconds=SILENCE)
    except TypeError as error:
        raise InputError(f"{COUNT}: several processes need Python 3.11 and JAX 0.7 or later") from error
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the {count} processes cannot work together: {one_line(error)}") from error


def _devices_of_task() -> list[int] | None:
    """The GPUs of a task that `srun` started, if it is alone on its machine or sees only one; else JAX chooses."""
    gpus = len(device.driver_gpus())
    is_alone = os.environ["SLURM_STEP_NUM_TASKS"] == os.environ.get("SLURM_STEP_NUM_NODES")
    return list(range(gpus)) if gpus == 1 or (gpus and is_alone) else None


def _stop_while_waiting() -> None:
    """Makes Ctrl-C and SIGTERM end a process that waits for others: JAX delays Python's own signal handlers."""
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

    When another process is missing or lost, JAX writes pages to stderr and aborts. No Python handler sees that, but the
    C library calls one. From now on native libraries write to a temporary file, and only Python writes to stderr.
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
        """Replaces sys.excepthook: at its normal exit a process would wait for the others."""
        if re.search("gloo|nccl|grpc|coordination.service", str(error), re.IGNORECASE) and not sys.flags.dev_mode:
            _end(f"{LOST} ({one_line(error)})", 1)
        traceback.print_exception(kind, error, trace)
        sys.stdout.flush()
        os._exit(1)

    sys.excepthook = end_at_once
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))  # never freed
    library = ctypes.CDLL(None)
    library.signal.argtypes = ctypes.c_int, ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(callback, ctypes.c_void_p))


def _end(message: str, status: int) -> None:
    print_error(message)
    sys.stdout.flush()
    os._exit(status)
