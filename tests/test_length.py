"""How long a training takes without --epochs, and what is said after it."""

import json

from app import checkpoint, report, runs

import own_data
import pytest
import unet_scratch


def length(epochs, limit=None, steps_per_epoch=2):
    """The epochs of a recipe whose default is 45, and of which 400 steps are asked, and what is said."""
    config = {"recipe": "x", "data": "leaves", "image_size": 32, "batch_size": 8, "learning_rate": 0.1, "limit": limit}
    config |= {"epochs": epochs, "frozen_epochs": 1, "output": None, "model": None}
    run = runs.Run(config, default_epochs=45, least_steps=400)
    said = run.choose_length(steps_per_epoch)
    assert run.config["epochs"] == run.settings["epochs"] == run.epochs
    return run.epochs, *said


def test_few_photos_get_more_epochs():
    few = length(None)
    assert few == (200, "epochs: 200, steps: 400, about the least that a training needs", "")
    assert length(None, steps_per_epoch=3)[0] == 134
    assert length(None, steps_per_epoch=207) == (45, "epochs: 45, steps: 9315", "")
    assert length(None, limit=8) == (45, "epochs: 45, steps: 90", "")  # a quick try


def test_too_few_epochs_are_said():
    said = "--epochs 30: only 60 steps; a training needs at least about 400, here 200 epochs"
    assert length(30) == (30, "epochs: 30, steps: 60", said)
    assert length(200)[2] == length(2, steps_per_epoch=200)[2] == length(30, limit=8)[2] == ""


def test_scores_that_say_little(capsys):
    """One line for each class that was hardly learned or tested, and one for few photos."""
    test = {"images": 4, "iou": {"leaf": 0.9, "beetle": 0.03, "moth": None, "fly": 0.8}}
    test["images_with"] = {"leaf": 4, "beetle": 3, "moth": 0, "fly": 1}
    report.print_remarks(test)
    guess, beetle, moth, fly = capsys.readouterr().out.splitlines()
    assert guess.startswith("test photos: 4, so the scores are a guess")
    assert beetle.startswith("beetle: hardly learned, its IoU is 0.030; ") and "--image-size" in beetle
    assert moth.startswith("moth: in 0 of 4 test images") and fly.startswith("fly: in 1 of 4 test images")
    report.print_remarks({"images": 40, "iou": {"leaf": 0.9}, "images_with": {"leaf": 3}})
    assert capsys.readouterr().out == ""


def test_a_training_without_epochs_and_another_one(command_line, tmp_path, monkeypatch):
    """Twenty photos, two steps an epoch. The second training would replace a better model."""
    monkeypatch.setattr(runs, "LEAST_STEPS", 5)
    monkeypatch.setattr(unet_scratch, "EPOCHS", 1)
    own_data.write(tmp_path / "data")
    output = tmp_path / "output"

    def train(*flags):
        flags = ("--data", tmp_path / "data", "--image-size", 32, "--batch-size", 8, "--output", output, *flags)
        status, out, err = command_line(unet_scratch, *flags)
        assert (status, err) == (0, "")
        return out, json.loads((output / "metrics.json").read_text())

    out, metrics = train()
    assert "epochs: 3, steps: 6, about the least" in out.splitlines()[0] and "epoch 3/3" in out
    assert metrics["config"]["epochs"] == metrics["train"]["epochs"] == 3
    assert "test photos: 2, so the scores are a guess" in out
    assert metrics["test"]["images_with"] == {"background": 2, "leaf": 2, "bug": 2}
    assert "nothing to resume" in train("--resume")[0]

    model, kept = output / "unet_scratch.keras", output / "unet_scratch-before.keras"
    earlier = model.read_bytes()
    metrics["test"]["mean_iou"] = 0.9999
    (output / "metrics.json").write_text(json.dumps(metrics))
    out, metrics = train("--epochs", 1, "--seed", 1)
    assert out.splitlines()[1].startswith("--epochs 1: only 2 steps; ")
    assert f"mean IoU {metrics['test']['mean_iou']:.3f}: the model before was better, 1.000; it is kept as" in out
    assert kept.read_bytes() == earlier != model.read_bytes()


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_model_that_is_not_better_goes(tmp_path, capsys, is_folder):
    model = tmp_path / ("model" if is_folder else "x.keras")
    if is_folder:
        model.mkdir()
        (model / "saved_model.pb").touch()
    else:
        model.touch()
    (tmp_path / "metrics.json").write_text('{"test": {"mask_ap": 0.5}}')
    kept = checkpoint.Checkpoint(tmp_path, model, "val_mask_ap")
    kept.keep_earlier_model()
    assert kept.earlier_model.exists() and kept.earlier_score == 0.5
    report.compare(kept, {"mask_ap": 0.4})
    assert "mask AP 0.400: the model before was better, 0.500" in capsys.readouterr().out
    report.compare(kept, {"mask_ap": 0.5})
    assert not kept.earlier_model.exists() and model.exists() and capsys.readouterr().out == ""
