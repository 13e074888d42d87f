"""Digests notice the code that matters and nothing else."""

import ast
import sys

import pytest

from dynclip.methods.registry import METHODS
from dynclip.runtime import provenance
from dynclip.studies.arms import ARMS
from dynclip.training.fingerprint import method_digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A throw-away project: `rewrite(text)` sets proj/a.py, `digest()` digests proj.a:top."""
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "__init__.py").write_text("")
    (tmp_path / "proj" / "b.py").write_text("def helper(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(provenance, "PACKAGES", ("proj",))

    def digest(a: str, b: str | None = None) -> str:
        (tmp_path / "proj" / "a.py").write_text(a)
        if b:
            (tmp_path / "proj" / "b.py").write_text(b)
        provenance._module.cache_clear()
        return provenance.code_digest("proj.a:top")

    yield digest
    provenance._module.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "proj"]:
        del sys.modules[name]


A = "from proj.b import helper\nK = 2\ndef top(x):\n    return helper(x) * K\ndef other():\n    return 5\n"


def test_comments_docstrings_and_neighbours_do_not_change_a_digest(package):
    base = package(A)
    assert package(A.replace("def top(x):\n", 'def top(x):\n    """Doc."""\n    # why\n')) == base
    assert package(A.replace("return 5", "return 6")) == base


def test_what_is_used_does(package):
    base = package(A)
    assert package(A.replace("K = 2", "K = 3")) != base
    assert package(A, "def helper(x):\n    return x + 2\n") != base
    assert package(A.replace("helper(x) * K", "helper(x) + K")) != base


def test_imports_inside_functions_are_followed(package):
    lazy = "def top(x):\n    from proj.b import helper\n    return helper(x)\n"
    base = package(lazy, "def helper(x):\n    return x + 1\n")
    assert package(lazy, "def helper(x):\n    return x + 3\n") != base


def test_every_method_has_its_own_digest_and_options_count():
    digests = {name: method_digest(ARMS[name]) for name in METHODS}
    assert len(set(digests.values())) == len(METHODS)
    assert method_digest(ARMS["id_prose"]) != digests["id"]


def test_editing_one_bounds_function_changes_only_the_methods_that_use_it(monkeypatch):
    before = {name: method_digest(ARMS[name]) for name in METHODS}
    original = ast.unparse

    def edited(node):
        text = original(node)
        return text + "\nedited" if getattr(node, "name", "") == "oscillatory_decay" else text

    monkeypatch.setattr(ast, "unparse", edited)
    provenance._module.cache_clear()
    after = {name: method_digest(ARMS[name]) for name in METHODS}
    provenance._module.cache_clear()
    assert [name for name in METHODS if before[name] != after[name]] == ["od"]


def test_changes_are_named():
    assert provenance.changes({"seed": "1", "code": "a"}, {"seed": "1", "code": "b", "data": "c"}) == "code, data"


def test_environment_tells_versions_and_git_state():
    found = provenance.environment()
    assert found["torch"].startswith("2.") and found["cores"] >= 1 and "git_commit" in found
