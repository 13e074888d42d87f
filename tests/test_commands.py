"""The commands that make base policies and trainings: what they keep, and what they refuse."""

import json
from pathlib import Path

import pytest

from dynclip.cli.commands import main
from dynclip.runtime.checkpoints import find_corruption, weights_sha256
from dynclip.runtime.files import sha256, write_json

SCALE = "facts_rehearsal"
BASE = Path("results", SCALE, "base")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def warmup(*words):
    return main(["warmup", "--scale", SCALE, *words])


def test_a_base_policy_is_made_once_whatever_seeds_a_later_call_names(capsys):
    assert main(["data", "--scale", SCALE]) == 0 and warmup("--seeds", "0,1") == 0
    first = [weights_sha256(BASE / f"seed{seed}") for seed in (0, 1)]
    assert first[0] != first[1]
    weights = BASE / "seed0" / "model.safetensors"
    place, age = weights.stat().st_ino, (BASE / "seed0" / "model.json").stat().st_mtime_ns
    for seed in (0, 1):
        (BASE / f"seed{seed}" / "model.json").unlink()  # as Snakemake does before it runs the job again
    capsys.readouterr()
    assert warmup("--seeds", "0,1,2") == 0
    assert "of 1 seeds" in capsys.readouterr().err  # the new seed alone is trained
    assert [weights_sha256(BASE / f"seed{seed}") for seed in (0, 1)] == first
    assert not [seed for seed in (0, 1, 2) if find_corruption(BASE / f"seed{seed}")]
    # The declared file is newer than the inputs of the job; the weights are not copied.
    assert (BASE / "seed0" / "model.json").stat().st_mtime_ns > age and weights.stat().st_ino == place


def test_a_changed_data_file_starts_over(capsys):
    assert main(["data", "--scale", SCALE]) == 0 and warmup("--seeds", "0") == 0
    data = Path("results", SCALE, "data", "train.jsonl")
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    manifest = json.loads(data.with_name("manifest.json").read_text())
    manifest["files"]["train.jsonl"] |= {"sha256": sha256(data), "rows": manifest["files"]["train.jsonl"]["rows"] - 1}
    write_json(data.with_name("manifest.json"), manifest)
    capsys.readouterr()
    assert warmup("--seeds", "0") == 0
    assert "starting over: settings, data or code changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "--method", "id"], "--scale laptop stands for several scales; give one of them: paths, facts"),
        (["train", "--scale", "facts", "--method", "id", "--seed", "0", "--seeds", "1"], "give --seed or --seeds"),
        (["train", "--scale", "facts", "--method", "id", "--out", "x"], "--out is for scales that TRL trains"),
        (["train", "--scale", "workstation", "--method", "id"], "trains one seed at a time; give --seed"),
        (["warmup", "--scale", "huge"], "unknown scale 'huge'; the scales are: laptop, laptop_rehearsal, paths"),
        (["front", "--scale", "facts"], "--scale facts is no suite of scales; the suites are: laptop"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, words, line):
    assert main(words) == 2
    said = [text for text in capsys.readouterr().err.splitlines() if text.startswith("dynclip: ")]
    assert len(said) == 1 and line in said[0]
    assert not Path("results").exists()
