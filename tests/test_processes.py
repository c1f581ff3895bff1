"""Several processes train like one; a lost or wrong one ends the others in one line."""

import json
import os
import signal
import socket
import sys
import time

from app import device, processes, report
from app.cli import InputError

import numpy as np
import pytest
from conftest import ROOT, needs_jax, start_process, wait_for

FLAGS = ("--data", "synthetic", "--image-size", 32, "--batch-size", 8, "--limit", 20, "--precision", "float32")

# A program that only joins the others, with less patience than a recipe.
PROGRAM = """
import os, sys, time
sys.path.insert(0, {recipes!r})
from app import cli, processes
processes.WAIT, processes.SILENCE = {wait}, 10

@cli.program()
def main():
    team = processes.join()
    print(f"process {{team.number + 1}} of {{team.count}}", flush=True)
    {work}
    team.end()

main()
"""


def free_port():
    with socket.create_server(("", 0)) as one:
        return one.getsockname()[1]


def environment(**variables):
    """This process' environment with JAX, and with these variables alone to name the processes."""
    others = {name: value for name, value in os.environ.items() if not name.startswith((processes.PREFIX, "TF_CONFIG"))}
    return others | {"KERAS_BACKEND": "jax"} | {name: str(value) for name, value in variables.items()}


def of_process(number, count, port):
    variables = {processes.ADDRESSES: f"127.0.0.1:{port}", processes.COUNT: count, processes.NUMBER: number}
    return environment(**variables if count > 1 else {})


def start(env, work="", wait=60):
    code = PROGRAM.format(recipes=str(ROOT / "recipes"), work=work, wait=wait)
    return start_process([sys.executable, "-c", code], env=env)


def finish(started, timeout=120):
    """Waits for processes; returns status, output and errors of each."""
    outputs = [process.communicate(timeout=timeout) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, outputs, strict=True)]


def join(*numbers, count=2, work="", port=None, wait=60):
    """Runs the program with these numbers at once."""
    port = port or free_port()
    return finish([start(of_process(number, count, port), work, wait) for number in numbers])


def in_one_line(result, status, *words, program="-c"):
    returncode, _, err = result
    assert returncode == status and err.count("\n") == 1 and err.startswith(f"{program}: "), result
    assert all(word in err for word in words), err


@needs_jax
@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_processes_find_each_other_and_a_lost_one_ends_the_others(lost):
    """Within SILENCE and a few seconds, also while a process computes something that is no collective operation."""
    work = f"team.agree({{'epochs': 1}}); print('agreed'); team.number != {lost} or os._exit(9); time.sleep(60)"
    began = time.monotonic()
    results = join(0, 1, work=work)
    assert results[lost][0] == 9 and time.monotonic() - began < 45
    in_one_line(results[1 - lost], 1, processes.LOST)
    assert f"process {2 - lost} of 2\n" in results[1 - lost][1] and "agreed\n" in results[1 - lost][1]


@needs_jax
def test_other_flags():
    facts = "team.agree({'recipe': 'x', 'epochs': team.number, 'seed': 0})"
    for result in join(0, 1, work=facts):
        in_one_line(result, 2, "the processes differ in epochs;", "same flags")


@needs_jax
@pytest.mark.slow
def test_srun_needs_no_variables():
    """The variables that Slurm sets in the processes of srun are enough; here this machine is its only node."""
    job = {"SLURM_JOB_ID": 77, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": 2, "SLURM_STEP_NUM_TASKS": 2}
    tasks = [start(environment(**job, SLURM_PROCID=number, SLURM_LOCALID=number)) for number in range(2)]
    for number, result in enumerate(finish(tasks)):
        assert result == (0, f"process {number + 1} of 2\n", "")


@needs_jax
@pytest.mark.slow
def test_a_missing_process():
    port = free_port()
    in_one_line(join(0, port=port, wait=4)[0], 2, "waited 4 s for all 2 processes", processes.ADDRESSES)
    in_one_line(join(1, port=port, wait=4)[0], 2, "waited 4 s for all 2 processes")  # nobody listens


@needs_jax
@pytest.mark.slow
def test_two_processes_of_one_number():
    first, *others = sorted(join(0, 1, 1, count=3, wait=15), key=lambda result: "has the number" not in result[2])
    in_one_line(first, 2, "another process has the number 1 too", processes.NUMBER)
    for result in others:
        in_one_line(result, 2, "waited 15 s")
    with socket.create_server(("", 0)) as other:  # as a second process 0 has
        port = other.getsockname()[1]
        in_one_line(join(0, port=port)[0], 2, f":{port} cannot be opened", f"{processes.NUMBER}=0")


@needs_jax
@pytest.mark.slow
def test_processes_with_different_devices():
    """One has two GPUs, the other four, as far as CPUs can show it."""
    devices = "os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={2 + 2 * team.number}'"
    for result in join(0, 1, work=f"{devices}; from app import device; device.start()"):
        in_one_line(result, 2, "the processes have different numbers of devices, this one ", " of 6")


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_others_can_be_stopped(sent):
    process = start(of_process(0, 2, free_port()), wait=100)
    time.sleep(12)
    process.send_signal(sent)
    (result,) = finish([process], timeout=30)
    in_one_line(result, 130, "stopped; ")


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("faulty", [0, 1])
def test_an_error_in_one_process_ends_all_at_once(faulty):
    work = f"team.number == {faulty} and {{}}['our own error']; team.any(True); time.sleep(60)"
    results = join(0, 1, work=work)
    assert results[faulty][0] == 1 and "KeyError: 'our own error'" in results[faulty][2]
    in_one_line(results[1 - faulty], 1, processes.LOST)


@pytest.mark.parametrize(
    ("gpus", "tasks", "nodes", "expected"),
    [
        (4, 2, 2, [0, 1, 2, 3]),  # one task per machine
        (1, 8, 2, [0]),  # --gpus-per-task=1
        (4, 8, 2, None),  # one task per GPU, each of which sees all
        (0, 2, 2, None),
    ],
)
def test_the_gpus_of_a_slurm_task(monkeypatch, gpus, tasks, nodes, expected):
    monkeypatch.setattr(device, "driver_gpus", lambda: [device.Gpu("GPU", (9, 0))] * gpus)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(tasks))
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", str(nodes))
    assert processes._devices_of_task() == expected


