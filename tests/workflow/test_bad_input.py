"""Wrong names and damaged files: one line that says what, where, what was expected and what to run."""

import os
import re

import pytest
import yaml
from workspace import RESULTS, ROOT, SCALE, Workspace

from dynclip.cli.pipeline import call_from
from dynclip.runtime.errors import rebuild_command

pytestmark = pytest.mark.workflow
WRONG = [
    (["--config", "methods=grpo,idd"], "unknown method 'idd'; the methods are: grpo, clip_higher"),
    (
        ["--config", "scale=huge"],
        "unknown scale 'huge'; the scales are: laptop, laptop_rehearsal, paths, facts, worded",
    ),
    (["--config", "seeds=zero"], "seeds: expected whole numbers from 0"),
    (["--config", "steps=-3"], "steps: expected whole numbers from 1"),
    (["--config", "method=id"], "unknown --config key 'method'; the keys are: scale, methods, seeds"),
    (["--config", "options=id:swich=0.35"], "method 'id': unknown option 'swich'; its options are: eps=0.2"),
    (["--config", "updates=1"], "every importance ratio is 1"),
    (["results/facts/runs/id@switch=.35/seed20/run.json"], "this method is written 'id@switch=0.35'"),
    (["results/facts/scores/id/seed20/final/aime99.json"], "unknown benchmark 'aime99'; valid are: facts"),
    (["results/facts/scores/idd/seed20/final/facts.json"], "unknown method 'idd'; valid are: base, grpo"),
    (["results/facts/scores/id/seed20/step7/facts.json"], "unknown checkpoint 'step7'; valid are: step30"),
    (["results/facts/runs/id/seed77/run.json"], "seed 77 is not among this call's seeds; add --config seeds=77"),
    (["results/paper/runs/id/seed0/run.json"], "add --config scale=paper (the scales are: paths, facts"),
    (["results/laptop/runs/id/seed0/run.json"], "'laptop' is no scale; the scales are: paths, facts"),
]
IN_SNAKEMAKE = ("methods=grpo,idd", "results/facts/runs/id@switch=.35/seed20/run.json")  # the others: `make test-all`


@pytest.mark.parametrize(("words", "line"), WRONG)
def test_a_wrong_name_is_one_line(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    given = dict(word.split("=", 1) for word in words[1:]) if words[0] == "--config" else {}
    with pytest.raises(SystemExit, match=r"^2$"):
        call_from({key: yaml.safe_load(value) for key, value in given.items()}, words)
    said = capsys.readouterr().err
    assert said.startswith("dynclip: ") and said.count("\n") == 1 and line in said


@pytest.mark.parametrize(
    ("words", "line"),
    [pytest.param(*each, marks=[] if each[0][-1] in IN_SNAKEMAKE else pytest.mark.slow) for each in WRONG],
)
def test_wrong_names_stop_before_any_work(tmp_path, words, line):
    done = Workspace(tmp_path).run("snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "all", *words)
    assert done.returncode == 2, done.stdout
    said = [text for text in done.stdout.splitlines() if text.startswith("dynclip: ")]
    assert len(said) == 1 and line in said[0]
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written_stop_before_any_work(tmp_path):
    (tmp_path / "results").write_text("a file where a folder belongs")
    done = Workspace(tmp_path).run("snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "all")
    assert done.returncode != 0 and "dynclip: " in done.stdout and "results" in done.stdout
    assert "Execute" not in done.stdout


def damaged(workspace, name, harm, *words):
    """Harm a file of the finished study, run a command, restore the file; the command's result."""
    path = workspace.root / name
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(harm(content))
    try:
        return workspace.run(*words)
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # else the next call of Snakemake makes it again


@pytest.mark.parametrize(
    ("name", "harm", "words", "expected"),
    [
        (
            f"{RESULTS}/data/train.jsonl", lambda b: b[: len(b) // 2],
            ("dynclip", "train", "--scale", "miniature", "--method", "id", "--seed", "0"),
            ("train.jsonl", "--forcerun data"),
        ),
        (
            f"{RESULTS}/base/seed0/model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1]),
            ("dynclip", "train", "--scale", "miniature", "--method", "id", "--seed", "0"),
            ("model.safetensors", "--forcerun warmup"),
        ),
        (
            f"{RESULTS}/runs/od/seed0/checkpoints/step2/model.safetensors", lambda b: b[:100],
            ("dynclip", "evaluate", "--scale", "miniature", "--method", "od", "--seed", "0"),
            ("model.safetensors", "--forcerun train"),
        ),
        (
            f"{RESULTS}/samples/od/seed0/final/facts.parquet", lambda b: b[:-10],
            ("dynclip", "tables", "--scale", "miniature"),
            ("facts.parquet", "--forcerun evaluate"),
        ),
        (
            f"{RESULTS}/scores/od/seed0/final/facts.json", lambda b: b[:200],
            ("dynclip", "tables", "--scale", "miniature"),
            ("facts.json", "--forcerun evaluate"),
        ),
        (
            f"{RESULTS}/runs/grpo/seed1/metrics.jsonl", lambda b: b[:-20],
            ("dynclip", "tables", "--scale", "miniature"),
            ("metrics.jsonl", "--forcerun train"),
        ),
    ],
)  # fmt: skip
def test_damage_is_an_error_that_names_the_file_and_the_remedy(finished, name, harm, words, expected):
    workspace, _ = finished
    done = damaged(workspace, name, harm, *words)
    said = [line for line in done.stdout.splitlines() if line.startswith("dynclip: ")]
    assert done.returncode == 2 and len(said) == 1, done.stdout[-2000:]
    assert all(part in said[0] for part in expected)


@pytest.mark.slow
def test_a_failed_job_is_named_with_the_end_of_its_log_and_the_next_command(current):
    score = current.root / RESULTS / "scores" / "od" / "seed1" / "final" / "facts.json"
    content, table = score.read_bytes(), current.root / RESULTS / "tables" / "main.md"
    score.write_bytes(content[:200])
    table.unlink()
    try:
        plain, shown = current.snakemake(), current.run("dynclip", "reproduce", f"scale={SCALE}")
    finally:
        score.write_bytes(content)
    for done in (plain, shown):
        assert done.returncode != 0 and "facts.json: damaged, edited" in done.stdout, done.stdout[-3000:]
        assert "Traceback" not in done.stdout
    assert "Error in rule" in plain.stdout
    assert re.search(rf"rule (\w+) failed; the end of {RESULTS}/logs/\1.log:", shown.stdout)  # the first of several
    assert shown.stdout.rstrip().endswith(f"finished jobs are kept; to go on: dynclip reproduce scale={SCALE}")
    assert current.run("dynclip", "reproduce", f"scale={SCALE}").returncode == 0 and table.exists()


def test_the_remedy_for_damaged_samples_works(restored):
    path = restored.root / RESULTS / "samples" / "od" / "seed1" / "final" / "facts.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    target = f"{RESULTS}/scores/od/seed1/final/facts.json"
    done = restored.run(*rebuild_command("evaluate", target).split())
    assert done.returncode == 0, done.stdout[-2000:]
    assert path.read_bytes() == content
