"""The command line that all training recipes share."""

import argparse
import pathlib
import re
from collections.abc import Callable

from app.cli import InputError, Parser, positive, whole
from app.datasets import pets
from app.files import ROOT, check_writable, shipped
from app.models import SIZE_STEP

TRAINED_FACTOR = 0.3  # of the learning rate with --weights; a recipe with frozen epochs lowers it after them itself
BACKBONE_WEIGHTS = "imagenet (default: from weights/, downloaded the first time), none, or a file"
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")


def parse(
    recipe: str,
    doc: str,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    frozen_epochs: int | None = None,
    has_encoder: bool = False,
) -> argparse.Namespace:
    """Reads the command line.

    Args:
      recipe: names the output folder and the trained model.
      doc: the recipe's docstring, shown by --help.
      epochs, batch_size, learning_rate, frozen_epochs: the recipe's defaults; None leaves --frozen-epochs out.
      has_encoder: whether the recipe has a pretrained encoder, and so --backbone-weights.
    Returns:
      All flags, and `model`: the path of the trained model. With the default data and output that is
      weights/RECIPE.keras, with other data weights/RECIPE-DATA.keras; with --output it is in that folder.
    Raises:
      InputError: for a wrong flag, or a folder that cannot be written to.
    """
    parser = Parser(doc)
    add = parser.add_argument
    add("--data", default=pets.NAME, metavar="D", help=f"{pets.NAME} (default), synthetic, or a folder")
    add("--image-size", type=image_size(SIZE_STEP), default=256, metavar="N", help="pixels a side (default 256)")
    add_common(parser, recipe, epochs, batch_size)
    has_frozen_epochs = frozen_epochs is not None
    if has_frozen_epochs:
        text = f"the first K epochs with a pretrained encoder frozen, default {frozen_epochs}"
        add("--frozen-epochs", type=whole, default=frozen_epochs, metavar="K", help=text)
    if has_encoder:
        add("--backbone-weights", metavar="W", help=BACKBONE_WEIGHTS)
    further_rate = learning_rate if has_frozen_epochs else learning_rate * TRAINED_FACTOR
    text = f"default {learning_rate}" + ("" if has_frozen_epochs else f", with --weights {further_rate:.2g}")
    add("--learning-rate", type=positive(float), metavar="X", help=text)
    add("--precision", choices=PRECISIONS, default="auto", help="auto (default): the fastest one for this device")
    text = "segment your own photos, folders of them, or videos, instead of training"
    add("--predict", nargs="+", type=pathlib.Path, metavar="PATH", help=text)
    text = "with --predict: only part I of N, without what is done already"
    add("--shard", type=_shard, metavar="I/N", help=text)
    text = (
        f"trained weights: with --predict the ones to use (default weights/{recipe}.keras, with other data "
        f"{recipe}-DATA.keras), otherwise the ones to start from; shipped: those that come with the project"
    )
    add("--weights", type=pathlib.Path, metavar="FILE", help=text)
    args = parser.parse_args()
    if str(args.weights) == "shipped":
        args.weights = shipped(recipe)
        if not args.weights.exists():
            raise InputError(f"--weights shipped: none come with {recipe}; name a FILE, or leave the flag out")
    is_further = args.weights and not args.predict and not args.check_data
    if args.learning_rate is None:
        args.learning_rate = further_rate if is_further else learning_rate
    if has_encoder and is_further and args.backbone_weights not in (None, "none"):
        raise InputError("--backbone-weights: the encoder's weights are in --weights too; leave one of the two out")
    if has_encoder and args.backbone_weights is None:
        args.backbone_weights = "none" if is_further else "imagenet"
    if args.shard and not args.predict:
        raise InputError("--shard: only with --predict; several machines train together with JAX, see the README")
    if args.check_data and args.predict:
        raise InputError("--check-data: only checks; leave --predict out")
    name = place(args, recipe, ".keras", f"{recipe}.keras")
    if args.predict and args.model.parent == ROOT / "weights":
        if args.weights is None and name != recipe:
            args.weights = args.model  # of that data
        # Beside what the training of these weights wrote.
        trained = args.weights.stem if args.weights and args.weights.stem.startswith(f"{recipe}-") else name
        args.output = ROOT / "output" / trained / "predictions"
    if is_further:
        args.weights = args.weights.resolve()
        if args.weights == args.model:
            raise InputError(f"--weights {args.weights}: this training would replace it; name another --output")
    if not args.check_data:
        check_writable(args.output, "--output")
    if not (args.predict or args.check_data):
        check_writable(args.model.parent, "weights folder")
    return args


def add_common(parser: Parser, recipe: str, epochs: int, batch_size: int) -> None:
    """Adds the flags of every training."""
    add = parser.add_argument
    add("--epochs", type=positive(int), default=epochs, metavar="N", help=f"default {epochs}")
    add("--batch-size", type=positive(int), default=batch_size, metavar="N", help=f"default {batch_size}")
    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its data (default: its own folder)")
    add("--limit", type=positive(int), metavar="N", help="use at most N images of each split, for a quick try")
    add("--seed", type=whole, default=0, metavar="N", help="of the split, the order, the augmentation, the weights")
    text = f"default output/{recipe}, with other data output/{recipe}-DATA"
    add("--output", type=pathlib.Path, metavar="DIR", help=text)
    add("--resume", action="store_true", help="go on where an interrupted run stopped")
    add("--check-data", action="store_true", help="only read the folder given with --data, and report what is in it")


def place(args: argparse.Namespace, recipe: str, ending: str = "", beside: str = "model") -> str:
    """Completes `output`, adds `model`, the path of the trained model, and returns the name of the run.

    Args:
      args: the flags.
      recipe: its name, which names the model in weights/.
      ending: of that name.
      beside: the name of the model in a folder given with --output.

    Raises:
      InputError: for --check-data without a folder.
    """
    if args.check_data and not pathlib.Path(args.data).is_dir():
        raise InputError(f"--check-data: needs a folder, and {args.data} is not one; name it with --data DIR")
    name = recipe if args.data == pets.NAME else f"{recipe}-{data_name(args.data)}"
    default_output = ROOT / "output" / name
    args.output = args.output.resolve() if args.output else default_output
    is_default = args.output == default_output
    args.model = ROOT / "weights" / f"{name}{ending}" if is_default else args.output / beside
    return name


def data_name(data: str) -> str:
    """What distinguishes runs on other data: "synthetic", or the folder's name."""
    return re.sub(r"[^\w.-]+", "_", pathlib.Path(data).resolve().name).strip("_.") or "data"


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= whole(parts)):
        raise argparse.ArgumentTypeError(f"{text} is not a part like 1/8, the first of eight")
    return int(part), int(parts)


def image_size(step: int) -> Callable[[str], int]:
    """The type of --image-size: a multiple of `step`."""

    def parse(text):
        size = int(positive(int)(text))
        if size % step:
            below = size // step * step
            near = " or ".join(str(multiple) for multiple in (below, below + step) if multiple)
            raise argparse.ArgumentTypeError(f"{size} is not a multiple of {step}; use {near}")
        return size

    return parse
