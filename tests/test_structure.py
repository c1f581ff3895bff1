"""Code structure: imports go one way, names are unique, and functions can be read in one go."""

import ast

import pytest
from conftest import ROOT

RECIPES = ROOT / "recipes"
FILES = sorted(RECIPES.rglob("*.py"))
PLACES = ("recipe", "app", "common")  # imports go from left to right


def place(path) -> str:
    return "recipe" if path.parent == RECIPES else path.relative_to(RECIPES).parts[0]


def imports(path, top_level_only=False) -> set[str]:
    """The modules that a file imports, as dotted names."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def definitions(*kinds):
    """The definitions of a kind in all files, with their files."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds):
                yield node, path


def test_class_names_are_unique():
    names = [node.name for node, _ in definitions(ast.ClassDef)]
    assert sorted(names) == sorted(set(names))


def test_no_function_is_long():
    for node, path in definitions(ast.FunctionDef):
        assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RECIPES)))
def test_imports_go_one_way(path):
    recipes = {file.stem for file in RECIPES.glob("*.py")}
    for name in imports(path):
        root = name.split(".")[0]
        target = "recipe" if root in recipes else root
        if target in PLACES:
            assert target != "recipe" and PLACES.index(place(path)) <= PLACES.index(target), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RECIPES)))
def test_private_and_platform_modules_are_imported_where_used(path):
    for name in imports(path, top_level_only=True):
        assert not name.startswith("keras.src") and name not in ("fcntl", "resource", "pwd"), f"{path} imports {name}"


@pytest.mark.parametrize("name", ["unet_scratch", "fcn_vgg16", "unet_mobilenetv2"])
def test_main_uses_no_app_internals(name):
    (main,) = [
        node for node in ast.parse((RECIPES / f"{name}.py").read_text()).body if getattr(node, "name", "") == "main"
    ]
    names = {node.id for node in ast.walk(main) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(main) if isinstance(node, ast.Attribute)}
    assert not names & {"args", "team", "strategy", "lock", "state", "worker", "workers", "scope", "backend", "jax"}
