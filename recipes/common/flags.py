"""The command line: flags, their limits, and a mistake told in one line."""

import argparse
import pathlib
from collections.abc import Callable

from common.files import ROOT, InputError, check_writable

PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
SIZE_STEP = 32  # image sizes are multiples of it, so that every encoder halves them evenly
LARGEST = 2**31  # what TensorFlow counts with


class Parser(argparse.ArgumentParser):
    """Shows a recipe's docstring as its help; a wrong flag is an InputError."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message):
        raise InputError(f"{message.removeprefix('argument ')} (--help lists the flags)")


def training(
    recipe: str,
    doc: str,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    pretrained: bool = False,
    fine_tune_epochs: int | None = None,
) -> argparse.Namespace:
    """Reads the command line that all training recipes share.

    Args:
      recipe: the recipe's name, which names its output folder and its weights.
      doc: the recipe's docstring, shown by --help.
      epochs, batch_size, learning_rate, fine_tune_epochs: the recipe's defaults. Only a recipe that gives
        fine_tune_epochs has the flag.
      pretrained: whether the recipe has a pretrained part, and so the flag --backbone-weights.
    Returns:
      A namespace of all flags, plus `recipe`, and `model`: the path where the trained model goes. That is
      weights/RECIPE.keras, or the output folder where --output names another one, so that a trial run does
      not replace the model of a real one.
    Raises:
      InputError: for a wrong flag or a folder that cannot be written to.
    """
    parser = Parser(doc)
    add = parser.add_argument
    output = ROOT / "output" / recipe
    add("--data", default="oxford_iiit_pet", metavar="D", help="oxford_iiit_pet (default), synthetic, or a folder")
    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its data (default: its own folder)")
    add("--image-size", type=_image_size, default=256, metavar="N", help="pixels a side (default 256)")
    frozen = "" if fine_tune_epochs is None else "with the encoder frozen, "
    add("--epochs", type=positive(int), default=epochs, metavar="N", help=f"{frozen}default {epochs}")
    if fine_tune_epochs is not None:
        text = f"after those, with the encoder trained too, default {fine_tune_epochs}"
        add("--fine-tune-epochs", type=whole, default=fine_tune_epochs, metavar="N", help=text)
    if pretrained:
        text = "imagenet (default: from weights/, downloaded the first time), none, or a file"
        add("--backbone-weights", default="imagenet", metavar="W", help=text)
    add("--batch-size", type=positive(int), default=batch_size, metavar="N", help=f"default {batch_size}")
    add("--learning-rate", type=positive(float), default=learning_rate, metavar="X", help=f"default {learning_rate}")
    add("--precision", choices=PRECISIONS, default="auto", help="auto (default): the fastest the device is good at")
    add("--limit", type=positive(int), metavar="N", help="use at most N images of each split, for a quick try")
    add("--seed", type=whole, default=0, metavar="N", help="of the split, the order, the augmentation, the weights")
    add("--output", type=pathlib.Path, default=output, metavar="DIR", help=f"default output/{recipe}")
    add("--resume", action="store_true", help="go on with an interrupted run after what it has finished")
    text = "segment own photos, folders of them, or videos, instead of training"
    add("--predict", nargs="+", type=pathlib.Path, metavar="PATH", help=text)
    text = "with --predict: do the I-th of N parts only, and of it what is missing"
    add("--shard", type=_shard, metavar="I/N", help=text)
    text = f"trained weights for --predict (default weights/{recipe}.keras)"
    add("--weights", type=pathlib.Path, metavar="FILE", help=text)
    add("--check-data", action="store_true", help="only read the folder given with --data, and report what is in it")
    args = parser.parse_args()
    if args.weights and not args.predict:
        raise InputError("--weights: it goes with --predict; a training starts from --backbone-weights")
    if args.shard and not args.predict:
        raise InputError("--shard: it goes with --predict; a training is shared out by TF_CONFIG")
    if args.check_data and args.predict:
        raise InputError("--check-data: it does nothing else; leave --predict out")
    if args.check_data and not pathlib.Path(args.data).is_dir():
        raise InputError(f"--check-data: it checks a folder; {args.data} is none, give one with --data DIR")
    args.recipe, args.output = recipe, args.output.resolve()
    args.model = (ROOT / "weights" if args.output == output else args.output) / f"{recipe}.keras"
    if args.predict and args.output == output:
        args.output = output / "predictions"  # beside what the training wrote
    if not args.check_data:
        check_writable(args.output, "--output")
    if not (args.predict or args.check_data):
        check_writable(args.model.parent, "weights folder")
    return args


def positive(kind: type) -> Callable[[str], float]:
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < LARGEST:
            wanted = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text} is not a {wanted} above zero and below {LARGEST}")
        return value

    return parse


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


def whole(text: str) -> int:
    if not text.isdecimal() or int(text) >= LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {LARGEST - 1}")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts) < LARGEST):
        raise argparse.ArgumentTypeError(f"{text} is not a part like 1/8, the first of eight")
    return int(part), int(parts)


def _image_size(text: str) -> int:
    size = int(positive(int)(text))
    if size % SIZE_STEP:
        below = size // SIZE_STEP * SIZE_STEP
        near = " or ".join(str(multiple) for multiple in (below, below + SIZE_STEP) if multiple)
        raise argparse.ArgumentTypeError(f"{size} is not a multiple of {SIZE_STEP}; use {near}")
    return size
