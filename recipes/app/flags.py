"""The command line that all training recipes share."""

import argparse
import os
import pathlib
import re
from collections.abc import Callable

from app import models
from app.cli import InputError, Parser, positive, whole
from app.datasets import pets, synthetic
from app.files import ROOT, check_writable, shipped, shown
from app.models import SIZE_STEP

TRAINED_FACTOR = 0.3  # of the learning rate with --weights; a recipe with frozen epochs lowers it after them itself
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")


def parse(
    recipe: str,
    doc: str,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    image_size: int = 256,
    size_step: int = SIZE_STEP,
    frozen_epochs: int | None = None,
    has_encoder: bool = False,
    is_network: bool = True,
) -> argparse.Namespace:
    """Reads the command line.

    Args:
      recipe: names the output folder and the trained model.
      doc: the recipe's docstring, shown by --help.
      epochs, batch_size, learning_rate, image_size, frozen_epochs: the recipe's defaults; without a default there is
        no --frozen-epochs. Without the flag --epochs, `epochs` of the result is None.
      size_step: image sizes are multiples of it.
      has_encoder: whether the recipe has a pretrained encoder, and so --backbone-weights.
      is_network: whether the recipe trains a segmentation network, which also predicts; False for a detector.
    Returns:
      All flags, and `model`: the path of the trained model. With the default data and output that is
      weights/RECIPE.keras, with other data weights/RECIPE-DATA.keras; with --output it is in that folder.
    Raises:
      InputError: for a wrong flag, or a folder that cannot be written to.
    """
    parser = Parser(doc)
    add = parser.add_argument
    others = "synthetic, or a folder" if is_network else "or a folder with COCO annotations"
    add("--data", default=pets.NAME, metavar="D", help=f"{pets.NAME} (default), {others}")
    text = f"pixels a side (default {image_size})"
    add("--image-size", type=_multiple(size_step), default=image_size, metavar="N", help=text)
    add("--epochs", type=positive(int), metavar="N", help=f"default {epochs}; for few photos as many as they need")
    add("--batch-size", type=positive(int), default=batch_size, metavar="N", help=f"default {batch_size}")
    _add_flags_of_all(add, recipe)
    if frozen_epochs is not None:
        text = f"the first K epochs with a pretrained encoder frozen, default {frozen_epochs}"
        add("--frozen-epochs", type=whole, default=frozen_epochs, metavar="K", help=text)
    if has_encoder:
        text = "imagenet (default: from weights/, downloaded the first time), none, or a file"
        add("--backbone-weights", metavar="W", help=text)
    further_rate = learning_rate if not is_network or frozen_epochs is not None else learning_rate * TRAINED_FACTOR
    text = f"default {learning_rate}"
    if further_rate != learning_rate:
        text += f", with --weights {further_rate:.2g}"
    add("--learning-rate", type=positive(float), metavar="X", help=text)
    if is_network:
        _add_flags_of_networks(add, recipe)
    else:
        parser.set_defaults(predict=None, shard=None, tiles=False, weights=None)
    args = parser.parse_args()
    args.data = _normalized(args.data)
    _check_combinations(args)
    _complete(args, recipe, learning_rate, further_rate, has_encoder)
    _place(args, recipe, is_network)
    return args


def _add_flags_of_all(add: Callable, recipe: str) -> None:
    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its data (default: its own folder)")
    add("--limit", type=positive(int), metavar="N", help="use at most N images of each split, for a quick try")
    add("--seed", type=whole, default=0, metavar="N", help="of the split, the order, the augmentation, the weights")
    text = f"default output/{recipe}, with other data output/{recipe}-DATA"
    add("--output", type=pathlib.Path, metavar="DIR", help=text)
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--check-data", action="store_true", help="only check the folder given with --data, and report what it holds")


def _add_flags_of_networks(add: Callable, recipe: str) -> None:
    text = "train on tiles of large photos at their own resolution, --image-size pixels a side, for small objects"
    add("--tiles", action="store_true", help=text)
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


