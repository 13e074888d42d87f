import dataclasses
import json

import pytest

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from evals.benchmarks import registry
from evals.benchmarks.decontamination import normalise
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import (
    BENCHMARKS,
    TRAIN_SETS,
    content_hash,
    load_problems,
    make,
    pins,
    read_problems,
    write_data,
)

NAMES = ("chain_sum", "basic_arithmetic", "chain_mod")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return folder, write_data(folder, "laptop", "laptop_train", NAMES)


def replace(monkeypatch, entries, name, **changes):
    """Change an entry for one test, with the pin that goes with it."""
    entry = dataclasses.replace(entries[name], **changes)
    entry = dataclasses.replace(entry, content=content_hash(registry.draw(entry)))
    monkeypatch.setitem(entries, name, entry)


def test_pins_match_what_the_generators_make():
    entries = (*BENCHMARKS.values(), *TRAIN_SETS.values())
    assert pins() == {entry.name: entry.content for entry in entries if entry.kind == "generated"}
    assert set(pins()) == {*NAMES, "laptop_train"}


def test_a_benchmark_is_described_by_its_entry_alone():
    for name in NAMES:
        entry = BENCHMARKS[name]
        assert entry.name == name and entry.kind == "generated" and entry.held_out
        assert (entry.count, entry.k) == (100, 16)
        assert vars(entry.sampling) == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 48}
        assert "0x" not in repr(entry)  # the entry's text is digested to decide what to evaluate again


def test_a_generator_that_drifted_from_its_pin_is_refused(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "chain_mod", dataclasses.replace(BENCHMARKS["chain_mod"], seed=1))
    with pytest.raises(UserError, match=r"chain_mod: generated content .* pinned is"):
        make(BENCHMARKS["chain_mod"])


def test_the_content_hash_sees_problems_answers_and_order():
    rows = [Problem("a", "1+1=", "2", 1, "s"), Problem("b", "1+2=", "3", 1, "s")]
    edited = dataclasses.replace(rows[0], answer="3")
    hashes = {content_hash(x) for x in (rows, rows[::-1], rows[:1], [edited, rows[1]])}
    assert len(hashes) == 4
    assert content_hash([dataclasses.replace(p, id="other") for p in rows]) == content_hash(rows)


def test_files_hold_what_the_manifest_says(data):
    folder, manifest = data
    assert manifest == json.loads((folder / "manifest.json").read_text())
    assert {name: entry["rows"] for name, entry in manifest["files"].items()} == {
        "train.jsonl": 3000,
        **{f"{name}.jsonl": 100 for name in NAMES},
    }
    assert manifest["overlaps_removed"] == dict.fromkeys(NAMES, 0) and manifest["removed"] == []
    assert {name: source["content"] for name, source in manifest["sets"].items()} == pins()
    for name in NAMES:
        assert content_hash(read_problems(folder / f"{name}.jsonl")) == BENCHMARKS[name].content
    row = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert list(row) == ["id", "problem", "answer", "level", "subject"]


def test_training_and_held_out_problems_are_disjoint_and_distinct(data):
    folder, _ = data
    train = [p.problem for p in read_problems(folder / "train.jsonl")]
    held_out = [p.problem for name in NAMES for p in read_problems(folder / f"{name}.jsonl")]
    assert len(set(train)) == 3000 and len(set(held_out)) == 300
    assert not {normalise(t) for t in train} & {normalise(t) for t in held_out}


def test_every_stretch_of_the_training_set_holds_every_family_evenly(data):
    subjects = [p.subject for p in read_problems(data[0] / "train.jsonl")]
    for start in range(0, 3000, 30):
        assert all(subjects[start : start + 30].count(name) == 10 for name in NAMES)


def test_overlapping_training_problems_are_dropped_and_counted(monkeypatch, tmp_path):
    replace(monkeypatch, BENCHMARKS, "chain_mod", held_out=False, count=30)
    replace(monkeypatch, TRAIN_SETS, "laptop_train", families=("chain_mod",), seed=103, count=60)
    manifest = write_data(tmp_path, "laptop", "laptop_train", ("chain_mod",))
    dropped = manifest["overlaps_removed"]["chain_mod"]
    assert dropped > 0 and manifest["files"]["train.jsonl"]["rows"] == 60 - dropped
    assert len(manifest["removed"]) == dropped
    assert {r["why"] for r in manifest["removed"]} == {"exact"}
    train = {p.problem for p in read_problems(tmp_path / "train.jsonl")}
    assert not train & {p.problem for p in read_problems(tmp_path / "chain_mod.jsonl")}


def test_loading_makes_a_generated_set_whole_or_in_part():
    entry = BENCHMARKS["chain_mod"]
    whole = load_problems(entry)
    assert content_hash(whole) == entry.content
    assert load_problems(entry, limit=7) == whole[:7]


def test_a_tolerance_survives_the_file_and_costs_the_others_nothing(monkeypatch, tmp_path):
    rows = [Problem("a", "1+1=", "2", 1, "s"), Problem("b", "1+2.5=", "3.5", 1, "s", tolerance="1e-1")]
    monkeypatch.setattr(registry, "make", lambda entry: rows)
    write_data(tmp_path, "laptop", "laptop_train", ("chain_mod",))
    assert read_problems(tmp_path / "chain_mod.jsonl") == rows
    fields = [list(json.loads(line)) for line in (tmp_path / "chain_mod.jsonl").read_text().splitlines()]
    assert "tolerance" not in fields[0] and fields[1][-1] == "tolerance"


def test_a_gold_that_fails_against_itself_stops_the_data(monkeypatch, tmp_path):
    bad = [Problem("bad-0001", "1+1=", "}{", 2, "chain_mod")]
    monkeypatch.setattr(registry, "make", lambda entry: bad if entry.held_out else [])
    with pytest.raises(UserError, match=r"1 golds fail against themselves, the first is \w+: .*bad-0001"):
        write_data(tmp_path, "laptop", "laptop_train", ("chain_mod",))
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(("train", "names"), [("paper_train", NAMES), ("laptop_train", ("aime99",))])
def test_unknown_names_are_refused_before_anything_is_written(tmp_path, train, names):
    with pytest.raises(UserError, match=r"unknown problem set '(paper_train|aime99)'; known: "):
        write_data(tmp_path, "laptop", train, names)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make", lambda entry: [Problem(f"{entry.name}-1", entry.name, "2", 1, "s")])
    write_data(tmp_path, "laptop", "laptop_train", ("chain_mod",))
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def edit(path):
    path.write_text(path.read_text().replace('"2"', '"3"'))


def delete(path):
    path.unlink()


def forget(path):
    write_json(path.with_name("manifest.json"), {"files": {}})


def garble(path):
    path.with_name("manifest.json").write_text('{"files": ')


def strip(path):
    path.with_name("manifest.json").unlink()


@pytest.mark.parametrize("damage", [truncate, edit, delete, forget, garble, strip])
def test_a_damaged_data_file_is_named_with_the_command_that_rebuilds_it(small, damage):
    path = small / "chain_mod.jsonl"
    assert [p.answer for p in read_problems(path)] == ["2"]
    damage(path)
    with pytest.raises(UserError) as error:
        read_problems(path)
    message = str(error.value)
    assert str(small) in message and ("chain_mod.jsonl" in message or "manifest.json" in message)
    assert "snakemake --cores all --forcerun data" in message and "\n" not in message
