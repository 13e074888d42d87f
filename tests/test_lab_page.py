"""The questions of docs/lab.md: what is counted, that the page says it, and that the code still gives it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dynclip.lab import questions
from dynclip.lab.compare import compare
from dynclip.lab.figures import FIGURES, render_all
from dynclip.lab.grids import SEEDS, factorial, regimes
from dynclip.lab.questions import QUESTIONS, legs, main, variants, wrong_signs
from dynclip.lab.tables import accuracy, axis_table, legs_text, page, sign_table, signs, tables
from dynclip.lab.world import Regime

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "results/reference/lab"
TINY = Regime(states=4, actions=4, good=2, length=1, problems=4, group=4, steps=6, minibatches=1, epochs=2, peak=1.0)


def test_the_committed_page_is_that_of_the_committed_numbers():
    assert (REFERENCE / "README.md").read_text() == page(REFERENCE)
    text = (ROOT / "docs/lab.md").read_text()
    for title, content in tables(REFERENCE).items():
        if title not in ("Signs, train grid", "Prediction, train grid"):
            assert content in text, title
    for name in FIGURES:
        assert f"figures/lab-{name}.png" in text
        assert all((ROOT / f"docs/figures/lab-{name}.{end}").exists() for end in ("png", "svg"))


@pytest.mark.parametrize(("grid", "number"), [("train", 0), ("test", 5)])
def test_the_code_still_gives_a_committed_regime(grid, number):
    facts, rows = compare(regimes(grid)[number], SEEDS[grid])
    cells = pd.read_csv(REFERENCE / f"cells-{grid}.csv")
    known = cells[cells["regime"] == number].to_dict("records")
    assert len(known) == len(rows) == 15
    for row, old in zip(rows, known, strict=True):
        for key in ("difference", "se", "rule", "exact", "optimizer", "batch"):
            assert row[key] == pytest.approx(old[key], rel=1e-3, abs=1e-6, nan_ok=True), (row["arm"], key)
    committed = pd.read_csv(REFERENCE / f"regimes-{grid}.csv").iloc[number]
    assert facts["entropy_end"] == pytest.approx(committed["entropy_end"], rel=1e-4)


def test_the_committed_grids_are_whole():
    for grid in ("train", "test"):
        cells = pd.read_csv(REFERENCE / f"cells-{grid}.csv")
        assert cells["regime"].nunique() == len(regimes(grid)) and len(cells) == 15 * len(regimes(grid))
        assert (cells["n"] <= len(SEEDS[grid])).all() and set(cells["sign"]) <= {-1, 0, 1}
        decided = cells[cells["sign"] != 0]
        assert (decided["difference"].abs() >= 2.499 * decided["se"]).all()


def test_legs_of_curves_by_hand():
    steps = np.linspace(0, 1, 21)
    up_down = np.where(steps <= 0.5, steps, 1 - steps)
    noise = 1e-3 * np.random.default_rng(0).standard_normal((8, 21))
    assert legs(1 + up_down + noise) == pytest.approx([0.5, -0.5], abs=0.01)
    assert legs(1 - steps + noise) == pytest.approx([-1.0], abs=0.01)
    assert legs(1 - up_down + 0.5 * steps + noise) == pytest.approx([-0.25, 0.75], abs=0.01)
    assert legs(1 + 0.2 * noise) == []
    # A turn that the seeds do not agree on is none.
    wild = 1 + up_down * np.random.default_rng(1).standard_normal((8, 1))
    assert legs(wild) == []
    assert legs_text([0.5, -0.25]) == "+0.50 -0.25" and legs_text([]) == "0"


def cells_of(rows):
    names = ("regime", "arm", "where", "difference", "sign", "exact", "rule", "optimizer", "batch")
    return pd.DataFrame([dict(zip(names, (*row, *[row[-1]] * 3), strict=True)) for row in rows])


def test_accuracy_by_hand():
    cells = cells_of(
        [
            (0, "clip_higher", "half", -0.1, -1, -0.5),
            (0, "clip_lower", "half", -0.1, -1, 0.5),
            (1, "clip_higher", "half", 0.1, 1, 0.5),
            (1, "clip_lower", "half", -0.1, -1, -0.5),
            (2, "clip_lower", "half", 0.01, 0, -0.5),
        ]
    )
    spread, balanced, less, more = accuracy(cells, "exact")
    assert spread[0] == 0.75 and spread[1] <= 0.75 <= spread[2] and (less, more) == (3, 1)
    assert balanced == pytest.approx((2 / 3 + 1) / 2)
    assert accuracy(cells, "paper")[0][0] == 0.75 and accuracy(cells, "lower")[0][0] == 0.75
    assert accuracy(cells, "lower")[1] == 0.5
    assert accuracy(cells[cells["sign"] == 0], "exact") == ([None, None, None], None, 0, 0)
    assert signs(cells) == "3 / 1 / 1"
    assert signs(cells.assign(difference=[np.nan, 1, 1, 1, 1])) == "2 / 1 / 1 (1 –)"


def test_tables_have_a_row_for_everything():
    cells = pd.read_csv(REFERENCE / "cells-train.csv")
    assert sign_table(cells).count("\n") == 6
    text = axis_table(cells)
    for name in (
        "start flat",
        "reward 0.004",
        "updates 16",
        "step size 0.15",
        "SGD",
        "group 4",
        "… the same at group 16",
    ):
        assert f"| {name} |" in text
    assert len(factorial()) == 48


def test_counts_of_the_rule():
    found = wrong_signs(TINY, (0, 1))
    tokens, good, bad, size, size_wrong, rule, exact = found.sum((0, 1))
    assert 0 < tokens <= 2 * 6 * 16 and 0 <= good + bad < tokens and 0 <= size_wrong < size
    assert np.isfinite([rule, exact]).all()
    # docs/regions.md: never wrong below ln 2 nats.
    assert found[:, :2, 1:3].sum() == 0 and len(found[0]) == 6


def test_variants_are_paired_at_three_places():
    rows = variants(TINY, range(4))
    assert len(rows) == 6 * 3 and {row["where"] for row in rows} == {"half", "end", "success"}
    assert all(0.2 < row["high"] < 0.5 and 0.19 < row["low"] < 0.3 for row in rows)


def test_the_command_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "regimes", lambda grid: [TINY])
    monkeypatch.setattr(questions, "SEEDS", {"train": range(4), "test": range(4)})
    monkeypatch.setattr(questions, "stories", lambda: {"tiny": TINY})
    asked = ("train", "test", "curves", "formula")
    for name in asked:
        assert main(["--out", str(tmp_path), "--only", name]) == 0
    assert {file for name in asked for file in QUESTIONS[name][0]} <= {path.name for path in tmp_path.iterdir()}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for name in asked:
        assert main(["--out", str(tmp_path), "--only", name]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "about-test.json").read_text())["seconds"] >= 0
    assert str(tmp_path) not in "".join(path.read_text() for path in tmp_path.iterdir())
    # A page of some of the answers.
    assert "Shapes" in page(tmp_path) and "The rule along" not in page(tmp_path)


def test_figures_are_the_same_bytes_every_time():
    first = render_all(REFERENCE)
    assert set(first) == {f"lab-{name}.{end}" for name in FIGURES for end in ("svg", "png")}
    assert render_all(REFERENCE) == first
    assert not any(b"<dc:date>" in content for content in first.values())
