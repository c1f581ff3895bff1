"""A small Mask R-CNN from the command line: trained on own annotations, used, stopped and resumed."""

import csv
import json
import signal
import sys

from app import models
from app.detect import label_map

import mask_rcnn_hub
import mask_rcnn_train
import pytest
from conftest import ROOT, start_process, wait_for
from own_data import change, make, write
from PIL import Image

FLAGS = ("--image-size", 64, "--batch-size", 4, "--backbone-weights", "none")
FILES = ["average_precision.png", "history.csv", "loss.png", "metrics.json", "model", "mosaic.png"]


def rows(folder):
    try:
        return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    except FileNotFoundError:
        return []


def test_train_and_use(command_line, tmp_path):
    folder, output = write(tmp_path / "bugs", "a file a split"), tmp_path / "output"
    flags = ("--data", folder, *FLAGS, "--epochs", 2, "--output", output)
    status, out, err = command_line(mask_rcnn_train, *flags)
    assert (status, err) == (0, "")
    assert "64 px: 14 train, 3 validation, 3 test | CPU" in out.splitlines()[0]
    assert sorted(path.name for path in output.iterdir()) == FILES
    assert [row["epoch"] for row in rows(output)] == ["1", "2"] and "val_mask_ap" in rows(output)[0]
    assert min(Image.open(output / "mosaic.png").size) > 300
    metrics = json.loads((output / "metrics.json").read_text())
    assert {"box_ap", "box_ap50", "mask_ap", "mask_ap50"} < set(metrics["test"]) and metrics["train"]["epochs"] == 2
    model = output / "model"
    labels = model / "label_map.pbtxt"
    assert label_map.read(labels) == {3: "leaf", 90: "bug"}
    assert models.origin(model)["data"] == str(folder)

    flags = ("--model", model, "--min-score", 0, "--output", tmp_path / "found")
    status, out, err = command_line(mask_rcnn_hub, folder / "images" / "scene 19.png", *flags)
    assert (status, err) == (0, "") and "56 x 40" in out and ("bug" in out or "leaf" in out)
    found = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert found and {one["category_id"] for one in found} <= {3, 90}
    labels.write_text("item { id: 80 display_name: 'toaster' }")
    status, out, err = command_line(mask_rcnn_hub, folder / "images" / "scene 19.png", *flags)
    assert (status, err) == (0, "") and "label_map.pbtxt: it has no names for the class ids " in out


@pytest.mark.slow
def test_a_stopped_run_resumes(command_line, tmp_path):
    """With the epochs that were finished; random samples of the library are others, so the next epochs differ."""
    folder, output = write(tmp_path / "bugs", "a file a split"), tmp_path / "output"
    flags = ("--data", folder, *FLAGS, "--epochs", 3, "--output", output)
    history, state = output / "history.csv", output / "state.npz"

    def has_finished_an_epoch():  # the state is written after the history
        is_there = history.exists() and state.exists() and rows(output)
        return is_there and state.stat().st_mtime_ns >= history.stat().st_mtime_ns

    process = start_process([sys.executable, ROOT / "recipes" / "mask_rcnn_train.py", *flags])
    wait_for(has_finished_an_epoch, process, 500)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "stopped; finished epochs are kept" in err.splitlines()[-1]
    finished = rows(output)
    status, out, err = command_line(mask_rcnn_train, *flags, "--resume", "--seed", 1)
    assert status == 2 and "--seed was 0 and is 1" in err and err.count("\n") == 1
    status, out, err = command_line(mask_rcnn_train, *flags, "--resume")
    assert (status, err) == (0, "") and f"resuming after epoch {len(finished)}" in out
    assert len(rows(output)) == 3 and rows(output)[: len(finished)] == finished
    assert sorted(path.name for path in output.iterdir()) == FILES
    status, out, _ = command_line(mask_rcnn_train, *flags, "--resume")
    assert status == 0 and "nothing to resume" in out


def test_unusable_input(command_line, tmp_path):
    bugs = write(tmp_path / "bugs")
    change(bugs / "annotations.json", lambda content: content["images"][1].update(width=50))
    for flags, words in (
        (("--image-size", 100), "--image-size: 100 is not a multiple of 64"),
        (("--data", make(tmp_path / "masks", 3)), "masks do not separate instances"),
        (("--data", tmp_path / "nowhere"), "no such data set or folder"),
        (("--check-data",), "--check-data: needs a folder"),
        (("--data", bugs), "scene 1.png has 56 x 40 pixels, not 50 x 40"),
    ):
        output = tmp_path / "output"
        status, _, err = command_line(mask_rcnn_train, "--backbone-weights", "none", *flags, "--output", output)
        assert status == 2 and err.count("\n") == 1 and words in err, err
        assert not output.exists()
