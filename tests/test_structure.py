"""Code structure: imports go one way, class names are unique, and no function is long."""

import ast

import networks
from conftest import ROOT

RECIPES = ROOT / "recipes"
TREES = {path: ast.parse(path.read_text()) for path in sorted(RECIPES.rglob("*.py"))}
PLACES = ("recipe", "app", "common")  # imports go from left to right


def place(path) -> str:
    return "recipe" if path.parent == RECIPES else path.relative_to(RECIPES).parts[0]


def imports(nodes) -> set[str]:
    """The modules that these nodes import, as dotted names."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def definitions(kind):
    return [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, kind)]


def test_common_is_small_enough_to_copy():
    assert len([path for path in TREES if place(path) == "common"]) <= 6


def test_class_names_are_unique():
    names = sorted(node.name for node in definitions(ast.ClassDef))
    assert names == sorted(set(names))


def test_no_function_is_long():
    assert not [node.name for node in definitions(ast.FunctionDef) if node.end_lineno - node.lineno >= 60]


def test_imports_go_one_way():
    recipes = {path.stem for path in RECIPES.glob("*.py")}
    for path, tree in TREES.items():
        roots = {name.split(".")[0] for name in imports(ast.walk(tree))}
        assert not roots & recipes, path
        for target in roots & set(PLACES):
            assert PLACES.index(place(path)) <= PLACES.index(target), f"{path} imports {target}"


def test_private_and_platform_modules_are_imported_where_used():
    for path, tree in TREES.items():
        for name in imports(tree.body):
            assert not name.startswith("keras.src") and name not in ("fcntl", "resource", "pwd"), f"{path}: {name}"


def test_every_recipe_that_trains_a_network_is_tested():
    assert set(networks.RECIPES) == {
        path.stem for path in RECIPES.glob("*.py") if "\ndef build_model(" in path.read_text()
    }


@networks.each_recipe
def test_main_uses_no_app_internals(name):
    (main,) = [node for node in TREES[RECIPES / f"{name}.py"].body if getattr(node, "name", "") == "main"]
    names = {node.id for node in ast.walk(main) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(main) if isinstance(node, ast.Attribute)}
    assert not names & {"args", "team", "strategy", "lock", "state", "worker", "workers", "scope", "backend", "jax"}
