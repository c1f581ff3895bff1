"""Runs that are killed, stopped, refused or out of space lose nothing."""

import csv
import fcntl
import functools
import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from app import checkpoint
from app.cli import InputError

import keras
import networks
import numpy as np
import pytest
import unet_scratch
from conftest import ROOT, start_process, wait_for
from PIL import Image

FLAGS = ("--data", "synthetic", "--image-size", 32, "--batch-size", 8, "--limit", 16, "--precision", "float32")
LARGER = ("--image-size", 64, "--limit", 48)  # unet_scratch then has dropout, whose random state must be saved too
EPOCHS = {name: ("--epochs", 4, *networks.flags(name)) for name in networks.MODULES}
EPOCHS["unet_scratch"] = ("--epochs", 6)  # so that a run stopped after three has not finished
EPOCHS["unet_mobilenetv2"] = ("--epochs", 4, "--frozen-epochs", 2, "--backbone-weights", "RANDOM")


@functools.cache
def random_encoder():
    """A folder with random MobileNetV2 weights, so that unet_mobilenetv2 trains in two stages."""
    folder = tempfile.TemporaryDirectory()
    keras.applications.MobileNetV2(include_top=False, weights=None).save_weights(f"{folder.name}/random.weights.h5")
    return folder


def command(recipe, output, *more):
    flags = (*FLAGS, *EPOCHS[recipe], "--output", output, *more)
    flags = [f"{random_encoder().name}/random.weights.h5" if flag == "RANDOM" else flag for flag in flags]
    return [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *map(str, flags)]


def run(recipe, output, *more, **options):
    return subprocess.run(command(recipe, output, *more), capture_output=True, text=True, timeout=300, **options)


def start(recipe, output, *more):
    return start_process(command(recipe, output, *more))


def epochs(folder):
    try:
        return len((folder / "history.csv").read_text().splitlines()) - 1
    except FileNotFoundError:
        return 0


def has_begun(folder):
    return (folder / ".running").exists()


def check_whole(folder):
    """Checks that every file of a run can be read; partial ones are hidden files."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            rows = list(csv.reader(path.read_text().splitlines()))
            assert len({len(row) for row in rows}) == 1
        elif path.suffix == ".keras":
            keras.saving.load_model(path)
        elif path.suffix == ".npz":
            with np.load(path) as file:
                assert all(file[name].size for name in file.files)


def same_runs(one, other):
    histories = [checkpoint.read_history(folder / "history.csv").history for folder in (one, other)]
    assert histories[0].keys() == histories[1].keys()
    for name in histories[0]:
        np.testing.assert_allclose(histories[0][name], histories[1][name], atol=6e-5, err_msg=name)
    tests = [json.loads((folder / "metrics.json").read_text())["test"] for folder in (one, other)]
    assert tests[0]["iou"] == pytest.approx(tests[1]["iou"], abs=6e-5)
    assert tests[0]["pixel_accuracy"] == pytest.approx(tests[1]["pixel_accuracy"], abs=6e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of each recipe, made on demand."""
    folder, made = tmp_path_factory.mktemp("whole"), {}

    def get(recipe):
        if recipe not in made:
            done = run(recipe, folder / recipe, *LARGER)
            assert done.returncode == 0, done.stderr
            made[recipe] = folder / recipe
        return made[recipe]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("recipe", EPOCHS)
def test_a_run_killed_again_and_again_matches_an_uninterrupted_one(recipe, whole, tmp_path):
    """SIGKILL at random moments, in both stages of unet_mobilenetv2 and while files are written."""
    rng = random.Random(recipe)
    output = tmp_path / recipe
    for finished in (0, 1, 2, 3):
        process = start(recipe, output, *LARGER, *(("--resume",) if finished else ()))
        wait_for(lambda finished=finished: epochs(output) > finished or (not finished and has_begun(output)), process)
        time.sleep(rng.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        check_whole(output)
    done = run(recipe, output, *LARGER, "--resume")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    same_runs(output, whole(recipe))
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in whole(recipe).iterdir())


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run stopped by Ctrl-C after three epochs or more: its folder, exit status and last words."""
    output = tmp_path_factory.mktemp("interrupted") / "output"
    process = start("unet_scratch", output)
    wait_for(lambda: epochs(output) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return output, process.returncode, err


def resume(command_line, interrupted, tmp_path, *more):
    output = tmp_path / "output"
    if not output.exists():
        shutil.copytree(interrupted[0], output)
    return command_line(unet_scratch, *FLAGS, *EPOCHS["unet_scratch"], "--output", output, "--resume", *more)


def test_a_stopped_run_says_how_to_resume(command_line, interrupted, tmp_path):
    _, status, err = interrupted
    assert status == 130
    assert err.count("\n") == 1 and "--resume" in err and "Traceback" not in err, err
    status, out, err = resume(command_line, interrupted, tmp_path)
    assert (status, err) == (0, "")
    assert re.search(r"resuming after epoch [2-5]", out)
    assert "epoch 6/6" in out and "epoch 2/6" not in out and epochs(tmp_path / "output") == 6
    status, out, _ = resume(command_line, interrupted, tmp_path)
    assert status == 0 and "is finished" in out and "epoch 1/" not in out


DROPPED_BY_PYTHON = """
    class Dying:
        def __del__(self):
            stop()

    Dying()
"""
CAUGHT_BY_A_LIBRARY = """
    try:
        stop()
    except:
        pass
