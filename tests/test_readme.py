"""The README: its links resolve, and its figures match the recorded runs."""

import importlib
import itertools
import json
import pathlib
import re

import pytest
from measure import ablation, benchmark, detector, results, start

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FIGURES = (ROOT / "resources" / "README.md").read_text()


def test_pictures_are_small():
    for path in (ROOT / "resources").rglob("*"):
        assert not path.is_file() or path.stat().st_size <= 300_000, path


@pytest.mark.parametrize("page", ["README.md", "resources/README.md", "weights/README.md"])
def test_links_and_pictures_exist(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert links
    for link in links:
        if not link.startswith("https://"):
            path, _, heading = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), link
            if heading:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
                assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link


def has_table(page: str, table: str) -> bool:
    """Whether the page has this table, without more rows."""
    return f"\n\n{table.strip()}\n\n" in page


def test_scores_match_the_recorded_runs():
    assert "\n" + "\n".join(results.recipe_rows()) + "\n\n" in README
    assert has_table(README, results.table())


@pytest.mark.parametrize("recipe", benchmark.RECIPES)
def test_the_recorded_runs_have_the_defaults_of_their_recipe(recipe):
    module = importlib.import_module(recipe)
    run = json.loads((ROOT / "resources" / "runs" / recipe / "metrics.json").read_text())
    defaults = {"epochs": module.EPOCHS, "batch_size": module.BATCH_SIZE, "learning_rate": module.LEARNING_RATE}
    config = {"data": "oxford_iiit_pet", "image_size": 128, "limit": None, "seed": 0, "precision": "auto"} | defaults
    assert run["config"].items() >= config.items() and run["train"]["epochs"] == module.EPOCHS
    (expected,) = re.findall(r"^Expect:  test mean IoU (\S+) at 128 px\.$", module.__doc__, re.M)
    assert f"{run['test']['mean_iou']:.3f}" == expected


def test_ablation_matches_the_recorded_runs():
    assert has_table(FIGURES, ablation.table(ROOT / "resources" / "ablation"))
    for name, seed in itertools.product(ablation.VARIANTS, ablation.SEEDS):
        assert (ROOT / "resources" / "ablation" / f"{name}-{seed}" / "history.csv").exists()


def test_speed_matches_the_recorded_measurement():
    assert has_table(FIGURES + "\n", benchmark.table(ROOT / "resources" / "benchmark"))


def test_few_photos_match_the_recorded_runs():
    assert has_table(README, start.table(json.loads((ROOT / "resources" / "start.json").read_text())))


def test_detectors_match_the_recorded_measurement():
    result = json.loads((ROOT / "resources" / "detector.json").read_text())
    assert has_table(README, detector.table(result))
    weights = (ROOT / "weights" / "README.md").read_text()
    assert has_table(weights, detector.details(result))
    for count, photos in result["small"]["alarms"].values():
        assert f"{count} of {photos}" in weights


def test_commands_without_make_match_the_makefile():
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    (section,) = re.findall(r"<details><summary>The same without make.*?</summary>(.+?)</details>", README, re.S)
    commands = [line for line in section.splitlines() if line.startswith(".venv/bin/")]
    assert len(commands) > 6
    for command in commands:
        assert command.replace("pip install ", "") in makefile.replace("pip install -q ", ""), command