def _check_combinations(args: argparse.Namespace) -> None:
    if args.check_data and not pathlib.Path(args.data).is_dir():
        raise InputError(f"--check-data: needs a folder, and {args.data} is not one; name it with --data DIR")
    if args.check_data and args.predict:
        raise InputError("--check-data: only checks; leave --predict out")
    if args.predict and args.tiles:
        raise InputError("--tiles: only for a training, which its model remembers; leave it out with --predict")
    if args.shard and not args.predict:
        raise InputError("--shard: only with --predict; several machines train together with JAX, see the README")


def _complete(
    args: argparse.Namespace, recipe: str, learning_rate: float, further_rate: float, has_encoder: bool
) -> None:
    """Sets the defaults that depend on other flags."""
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


def _place(args: argparse.Namespace, recipe: str, is_network: bool) -> None:
    """Sets `output`, and `model`: the path of the trained model."""
    name = recipe if args.data == pets.NAME else f"{recipe}-{data_name(args.data)}"
    default_output = ROOT / "output" / name
    args.output = args.output.resolve() if args.output else default_output
    if args.output == default_output:
        args.model = ROOT / "weights" / (f"{name}.keras" if is_network else name)
    else:
        args.model = args.output / (f"{recipe}.keras" if is_network else "model")
    if args.check_data:
        return
    if args.predict:
        _place_predictions(args, recipe, name, default_output)
    elif args.output == default_output:
        _check_origin(args.model, args.data, "another --output")
    if args.weights and not args.predict:
        args.weights = args.weights.resolve()
        if args.weights == args.model:
            raise InputError(f"--weights {args.weights}: this training would replace it; name another --output")
    check_writable(args.output, "--output")
    if not args.predict:
        check_writable(args.model.parent, "weights folder")


def _place_predictions(args: argparse.Namespace, recipe: str, name: str, default_output: pathlib.Path) -> None:
    """Sets the weights of other data than the default; without --output, predictions go beside what they wrote."""
    own = ROOT / "weights" / f"{name}.keras"
    if args.weights is None and name != recipe:
        found = [path for path in dict.fromkeys((args.model, own)) if path.exists()]
        fitting = [path for path in found if models.origin(path).get("data", data_id(args.data)) == data_id(args.data)]
        if found and not fitting:
            _check_origin(found[0], args.data, "--weights FILE")
        args.weights = fitting[0] if fitting else own  # which is reported as missing
    if args.output == default_output:
        trained = args.weights.stem if args.weights and args.weights.stem.startswith(f"{recipe}-") else name
        args.output = ROOT / "output" / trained / "predictions"


def _check_origin(model: pathlib.Path, data: str, advice: str) -> None:
    """Raises InputError if a model was trained on other data, such as another folder of the same name."""
    known = models.origin(model).get("data", data_id(data))
    if known != data_id(data):
        raise InputError(f"--data {data}: {shown(model)} was trained on {known}, not on {data_id(data)}; name {advice}")


def _normalized(data: str) -> str:
    """A folder without the slash that shells add."""
    if data in (pets.NAME, synthetic.NAME):
        return data
    path = os.path.normpath(data)
    return f"./{path}" if path in (pets.NAME, synthetic.NAME) else path


def data_id(data: str) -> str:
    """What distinguishes data sets: "synthetic", or the folder with all of its path."""
    return data if data in (pets.NAME, synthetic.NAME) else str(pathlib.Path(data).resolve())


def data_name(data: str) -> str:
    """What names the runs on other data: "synthetic", or the folder's name."""
    return re.sub(r"[^\w.-]+", "_", pathlib.Path(data).resolve().name).strip("_.") or "data"


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= whole(parts)):
        raise argparse.ArgumentTypeError(f"{text} is not a part like 1/8, the first of eight")
    return int(part), int(parts)


def _multiple(step: int) -> Callable[[str], int]:
    def parse(text):
        size = int(positive(int)(text))
        if size % step:
            below = size // step * step
            near = " or ".join(str(multiple) for multiple in (below, below + step) if multiple)
            raise argparse.ArgumentTypeError(f"{size} is not a multiple of {step}; use {near}")
        return size

    return parse