"""
CHANGED_BY_C_CODE = """
    try:
        stop()
    except KeyboardInterrupt as error:
        raise SystemError("returned a result with an exception set") from error
"""
PROGRAM = """
import os, signal, time
from app import cli

def stop():
    os.kill(os.getpid(), signal.{sent})
    time.sleep(1)

@cli.program()
def main():
    {stopped}
    time.sleep(60)

main()
"""


@pytest.mark.parametrize(
    ("sent", "stopped"),
    [("SIGINT", DROPPED_BY_PYTHON), ("SIGTERM", CAUGHT_BY_A_LIBRARY), ("SIGINT", CHANGED_BY_C_CODE)],
    ids=["dropped", "caught", "changed"],
)
def test_a_stop_is_never_ignored(sent, stopped):
    """Python drops exceptions in `__del__` and in the callbacks of weak references; Keras catches all while saving."""
    code = PROGRAM.format(sent=sent, stopped=stopped.strip())
    process = start_process([sys.executable, "-c", code], cwd=ROOT / "recipes")
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out) == (130, "")
    assert err.count("\n") == 1 and "--resume" in err, err


def test_a_second_run_into_the_same_folder_is_refused(command_line, tmp_path):
    (tmp_path / "output").mkdir()
    with (tmp_path / "output" / ".running").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the first run does
        for more in ((), ("--resume",)):
            status, _, err = command_line(unet_scratch, *FLAGS, "--output", tmp_path / "output", *more)
            assert status == 2 and err.count("\n") == 1, err
            assert "another run is writing" in err


def test_changed_flags_are_refused(command_line, interrupted, tmp_path):
    for flags, words in (
        (("--learning-rate", 0.5), "--learning-rate was 0.001 and is 0.5"),
        (("--epochs", 9), "--epochs was 6 and is 9"),
        (("--seed", 3), "--seed was 0 and is 3"),
    ):
        status, _, err = resume(command_line, interrupted, tmp_path, *flags)
        assert status == 2 and err.count("\n") == 1 and words in err, err
    with pytest.raises(InputError, match="of another network"):
        checkpoint.restore(unet_scratch.build_model(32, 3).variables, [np.zeros(3)])


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-5000] + b"x" * 5000, None],
    ids=["cut", "empty", "overwritten", "of another version"],
)
def test_an_unreadable_state_is_a_one_line_error(command_line, interrupted, tmp_path, damage):
    shutil.copytree(interrupted[0], tmp_path / "output")
    path = tmp_path / "output" / checkpoint.STATE
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        np.savez(path, facts=np.array('{"about": {}}'))
    status, _, err = resume(command_line, interrupted, tmp_path)
    assert status == 2 and err.count("\n") == 1 and "state.npz" in err and "start again without --resume" in err


def limited(size):
    """Simulates a full disk for a child process: no file may grow beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_a_one_line_error_and_loses_nothing(interrupted, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(interrupted[0], output)
    before = {path.name: path.read_bytes() for path in output.glob("[!.]*") if path.suffix in (".npz", ".keras")}
    full = run("unet_scratch", output, "--resume", preexec_fn=limited(2**20))
    assert full.returncode == 1 and full.stderr.count("\n") == 1 and "Traceback" not in full.stderr, full.stderr
    check_whole(output)
    assert {name: (output / name).read_bytes() for name in before} == before
    assert not [path for path in output.iterdir() if path.name.startswith(".") and path.name != ".running"]


@pytest.mark.slow
def test_a_full_file_system(interrupted, tmp_path):
    """The same on a small file system, if this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in interrupted[0].iterdir()) + 3 * 2**20
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        output = disk / "output"
        shutil.copytree(interrupted[0], output)
        full = run("unet_scratch", output, "--resume")
        assert full.returncode == 1 and full.stderr.count("\n") == 1, full.stderr
        assert "No space left" in full.stderr
        check_whole(output)
        assert checkpoint.read_state(output, {})[0]["rows"]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_weights_become_unwritable(command_line, monkeypatch, tmp_path):
    """weights/ is deleted during the run and replaced by a file, into which not even root can write."""
    weights = tmp_path / "weights"
    write_state = checkpoint.write_state

    def save_and_take_away(*args):
        write_state(*args)
        shutil.rmtree(weights)
        weights.write_text("no folder any more")

    monkeypatch.setattr(checkpoint, "write_state", save_and_take_away)
    monkeypatch.setattr("app.flags.ROOT", tmp_path)
    flags = ("--data", "synthetic", "--image-size", 32, "--epochs", 6, "--batch-size", 8, "--limit", 16)
    status, _, err = command_line(unet_scratch, *flags)
    assert status == 1 and err.count("\n") == 1 and "weights" in err, err
    assert checkpoint.read_state(tmp_path / "output" / "unet_scratch-synthetic", {})[0]["rows"]


@networks.first_recipe_fast
def test_resume_in_a_new_folder_starts_a_run(command_line, tmp_path, name):
    """So that a job script can always pass --resume."""
    flags = ("--data", "synthetic", "--image-size", 32, "--batch-size", 8, "--limit", 8, "--epochs", 1)
    flags += networks.flags(name)
    status, out, err = command_line(networks.MODULES[name], *flags, "--output", tmp_path / name, "--resume")
    assert (status, err) == (0, "") and "no epoch is finished yet" in out
    assert not (tmp_path / name / checkpoint.STATE).exists() and not (tmp_path / name / ".running").exists()
