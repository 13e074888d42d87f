"""`dynclip verify` on a real finished study: nothing differs, and one edit of each kind is found."""

import json
import re
import shutil

import pandas as pd
import pytest
from workspace import RESULTS, SCALE

from dynclip.cli.commands import main
from dynclip.runtime.files import seal, sha256, write_json
from evals.metrics import numbers_of
from evals.sampling.store import read_samples

SINCE = "changed since it was written (SHA-256 differs); make it again with: cd "
AGAIN = f" && snakemake --cores all --config scale={SCALE} --forcerun"


@pytest.fixture
def results(current, tmp_path):
    shutil.copytree(current.root / "results" / SCALE, tmp_path / "results" / SCALE)
    (tmp_path / "Snakefile").touch()  # printed commands are Snakemake's where there is one
    return tmp_path / "results" / SCALE


def first(results, pattern):
    return sorted(results.glob(pattern))[0]


def edit_score(results):
    """A score that agrees with itself and its checksum, but not with its samples."""
    path = first(results, "scores/grpo/*/final/*.json")
    record = json.loads(path.read_text())
    entry = record["per_problem"][0]
    entry["c"] += 1 if entry["c"] < entry["n"] else -1
    means = [each["c"] / each["n"] for each in record["per_problem"]]
    record["avg_at_k"]["value"] = sum(means) / len(means)
    write_json(path, seal(record))


def edit_count(results):
    """One more correct sample in a score, and nothing else."""
    path = first(results, "scores/grpo/*/final/*.json")
    record = json.loads(path.read_text())
    record["per_problem"][0]["c"] += 1
    write_json(path, record)


def edit_sample(results):
    """A sample whose verdict is turned round, with its score made from it and the checksum that fits."""
    path = first(results, "scores/grpo/*/final/*.json")
    stored = results / "samples" / path.relative_to(results / "scores").with_suffix(".parquet")
    table = pd.read_parquet(stored)
    table.loc[0, "correct"] = not table.loc[0, "correct"]
    table.to_parquet(stored)
    record = json.loads(path.read_text()) | numbers_of(read_samples(stored))
    record["samples"]["sha256"] = sha256(stored)
    write_json(path, seal(record))


def edit_metric(results):
    path = first(results, "runs/grpo/*/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["train/reward"] = 0.99
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_weight(results):
    path = first(results, "runs/grpo/*/checkpoints/*/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_table(results):
    path = results / "tables" / "main.md"
    text = path.read_text()
    digit = next(i for i in range(len(text) - 1, 0, -1) if text[i] in "012345678")
    path.write_text(text[:digit] + "9" + text[digit + 1 :])


def forge_table(results):
    """An edited table with a checksum that fits."""
    edit_table(results)
    lists = results / "checksums" / "tables.sha256"
    lines = [line.split("  ")[1] for line in lists.read_text().splitlines()]
    lists.write_text("".join(f"{sha256(results / name)}  {name}\n" for name in lines))


def edit_page(results):
    path = results / "report.html"
    path.write_text(path.read_text().replace("<h1>", "<h1>Better than "))


def break_parquet(results):
    (results / "scores.parquet").write_bytes(b"0123456789")


def edit_drawing(results):
    """The line of the first method a little higher."""
    path = results / "figures" / "entropy.svg"
    text = path.read_text()
    line = re.search(r'id="line2d_\d+">\s*<path d="M [\d.]+ ([\d.]+) \nL', text)
    path.write_text(text[: line.start(1)] + f"{float(line[1]) - 3:.6f}" + text[line.end(1) :])


def edit_picture(results):
    from PIL import Image

    path = results / "figures" / "reward.png"
    with Image.open(path) as image:
        edited = image.convert("RGB")
    edited.paste((255, 255, 255), (100, 100, 500, 300))
    edited.save(path)


def test_a_finished_study_is_as_derived(results, capsys):
    assert main(["verify", str(results)]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "all as derived" in said
    for kind in ("checkpoints", "runs", "scores", "tables, figures and pages"):
        assert kind in said


@pytest.mark.parametrize("edit_and_words", [
    (edit_score, "is not what its samples give; rebuild it with: cd "),
    (edit_count, "damaged, edited or of an older version"),
    (edit_sample, "the grader says"),
    (edit_metric, "is not the file that the training wrote (SHA-256 differs); rebuild it with: cd "),
    (edit_weight, "damaged checkpoint"),
    (edit_table, f"tables/main.md {SINCE}", f"{AGAIN} tables -- {RESULTS}/tables/main.md"),
    (forge_table, "tables/main.md is not what the runs and scores give; make it again with: cd "),
    (edit_page, f"report.html {SINCE}", f"{AGAIN} page -- {RESULTS}/report.html"),
    (edit_drawing, f"figures/entropy.svg {SINCE}", f"{AGAIN} figures -- {RESULTS}/figures/entropy.svg"),
    (edit_picture, f"figures/reward.png {SINCE}", f"{AGAIN} figures -- {RESULTS}/figures/reward.png"),
    (break_parquet, f"scores.parquet {SINCE}", f"{AGAIN} tables -- {RESULTS}/scores.parquet"),
])  # fmt: skip
def test_one_edit_of_each_kind_is_found(results, edit_and_words, capsys):
    edit, *words = edit_and_words
    edit(results)
    assert main(["verify", str(results)]) == 1
    problem, summary = capsys.readouterr().out.splitlines()
    assert all(part in problem for part in words) and summary.endswith("1 not as derived")


def test_what_is_no_results_folder_is_refused(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "expected runs/, or metrics.parquet and provenance.json" in capsys.readouterr().err
