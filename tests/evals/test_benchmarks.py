import dataclasses
import json

import pytest

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from evals.benchmarks import loading
from evals.benchmarks.decontamination import normalise
from evals.benchmarks.loading import content_hash, load_problems, make, pins, read_problems, write_data
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS
from evals.benchmarks.worlds import WORLDS

NAMES = ("paths", "facts", "worded")
TRAINED = tuple(f"{name}_train" for name in NAMES)
COUNTS = {"paths": (60_024, 15_204), "facts": (20_000, 200), "worded": (20_000, 200)}


@pytest.fixture(scope="module", params=NAMES)
def data(request, tmp_path_factory):
    """(world, folder, manifest) of the data of one world."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, write_data(folder, request.param, f"{request.param}_train", (request.param,))


def replace(monkeypatch, entries, name, **changes):
    """Change an entry for one test, with the pin that goes with it."""
    entry = dataclasses.replace(entries[name], **changes)
    entry = dataclasses.replace(entry, content=content_hash(loading.draw(entry)))
    monkeypatch.setitem(entries, name, entry)


def test_pins_match_what_the_generators_make():
    entries = (*BENCHMARKS.values(), *TRAIN_SETS.values())
    assert pins() == {entry.name: entry.content for entry in entries if entry.kind == "generated"}
    assert set(pins()) == {*NAMES, *TRAINED}


def test_a_benchmark_is_described_by_its_entry_alone():
    for name, k, tokens in (("paths", 1, 6), ("facts", 32, 6), ("worded", 32, 14)):
        entry = BENCHMARKS[name]
        assert entry.name == entry.world == name and entry.kind == "generated" and entry.held_out
        assert (entry.count, entry.k) == (COUNTS[name][1], k)
        assert entry.sampling.record == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": tokens}
        assert "0x" not in repr(entry)  # the entry's text is digested to decide what to evaluate again


def test_a_generator_that_drifted_from_its_pin_is_refused(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "facts", dataclasses.replace(BENCHMARKS["facts"], seed=1))
    with pytest.raises(UserError, match=r"facts: generated content .* pinned is"):
        make(BENCHMARKS["facts"])


def test_the_content_hash_sees_problems_answers_and_order():
    rows = [Problem("a", "1+1=", "2", 1, "s"), Problem("b", "1+2=", "3", 1, "s")]
    edited = dataclasses.replace(rows[0], answer="3")
    hashes = {content_hash(x) for x in (rows, rows[::-1], rows[:1], [edited, rows[1]])}
    assert len(hashes) == 4
    assert content_hash([dataclasses.replace(p, id="other") for p in rows]) == content_hash(rows)


def test_files_hold_what_the_manifest_says(data):
    name, folder, manifest = data
    assert manifest == json.loads((folder / "manifest.json").read_text())
    rows = {file: entry["rows"] for file, entry in manifest["files"].items()}
    assert rows == {"train.jsonl": COUNTS[name][0], f"{name}.jsonl": COUNTS[name][1]}
    assert manifest["overlaps_removed"] == {name: 0} and manifest["removed"] == []
    assert {each: source["content"] for each, source in manifest["sets"].items()} == {
        f"{name}_train": TRAIN_SETS[f"{name}_train"].content, name: BENCHMARKS[name].content
    }  # fmt: skip
    assert manifest["generator"] == {name: WORLDS[name].title}
    assert content_hash(read_problems(folder / f"{name}.jsonl")) == BENCHMARKS[name].content
    row = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert list(row) == ["id", "problem", "answer", "level", "subject"]


def test_training_and_held_out_problems_are_disjoint_and_distinct(data):
    name, folder, _ = data
    train, held_out = ([p.problem for p in read_problems(folder / f"{file}.jsonl")] for file in ("train", name))
    assert (len(set(train)), len(set(held_out))) == COUNTS[name]
    assert not {normalise(t) for t in train} & {normalise(t) for t in held_out}


def test_every_stretch_of_the_training_set_holds_every_level(data):
    name, folder, _ = data
    levels = [p.level for p in read_problems(folder / "train.jsonl")]
    for start in range(0, 20_000, 2_000):
        shares = [levels[start : start + 2_000].count(level) / 2_000 for level in WORLDS[name].levels]
        assert sum(shares) == 1 and min(shares) > {"paths": 0.03, "facts": 0.1, "worded": 0.3}[name]


def test_overlapping_training_problems_are_dropped_and_counted(monkeypatch, tmp_path):
    replace(monkeypatch, BENCHMARKS, "facts", held_out=False, count=30)
    replace(monkeypatch, TRAIN_SETS, "facts_train", seed=102, count=60)
    manifest = write_data(tmp_path, "facts", "facts_train", ("facts",))
    dropped = manifest["overlaps_removed"]["facts"]
    assert dropped > 0 and manifest["files"]["train.jsonl"]["rows"] == 60 - dropped
    assert len(manifest["removed"]) == dropped
    assert {r["why"] for r in manifest["removed"]} == {"exact"}
    train = {p.problem for p in read_problems(tmp_path / "train.jsonl")}
    assert not train & {p.problem for p in read_problems(tmp_path / "facts.jsonl")}


def test_another_world_whose_generator_drifted_does_not_stop_the_data(monkeypatch, tmp_path):
    monkeypatch.setitem(BENCHMARKS, "worded", dataclasses.replace(BENCHMARKS["worded"], content="0" * 64))
    manifest = write_data(tmp_path, "facts", "facts_train", ("facts",))
    assert set(manifest["sets"]) == {"facts_train", "facts"}


def test_loading_makes_a_generated_set():
    assert content_hash(load_problems(BENCHMARKS["facts"])) == BENCHMARKS["facts"].content


def test_a_tolerance_survives_the_file_and_costs_the_others_nothing(monkeypatch, tmp_path):
    rows = [Problem("a", "1+1=", "2", 1, "s"), Problem("b", "1+2.5=", "3.5", 1, "s", tolerance="1e-1")]
    monkeypatch.setattr(loading, "make", lambda entry: rows)
    write_data(tmp_path, "facts", "facts_train", ("facts",))
    assert read_problems(tmp_path / "facts.jsonl") == rows
    fields = [list(json.loads(line)) for line in (tmp_path / "facts.jsonl").read_text().splitlines()]
    assert "tolerance" not in fields[0] and fields[1][-1] == "tolerance"


def test_a_gold_that_fails_against_itself_stops_the_data(monkeypatch, tmp_path):
    bad = [Problem("bad-0001", "1+1=", "}{", 2, "facts")]
    monkeypatch.setattr(loading, "make", lambda entry: bad if entry.held_out else [])
    with pytest.raises(UserError, match=r"1 golds fail against themselves, the first is \w+: .*bad-0001"):
        write_data(tmp_path, "facts", "facts_train", ("facts",))
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(("train", "names"), [("paper_train", NAMES), ("facts_train", ("aime99",))])
def test_unknown_names_are_refused_before_anything_is_written(tmp_path, train, names):
    with pytest.raises(UserError, match=r"unknown problem set '(paper_train|aime99)'; known: "):
        write_data(tmp_path, "facts", train, names)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "make", lambda entry: [Problem(f"{entry.name}-1", entry.name, "2", 1, "s")])
    write_data(tmp_path, "facts", "facts_train", ("facts",))
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
    path = small / "facts.jsonl"
    assert [p.answer for p in read_problems(path)] == ["2"]
    damage(path)
    with pytest.raises(UserError) as error:
        read_problems(path)
    message = str(error.value)
    assert str(small) in message and ("facts.jsonl" in message or "manifest.json" in message)
    assert "snakemake --cores all --forcerun data" in message and "\n" not in message
