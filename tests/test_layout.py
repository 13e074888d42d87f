"""The layout: small folders, imports that point down, no circles, no hidden imports without a reason."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("dynclip.runtime", "dynclip.regions"), ("evals", "dynclip.methods"),
    ("dynclip.studies", "dynclip.trl", "dynclip.verl"), ("dynclip.plan", "dynclip.training", "dynclip.report"),
    ("dynclip.cli", "dynclip.lab"),
)  # fmt: skip
# Modules that import others inside functions, and the libraries that they load only when they need them.
DEFERRED = {
    "dynclip.plan.assess": "torch", "dynclip.training.trl_run.session": "trl", "evals.grading.workers": "sympy",
}  # fmt: skip
PATHS = [path.relative_to(ROOT) for top in ("dynclip", "evals") for path in (ROOT / top).rglob("*.py")]
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in PATHS}


def imports(module, inside=False):
    tree = ast.parse(MODULES[module].read_text())
    roots = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] if inside else [tree]
    nodes = [node for root in roots for node in ast.walk(root) if isinstance(node, ast.ImportFrom)]
    names = [(node.module, f"{node.module}.{alias.name}") for node in nodes for alias in node.names]
    return {full if full in MODULES else home for home, full in names if home.split(".")[0] in ("dynclip", "evals")}


def room(module):
    return next((i, name) for i, floor in enumerate(FLOORS) for name in floor if f"{module}.".startswith(f"{name}."))


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"dynclip"}))
def test_imports_point_down(module):
    others = [other for other in imports(module) if room(other) != room(module)]
    assert [other for other in others if room(other)[0] >= room(module)[0]] == []
    assert bool(imports(module, inside=True)) == (module in DEFERRED)


def test_there_are_no_circles_and_no_full_folders():
    list(TopologicalSorter({module: imports(module) for module in MODULES}).static_order())  # CycleError names them
    for folder in {path.parent for path in MODULES.values()}:
        assert len({*folder.iterdir()} - {folder / "__pycache__"}) <= 12, folder
