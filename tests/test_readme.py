"""The README: its links resolve, and its figures match the recorded runs."""

import json
import pathlib
import re

import pytest
from measure import ablation, detector, start

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "weights/README.md"])
def test_links_and_pictures_exist(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert links
    headings = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)]
    for link in links:
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("https://"):
            assert (ROOT / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("path", sorted(ROOT.glob("resources/runs/*/metrics.json")), ids=lambda path: path.parent.name)
def test_scores_match_the_recorded_runs(path):
    metrics = json.loads(path.read_text())
    test, train = metrics["test"], metrics["train"]
    figures = [str(train["epochs"]), f"{train['seconds'] / 60:.0f}"]
    figures += [f"{test[name]:.3f}" for name in ("pixel_accuracy", "mean_iou", "pet_iou_binary")]
    assert f"| {path.parent.name} | {' | '.join(figures)} |" in README


@pytest.mark.skipif(not (ROOT / "resources" / "ablation").exists(), reason="no ablation has been measured")
def test_ablation_matches_the_recorded_runs():
    assert ablation.table(ROOT / "resources" / "ablation") in README


def test_few_photos_match_the_recorded_runs():
    assert start.table(json.loads((ROOT / "resources" / "start.json").read_text())) in README


def test_detectors_match_the_recorded_measurement():
    result = json.loads((ROOT / "resources" / "detector.json").read_text())
    assert detector.table(result) in README
    weights = (ROOT / "weights" / "README.md").read_text()
    assert detector.details(result) in weights
    for count, photos in result["small"]["alarms"].values():
        assert f"{count} of {photos}" in weights


def test_commands_without_make_match_the_makefile():
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    (section,) = re.findall(r"<details><summary>The same without make</summary>(.+?)</details>", README, re.S)
    commands = [line for line in section.splitlines() if line.startswith(".venv/bin/")]
    assert len(commands) > 6
    for command in commands:
        assert command.replace("pip install ", "") in makefile.replace("pip install -q ", ""), command
