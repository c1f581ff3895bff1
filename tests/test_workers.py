"""Several devices or workers train like one, and a lost worker can rejoin."""

import csv
import json
import os
import socket
import subprocess
import sys
import time

from app.cli import InputError
from app.training import cluster as clusters
from app.training import runs, state

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

WORKER = ROOT / "tests" / "worker.py"
FLAGS = ("--data", "synthetic", "--image-size", 32, "--batch-size", 16, "--limit", 64, "--precision", "float32")


def launch(output, *more, cpus=1, cluster=None, index=0):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    if cluster:
        task = {"cluster": {"worker": cluster}, "task": {"type": "worker", "index": index}}
        environment["TF_CONFIG"] = json.dumps(task)
    command = [sys.executable, WORKER, cpus, *FLAGS, *more, "--output", output]
    log = output.parent.joinpath(f"log-{index}-{time.monotonic_ns()}.txt").open("w")
    return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)


def logs(folder):
    return "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("log-*.txt")))


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def losses(output):
    with (output / "history.csv").open() as file:
        return [(float(row["loss"]), float(row["val_loss"])) for row in csv.DictReader(file)]


def weights(folder, worker=0):
    with np.load(folder / f"weights-{worker}.npz") as file:
        return [file[name] for name in file.files]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process on one device."""
    folder = tmp_path_factory.mktemp("alone")
    assert launch(folder / "output", "--epochs", 2).wait(240) == 0, logs(folder)
    return losses(folder / "output")


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "near"), [("float32", 5e-4), ("mixed_float16", 0.03)])  # as on most GPUs
def test_two_devices_train_like_one(alone, tmp_path, precision, near):
    """MirroredStrategy on two logical CPUs; the batch size is global."""
    process = launch(tmp_path / "output", "--epochs", 2, "--precision", precision, cpus=2)
    assert process.wait(240) == 0, logs(tmp_path)
    np.testing.assert_allclose(losses(tmp_path / "output"), alone, rtol=near)


@pytest.mark.slow
def test_two_workers_train_like_one(alone, tmp_path):
    """MultiWorkerMirroredStrategy over 127.0.0.1; only the chief writes, and both have the same weights."""
    cluster = free_addresses(2)
    processes = [launch(tmp_path / "output", "--epochs", 2, cluster=cluster, index=index) for index in range(2)]
    assert [process.wait(240) for process in processes] == [0, 0], logs(tmp_path)
    np.testing.assert_allclose(losses(tmp_path / "output"), alone, rtol=5e-4)
    for one, other in zip(weights(tmp_path, 0), weights(tmp_path, 1), strict=True):
        np.testing.assert_array_equal(one, other)
    texts = [path.read_text() for path in sorted(tmp_path.glob("log-*.txt"))]
    assert "worker 1 of 2" in texts[0] and "worker 2 of 2" in texts[1]
    assert "open these" in texts[0] and "open these" not in texts[1]


@pytest.mark.slow
def test_a_killed_worker_rejoins(tmp_path):
    """The chief notices and waits for it; both resume after the last finished epoch."""
    cluster, output = free_addresses(2), tmp_path / "output"
    chief, other = (launch(output, "--epochs", 8, cluster=cluster, index=index) for index in range(2))
    end = time.monotonic() + 200
    while not (output / state.PREVIOUS).exists():
        assert chief.poll() is None and time.monotonic() < end, logs(tmp_path)
        time.sleep(0.05)
    other.kill()
    other.wait()
    again = launch(output, "--epochs", 8, "--resume", cluster=cluster, index=1)
    assert [chief.wait(240), again.wait(240)] == [0, 0], logs(tmp_path)
    assert len(losses(output)) == 8 and "resuming after epoch" in logs(tmp_path)
    for one, other in zip(weights(tmp_path, 0), weights(tmp_path, 1), strict=True):
        np.testing.assert_array_equal(one, other)


LOST = """
import sys; sys.path[:0] = [{recipes!r}]
from app.training import cluster
from app import cli
import tensorflow as tf
cluster.RESTARTS = 1

@cli.program(stop_advice="")
def main():
    print("attempt with", sys.argv[1:], flush=True)
    with cluster.restart_if_worker_lost():
        raise tf.errors.InternalError(None, None, "Collective ops is aborted by: Connection reset by peer")

main()
"""


def test_the_wait_for_a_lost_worker_is_bounded(tmp_path):
    script = tmp_path / "lost.py"
    script.write_text(LOST.format(recipes=str(ROOT / "recipes")))
    done = subprocess.run([sys.executable, script, "--flag"], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["attempt with ['--flag']", "attempt with ['--flag', '--resume']"]
    assert done.returncode == 2 and done.stderr.count("\n") == 2 and done.stderr.count("reset by peer") == 2, (
        done.stderr
    )
    assert "restarting to wait for it, 1 of 1" in done.stderr and "lost another worker again and again" in done.stderr


def test_a_local_error_keeps_its_message_and_causes_no_restart():
    text = "cuDNN launch failure : input shape ([16,64,64,3])"
    with pytest.raises(tf.errors.InternalError, match="cuDNN launch failure"), clusters.restart_if_worker_lost():
        raise tf.errors.InternalError(None, None, text)


def test_a_worker_lost_while_the_model_is_built(monkeypatch):
    monkeypatch.setattr(clusters, "RESTARTS", 0)
    config = {"image_size": 32, "epochs": 1, "learning_rate": 0.1, "batch_size": 1}
    run = runs.Run("x", config | dict.fromkeys(("data", "output", "model")), "CPU", clusters.assemble(1))
    with pytest.raises(InputError, match="lost another worker"), run.scope():
        raise tf.errors.UnavailableError(None, None, "failed to connect to all addresses")


UNMENDED = """
import sys; sys.path[:0] = [{recipes!r}]
from app.training import cluster
cluster.patch_keras = lambda: None
sys.argv[0] = {worker!r}
exec(compile(open({worker!r}).read(), {worker!r}, "exec"))
"""


@pytest.mark.slow
def test_keras_still_needs_patching(tmp_path):
    """Fails once Keras' own fit works with several workers: then remove `patch_keras`."""
    cluster, processes = free_addresses(2), []
    script = tmp_path / "unmended.py"
    script.write_text(
        UNMENDED.format(recipes=str(ROOT / "recipes"), worker=str(WORKER)).replace("__file__", repr(str(WORKER)))
    )
    for index in range(2):
        task = {"cluster": {"worker": cluster}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, script, 1, *FLAGS, "--epochs", 1, "--output", tmp_path / "output"]
        processes.append(
            subprocess.Popen(
                list(map(str, command)),
                env={**os.environ, "TF_CONFIG": json.dumps(task)},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert all(process.returncode == 1 for process in processes)
    assert all("PerReplica" in error for error in errors), errors


@pytest.mark.parametrize(
    "config",
    [
        "{",
        '{"cluster": 3}',
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
    ],
)
def test_invalid_cluster(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(InputError, match="TF_CONFIG"):
        clusters.assemble(16)


def test_indivisible_batch_size(tmp_path):
    process = launch(tmp_path / "output", "--batch-size", 15, cpus=2)
    assert process.wait(120) == 2
    assert "--batch-size: 15 cannot be shared by 2 devices" in logs(tmp_path)