@pytest.mark.parametrize(
    ("address", "count", "number", "words"),
    [
        ("", "2", "", f"{processes.ADDRESSES}= {processes.COUNT}=2 {processes.NUMBER}= is not valid"),
        ("one", "2", "0", "=one .* is not valid"),
        ("one:99999", "2", "0", "=one:99999 .* is not valid"),
        ("one:1", "two", "0", f"{processes.COUNT}=two .* is not valid"),
        ("one:1", "2", "2", f"{processes.NUMBER}=2 is not valid"),
        ("a:1,b:1", "2", "0", "train with JAX only"),
    ],
)
def test_invalid_settings(monkeypatch, address, count, number, words):
    for name, value in ((processes.ADDRESSES, address), (processes.COUNT, count), (processes.NUMBER, number)):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        processes.join()


@pytest.mark.parametrize("cluster", [{"worker": ["a:1", "b:1"]}, {"chief": ["a:1"], "worker": ["b:1"]}])
def test_a_cluster_of_tensorflow_is_refused(monkeypatch, cluster):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(InputError, match="TF_CONFIG: several machines train with JAX") as error:
        processes.join()
    assert f"{processes.ADDRESSES}=a:1 {processes.COUNT}=2 {processes.NUMBER}=0 to 1" in str(error.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"TF_CONFIG": '{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}'},  # as in the cloud
        {"TF_CONFIG": '{"cluster": 3}'},
        {"TF_CONFIG": '"invalid"'},
        {processes.ADDRESSES: "a:1", processes.COUNT: "1", processes.NUMBER: "0"},
    ],
)
def test_one_process_needs_no_other(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    team = processes.join()
    team.agree({"epochs": 1})
    assert team == (0, 1) and team.is_first and not team.any(False)


def train(output, count, *more):
    """Starts a training in several processes, or in one."""
    port = free_port()
    command = [sys.executable, ROOT / "recipes" / "unet_scratch.py", *FLAGS, *more, "--output", output]
    return [start_process(command, env=of_process(number, count, port)) for number in range(count)]


def outputs(started):
    results = finish(started, timeout=550)
    assert all((status, err) == (0, "") for status, _, err in results), results
    return [out for _, out, _ in results]


def history(output):
    return report.read_history(output / "history.csv").history


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "output"
    outputs(train(output, 1, "--epochs", 5))
    return output


def same(output, alone, epochs):
    assert len(history(output)["loss"]) == 5
    for name, values in history(alone).items():
        np.testing.assert_allclose(history(output)[name][:epochs], values[:epochs], atol=1e-4, err_msg=name)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_like_one(alone, tmp_path, count):
    """Validation included, whose last batch is not full; only the first process writes and scores."""
    texts = outputs(train(tmp_path / "output", count, "--epochs", 5))
    for number, text in enumerate(texts):
        assert f"process {number + 1} of {count}" in text
        assert ("open these" in text) == (number == 0)
    same(tmp_path / "output", alone, epochs=3)
    tests = [json.loads((folder / "metrics.json").read_text())["test"] for folder in (tmp_path / "output", alone)]
    assert tests[0]["iou"] == pytest.approx(tests[1]["iou"], abs=5e-3)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_other_and_both_resume(alone, tmp_path, lost):
    output = tmp_path / "output"
    started = train(output, 2, "--epochs", 5)
    history = output / "history.csv"
    wait_for(lambda: history.exists() and len(history.read_text().splitlines()) > 2, started[0], 500)
    started[lost].send_signal(signal.SIGKILL)
    began = time.monotonic()
    (result,) = finish([started[1 - lost]], timeout=100)
    assert time.monotonic() - began < 60
    in_one_line(result, 1, processes.LOST, program="unet_scratch.py")
    texts = outputs(train(output, 2, "--epochs", 5, "--resume"))
    assert all("resuming after epoch" in text for text in texts)
    same(output, alone, epochs=5)


@needs_jax
@pytest.mark.slow
def test_a_stopped_process_ends_the_other(tmp_path):
    started = train(tmp_path / "output", 2, "--epochs", 50)
    history = tmp_path / "output" / "history.csv"
    wait_for(history.exists, started[0], 500)
    started[1].send_signal(signal.SIGTERM)
    assert started[1].wait(60) == 130
    (result,) = finish([started[0]], timeout=60)
    in_one_line(result, 1, processes.LOST, program="unet_scratch.py")
