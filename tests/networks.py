"""The recipes that train a network, for the tests that each of them must pass."""

import importlib
import inspect

import pytest
from measure.benchmark import RECIPES  # the one list of their names, to which a new recipe is added

MODULES = {name: importlib.import_module(name) for name in RECIPES}
each_recipe = pytest.mark.parametrize("name", RECIPES)
first_recipe_fast = pytest.mark.parametrize(  # and the others slow
    "name", [RECIPES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES[1:])]
)


def has_encoder(name: str) -> bool:
    return "encoder_weights" in inspect.signature(MODULES[name].build_model).parameters


def has_frozen_epochs(name: str) -> bool:
    return hasattr(MODULES[name], "FROZEN_EPOCHS")


def flags(name: str) -> tuple:
    """What a recipe needs on the command line to train without a download."""
    of_encoder = ("--backbone-weights", "none") if has_encoder(name) else ()
    return of_encoder + (("--frozen-epochs", 1) if has_frozen_epochs(name) else ())
