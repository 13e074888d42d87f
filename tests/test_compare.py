"""`dynclip compare`: the same numbers as the tables, for every way to name a run, and refusals with their reason."""

import json
import re

import numpy as np
import pytest
from synthetic_study import edit, write_study

from dynclip.cli.commands import main
from dynclip.report.comparisons import training_differences
from dynclip.report.evidence import load_evidence
from dynclip.report.terminal.compare import BARS, compare, sparkline
from dynclip.report.tracking import track
from dynclip.runtime.errors import UserError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "results"
    write_study(folder / "tiny", ("grpo", "id", "od"), (0, 1, 2, 3), steps=60)
    write_study(folder / "other", ("grpo", "id"), (0, 1), steps=6)
    return folder


def said(results, *words, scale="tiny"):
    found = []
    compare(words, results, scale, found.append)
    return found


def test_differences_are_those_of_the_tables(results):
    found = said(results, "grpo", "id", "od")
    for gap in training_differences(load_evidence(results / "tiny", ("grpo", "id", "od"))):
        assert f"  {gap.a}, {gap.where}: {gap.text}: {gap.verdict}" in found
    assert any(
        re.fullmatch(rf"  id    [{BARS}]{{24}}  0\.5\d \[.*\] → 0\.2\d \[.*\]  \(4 seeds\)", line) for line in found
    )
    assert "facts, last checkpoint, % solved" in found


def test_the_first_run_is_what_the_others_are_compared_with(results):
    found = said(results, "od", "grpo")
    assert any(line.startswith("differences to od, paired by seed") for line in found)
    assert any(line.startswith("  grpo, entropy at the end: ") for line in found)


def test_a_run_is_named_by_method_folder_or_mlflow_id(results, monkeypatch):
    track(results, "tiny", ("grpo", "id"), (0, 1))
    ids = {name: entry["run_id"] for name, entry in json.loads((results / "tiny/tracking.json").read_text()).items()}
    by_seed = said(results, "grpo/seed1", "id/seed1")
    assert any("(1 seed)" in line for line in by_seed) and any("n=1, no claim" in line for line in by_seed)
    assert said(results, str(results / "tiny/runs/grpo/seed1"), str(results / "tiny/runs/id/seed1")) == by_seed
    assert said(results, ids["grpo/seed1"], ids["id/seed1"]) == by_seed
    assert said(results, str(results / "tiny/runs/grpo"), "id") == said(results, "grpo", "id")


@pytest.mark.parametrize(("words", "reason"), [
    (("grpo", "{results}/other/runs/id"), "runs of tiny and other cannot be compared: they have other problems"),
    (("grpo/seed0", "grpo/seed1"), "expected at least two methods, given grpo; seeds of one method differ by chance"),
    (("grpo", "sapo"), "runs/sapo has no finished run; train it with: snakemake"),
    (("grpo", "nothing"), "nothing"),
    (("grpo", "id/seedx"), "id/seedx: expected METHOD or METHOD/seed<number>"),
    (("grpo", "{results}"), "expected a folder below results/<scale>/runs"),
    (("grpo", "0" * 32), "0 is no training in MLflow"),
])  # fmt: skip
def test_runs_that_cannot_be_compared_are_refused_in_one_line(results, words, reason, capsys):
    track(results, "tiny", ("grpo",), (0,))
    words = [word.format(results=results) for word in words]
    assert main(["compare", *words, "--scale", "tiny", "--results", str(results)]) == 2
    assert reason in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_runs_of_another_protocol_are_refused(results, tmp_path):
    write_study(tmp_path / "tiny", ("grpo", "id"), (0,), steps=6)
    path = tmp_path / "tiny/runs/id/seed0/run.json"
    edit(path, protocol=json.loads(path.read_text())["protocol"] | {"dual clip": "10.0"})
    with pytest.raises(UserError, match="another dual clip"):
        said(tmp_path, "grpo", "id")


def test_sparkline_by_hand():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7.9], 0, 8, width=8) == BARS
    assert sparkline([0, 0, 8, 8], 0, 8, width=2) == "▁█" and sparkline([1.0], 1, 1) == "▅"
    assert sparkline([np.nan, 8.0], 0, 8, width=2) == " █"
