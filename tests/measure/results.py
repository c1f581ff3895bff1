"""The README's tables of the recipes: `python tests/measure/results.py` prints them from resources/runs/.

resources/runs/RECIPE/ holds metrics.json and history.csv of a training with the recipe's defaults at 128 px, and
edges.json, the scores that edges.py measured with its model. resources/runs/shipped/ holds those of the shipped
weights.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import benchmark
import gpu

RUNS = benchmark.ROOT / "resources" / "runs"
GPU = benchmark.ROOT / "resources" / gpu.OUTPUT.name  # if gpu.py has run
GPU_RATE = 5e12  # operations per second of a small GPU in half precision, assumed
COLUMNS = "epochs | pixel accuracy | mean IoU | pet IoU with border | pet IoU without border | outline F"


def recipe_rows() -> list[str]:
    """Rows of the README's table of recipes, a column for each."""
    runs = [_read(recipe, "metrics") for recipe in benchmark.RECIPES]
    rows = {
        "mean IoU": [f"{run['test']['mean_iou']:.3f}" for run in runs],
        "minutes on two CPU cores": [f"{run['train']['seconds'] / 60:.0f}" for run in runs],
    }
    rows |= gpu_row()
    return [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def gpu_row() -> dict[str, list[str]]:
    """The row for GPUs: measured by gpu.py if its results are in resources/, otherwise estimated."""
    if not GPU.exists():
        return {"estimated minutes on a GPU, at 256 px": [f"{gpu_minutes(one):.0f}" for one in benchmark.RECIPES]}
    results = json.loads(GPU.read_text())
    title = f"minutes on one {gpu.device_name(results)}, at 256 px"
    return {title: [f"{gpu.minutes(results, one, 256):.0f}" for one in benchmark.RECIPES]}


def table() -> str:
    """The Markdown table of results: at 128 px, and through --predict at the photos' own size."""
    lines = [f"| | {COLUMNS} |", "|---" * 7 + "|"]
    for recipe in benchmark.RECIPES:
        run = _read(recipe, "metrics")
        figures = [f"{run['test'][name]:.3f}" for name in ("pixel_accuracy", "mean_iou", "pet_iou_binary")]
        lines.append(f"| {recipe} | {run['train']['epochs']} | {' | '.join(figures)} | {_edges(recipe)} |")
    lines.append(f"| the weights in this repository, at 224 px |  |  |  |  | {_edges('shipped')} |")
    return "\n".join(lines) + "\n"


def gpu_minutes(recipe: str) -> float:
    """An estimate for the recipe's defaults at 256 px, from the operations of its convolutions."""
    import app  # noqa: F401  before TensorFlow

    train = _read(recipe, "metrics")["train"]
    operations = benchmark.operations(benchmark.build(recipe, 256))
    return operations * train["images"] * train["epochs"] / GPU_RATE / 60


def _edges(run: str) -> str:
    figures = _read(run, "edges")
    return f"{figures['border left out: IoU']:.3f} | {figures['outline: F']:.3f}"


def _read(run: str, name: str) -> dict:
    return json.loads((RUNS / run / f"{name}.json").read_text())


if __name__ == "__main__":
    print("\n".join([*recipe_rows(), "", table()]))
