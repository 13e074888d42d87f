"""Loading from the hub: cleaning rules by hand, local copies made here, and every real set from the stand-in hub.

The stand-in serves ../shared/hub, beside the checkout; without it those tests are skipped. Hub clients read their
environment when they are imported, so whatever talks to it runs in a process of its own.
"""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from dynclip.runtime.errors import UserError
from dynclip.studies.scales import SCALES
from evals import evaluation
from evals.benchmarks import first_load, hub, loading
from evals.benchmarks.decontamination import decontaminate, normalise
from evals.benchmarks.hub import HubSet
from evals.benchmarks.loading import content_hash, load_problems
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS, PAPER_SAMPLING, TRAIN_SETS, HubBenchmark
from evals.sampling.settings import Evaluation

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
SIX = ("aime24", "aime25", "amc", "math500", "gsm8k", "olympiad")
UNPINNED = ("aime26", "hmmt_feb25", "hmmt_nov25", "hmmt_feb26", "amc24", "minerva")  # their first load pins them
TRAINING = ("gsm8k_train", "dapo", "dapo_processed", "dapo_english")
ENTRIES = {**{name: BENCHMARKS[name] for name in SIX}, **{name: TRAIN_SETS[name] for name in TRAINING}}
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens


# Cleaning, by hand


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("025", "25"), ("000", "0"), ("204", "204"), (27.0, "27"), (-1.0, "-1"), (0.0, "0"), (4321.0, "4321"),
        (4.25, "4.25"), (" 1,230,000 ", "1230000"), ("-10", "-10"), ("-007.50", "-7.5"), ("-0", "0"), ("+3", "3"),
        ("123456789012345678901234567890", "123456789012345678901234567890"), ("12.", "12"), (70, "70"),
        ("east", "east"), (r"\frac12", r"\frac12"), ("1e999999999", "1e999999999"), ("nan", "nan"), ("", ""),
    ],
)  # fmt: skip
def test_numbers(raw, clean):
    assert hub.number_answer(raw) == clean


@pytest.mark.parametrize(
    ("solution", "clean"),
    [
        ("He has 2+3=<<2+3=5>>5 hens.\n#### 5", "5"),
        ("So 1,000 #### no\n#### 1,234", "1234"),
        ("It is colder.\n#### -7 ", "-7"),
    ],
)
def test_gsm8k_answers(solution, clean):
    assert hub.gsm8k_answer(solution) == clean


@pytest.mark.parametrize(
    ("answers", "many", "clean"),
    [
        (["2"], False, "2"),
        ([r"$\frac{3}{5 n+7}$"], False, r"\frac{3}{5 n+7}"),
        (["$(-3, 4) \\cup\\{9\\}$."], False, r"(-3, 4) \cup\{9\}"),
        ([r"$\quad(2+\sqrt{2}, 1)$"], False, r"(2+\sqrt{2}, 1)"),
        (["12.5%"], False, "12.5%"),
        (["0.75"], False, "0.75"),
        (["12,345"], True, "12, 345"),
        (["$71$,$82$"], True, "71, 82"),
        (["$331,$7$"], True, "331, 7"),
        (["$(1,2), (3,[4,5])$,$\\{6,7\\}$"], True, r"(1,2), (3,[4,5]), \{6,7\}"),
        (["$1$", "$2$"], True, "1, 2"),
        (["$f(n)=5$, $g(n)=7$"], False, "f(n)=5, g(n)=7"),
    ],
)
def test_olympiad_answers(answers, many, clean):
    assert hub.olympiad_answer(answers, {"is_multiple_answer": many}) == clean


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        (7, "7"), ("103", "103"), (r"-\frac{1}{21}", r"-\frac{1}{21}"), (r"0,i\sqrt{6}", r"0, i\sqrt{6}"),
        ("1 , 2", "1, 2"), ("(1,2)", "(1,2)"), (r"\frac{f(1,2)}{3},4", r"\frac{f(1,2)}{3}, 4"),
    ],
)  # fmt: skip
def test_answers_that_may_be_lists(answer, clean):
    assert hub.list_answer(answer) == clean


def test_a_dapo_prompt_is_reduced_to_its_problem():
    text = (
        "Solve the following math problem step by step. The last line is Answer: $Answer.\n\n"
        'Find x.\n\nRemember to be exact.\n\nRemember to put your answer on its own line after "Answer:".'
    )
    assert hub.dapo_problem([{"role": "user", "content": text}]) == "Find x.\n\nRemember to be exact."
    assert hub.dapo_problem([{"role": "user", "content": "Find x."}]) == "Find x."


def test_pools_are_counted_off_in_order():
    pools = (("a", 2), ("b", 1))
    assert [hub.pool(pools, number) for number in range(4)] == ["a", "a", "b", ""]


def test_a_row_becomes_a_problem():
    entry = HubSet(
        "toy", "Toy", "o/toy", "default", "test", "question", "reward.truth", 1, "",
        answer_rule="number", key="extra.index", level="level", subject="field", tolerance="error",
    )  # fmt: skip
    row = {
        "question": " What? \n", "reward": {"truth": "007"}, "extra": {"index": 31}, "level": 4, "field": "Algebra",
        "error": "1e-1",
    }  # fmt: skip
    assert hub.problem_of(entry, row, 0) == Problem("toy-31", "What?", "7", 4, "Algebra", "1e-1")
    bare = dataclasses.replace(entry, key="", level="", subject="", tolerance="")
    assert hub.problem_of(bare, row, 8) == Problem("toy-0009", "What?", "7", 0, "Toy")
    assert hub.problem_of(entry, {**row, "error": None, "field": None}, 0).tolerance == ""


def test_the_registry_describes_the_benchmarks():
    assert [name for name, entry in BENCHMARKS.items() if entry.kind == "hub"] == [*SIX, *UNPINNED]
    assert [BENCHMARKS[name].k for name in SIX] == [32, 32, 32, 4, 2, 4]
    assert [BENCHMARKS[name].k for name in UNPINNED] == [32, 32, 32, 32, 32, 4]
    assert {BENCHMARKS[name].sampling for name in (*SIX, *UNPINNED)} == {PAPER_SAMPLING}
    assert PAPER_SAMPLING.record == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_tokens": 4096}
    assert len({entry.seed for entry in BENCHMARKS.values()}) == len(BENCHMARKS)
    for name, entry in ENTRIES.items():
        assert entry.name == name and re.fullmatch("[0-9a-f]{64}", entry.content)
        assert sum(size for _, size in entry.pools) in (0, entry.count)
        assert entry.problem_rule in hub.PROBLEM_RULES and entry.answer_rule in hub.ANSWER_RULES
        assert "0x" not in repr(entry)  # the entry's text is digested to decide what to evaluate again
    for name in (*SIX, *UNPINNED):
        entry = BENCHMARKS[name]
        assert bool(entry.content) == (name in SIX) and entry.answer_rule in hub.ANSWER_RULES
        assert date.fromisoformat(entry.released) > date(2021, 1, 1) and entry.released not in repr(entry)
    assert set(SCALES["paper"].benchmarks) == set(
        SIX
    )  # a study without a choice of its own has pinned benchmarks alone


def test_the_documented_tables_are_the_registry():
    rows = {}
    for line in (ROOT / "docs" / "benchmarks.md").read_text().splitlines():
        if re.match(r"\| `\w+` \| `[\w.-]+/[\w.-]+` \|", line):
            name, id, place, *numbers = (cell.strip(" `") for cell in line.strip("|").split("|"))
            rows[name] = id, place, *map(int, filter(str.isdecimal, numbers))
    entries = ENTRIES | {name: BENCHMARKS[name] for name in UNPINNED}
    expected = {name: (entry.id, f"{entry.config} / {entry.split}", entry.count) for name, entry in entries.items()}
    assert rows == {name: row if name in TRAINING else (*row, entries[name].k) for name, row in expected.items()}


def test_the_documented_dates_and_pins_are_the_registry():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for name in (*SIX, *UNPINNED):
        row = re.search(rf"^\| `{name}` \| `{BENCHMARKS[name].id}` .*", text, re.MULTILINE)[0]
        assert BENCHMARKS[name].released in row and ("first load" in row) == (name in UNPINNED)


# Local copies made here


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """write(id, rows) puts a data set where DYNCLIP_HUB points; nothing touches the user's cache."""
    monkeypatch.setenv(hub.LOCAL_COPY, str(tmp_path / "copies"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))

    def write(id, rows, name="test.jsonl"):
        folder = tmp_path / "copies" / id
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows) if name.endswith("jsonl") else rows
        (folder / name).write_text(text)

    return write


def toy(rows, entry=None, **changes):
    entry = entry or HubSet("toy", "Toy", "o/toy", "default", "test", "problem", "answer", 0, "", answer_rule="number")
    entry = dataclasses.replace(entry, **changes)
    problems = [hub.problem_of(entry, row, number) for number, row in enumerate(rows)]
    return dataclasses.replace(entry, count=len(rows), content=content_hash(problems))


ROWS = [{"problem": f"Find {i}.", "answer": f"0{i}"} for i in range(5)]


def test_a_local_copy_is_loaded(copies, capfd):
    copies("o/toy", ROWS)
    found = load_problems(toy(ROWS))
    assert [p.answer for p in found] == list("01234") and found[0].id == "toy-0001"
    assert "[toy] o/toy (default/test) from the local copy" in capfd.readouterr().err


@pytest.mark.parametrize("changed", [ROWS[:4], [*ROWS[:4], {**ROWS[4], "answer": "5"}], ROWS[::-1]])
def test_other_contents_than_the_pinned_are_refused(copies, changed):
    copies("o/toy", changed)
    entry, found = toy(ROWS), toy(changed)
    with pytest.raises(UserError) as error:
        load_problems(entry)
    message = str(error.value)
    assert "o/toy (config default, split test, revision main)" in message and "\n" not in message
    assert f"expected 5 problems with content {entry.content}" in message
    assert f"found {found.count} with {found.content}" in message


def test_a_gold_that_fails_against_itself_is_refused(copies):
    rows = [*ROWS, {"problem": "Find nothing.", "answer": "}{"}]
    copies("o/toy", rows)
    with pytest.raises(UserError, match=r"toy: 1 golds fail against themselves.*toy-0006"):
        load_problems(toy(rows))


def test_rows_that_repeat_are_kept_once_in_the_order_of_their_keys(copies):
    rows = [{**row, "extra": {"index": f"{9 - i}"}} for i, row in enumerate(ROWS)]
    entry = dataclasses.replace(toy([]), key="extra.index", distinct=True)
    entry = toy(rows[::-1], entry)
    for seed in range(3):  # whatever the order in the file
        copies("o/toy", [*rows[seed:], *rows, *rows[:seed]])
        assert [p.id for p in load_problems(entry)] == [f"toy-{key}" for key in (5, 6, 7, 8, 9)]


def test_missing_columns_are_named(copies):
    copies("o/toy", [{"question": "Find 1.", "answer": "1"}])
    with pytest.raises(UserError, match=r"toy: o/toy .* has the columns question, answer, .*'problem'"):
        load_problems(toy(ROWS))
    keyed = dataclasses.replace(toy([]), key="extra.index", distinct=True)
    with pytest.raises(UserError, match=r"toy: o/toy .* has the columns question, answer"):
        load_problems(keyed)


def test_a_missing_copy_or_split_or_another_format_is_refused(copies):
    with pytest.raises(UserError, match=r"DYNCLIP_HUB is set and .*o/toy is no folder; .* hf download"):
        load_problems(toy(ROWS))
    copies("o/toy", ROWS)
    with pytest.raises(UserError, match=r"toy: cannot read the local copy .*o/toy: .*train"):
        load_problems(toy(ROWS, split="train"))
    copies("o/other", "problem,answer\nFind 1.,1\n", name="test.csv")
    with pytest.raises(UserError, match=r"format csv; read are parquet and json alone"):
        load_problems(toy(ROWS, id="o/other"))


def test_a_folder_of_that_name_in_the_working_directory_is_not_the_hub(copies, monkeypatch, tmp_path):
    copies("o/toy", ROWS)
    monkeypatch.delenv(hub.LOCAL_COPY)
    monkeypatch.chdir(tmp_path / "copies")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nor is it in the cache"):
        load_problems(toy(ROWS))


def test_written_data_says_where_it_comes_from_and_what_was_left_out(copies, monkeypatch, tmp_path):
    story = "Ann buys three red apples and four green pears for her two cousins who visit on Sunday number"
    rows = [{"problem": f"{story} {i}?", "answer": str(i), "error": "1e-1" if i == 1 else None} for i in (1, 2)]
    training = [{"problem": f"{story.upper()}: 1?", "answer": "1"}, {"problem": "Find 1.", "answer": "1"}]
    copies("o/bench", rows)
    copies("o/train", training)
    form = HubBenchmark("", "", "", "default", "test", "problem", "answer", 0, "", tolerance="error")
    bench = {name: toy(rows, form, name=name, id="o/bench") for name in ("asked", "unasked")}
    bench["away"] = dataclasses.replace(form, name="away", id="o/away")  # without a pin, and nowhere to be found
    train = toy(training, name="set", id="o/train")
    monkeypatch.setattr(loading, "BENCHMARKS", bench)
    monkeypatch.setattr(loading, "TRAIN_SETS", {"set": train})
    manifest = loading.write_data(tmp_path / "data", "tiny", "set", ("asked",))
    assert manifest == json.loads((tmp_path / "data/manifest.json").read_text())
    assert {name: file["rows"] for name, file in manifest["files"].items()} == {"train.jsonl": 1, "asked.jsonl": 2}
    assert manifest["sets"]["asked"] == {
        "rows": 2, "id": "o/bench", "config": "default", "split": "test", "revision": "local copy",
        "content": bench["asked"].content,
    }  # fmt: skip
    assert manifest["removed"] == [
        {"id": "set-0001", "why": "exact", "benchmark": "asked", "problem": "asked-0001", "share": 1.0}
    ]
    assert manifest["overlaps_removed"] == {"asked": 1, "unasked": 0}
    assert [p.tolerance for p in loading.read_problems(tmp_path / "data" / "asked.jsonl")] == ["1e-1", ""]
    with pytest.raises(UserError, match="o/away is no folder"):
        loading.write_data(tmp_path / "data", "tiny", "set", ("away",))


# Sets that the registry does not pin

NEW = dataclasses.replace(toy([]), count=0, content="")


def test_the_first_load_pins_and_later_ones_compare(copies, capfd, tmp_path):
    copies("o/toy", ROWS)
    pinned = content_hash(load_problems(NEW))
    said = capfd.readouterr().err
    assert f"first load: pinned 5 problems with content {pinned[:12]} in {tmp_path}/home/dynclip-pins.json" in said
    pin = {"place": NEW.place, "count": 5, "content": pinned, "commit": "local copy", "date": str(date.today())}
    assert json.loads(first_load.pins_file().read_text()) == {"toy": pin}
    assert len(load_problems(NEW)) == 5
    assert "pinned" not in capfd.readouterr().err
    assert loading.obtain(NEW)[1]["content"] == pinned

    copies("o/toy", ROWS[::-1])
    with pytest.raises(UserError) as error:
        load_problems(NEW)
    message = str(error.value)
    assert "toy: o/toy (config default, split test, revision main) is not what its first load pinned" in message
    assert f"expected 5 problems with content {pinned} (local copy, {date.today()}), found 5 with " in message
    assert str(first_load.pins_file()) in message and "\n" not in message
    other = dataclasses.replace(NEW, revision="v2")  # another place is pinned anew
    assert len(load_problems(other)) == 5 and "first load: pinned" in capfd.readouterr().err


def test_a_count_that_is_documented_is_required_before_anything_is_pinned(copies):
    copies("o/toy", ROWS)
    with pytest.raises(UserError, match=r"toy: o/toy .* expected 6 problems, found 5 at local copy; set `revision`"):
        load_problems(dataclasses.replace(NEW, count=6))
    assert not first_load.pins_file().exists()
    assert len(load_problems(dataclasses.replace(NEW, count=5))) == 5


def test_pins_that_cannot_be_written_are_reported_and_the_load_goes_on(copies, capfd, tmp_path):
    copies("o/toy", ROWS)
    (tmp_path / "home").write_text("")  # a file where the folder should be
    assert len(load_problems(NEW)) == 5
    assert re.search(r"\[toy\] .* not pinned: cannot write .*dynclip-pins\.json \(.*\)", capfd.readouterr().err)


@pytest.mark.parametrize("text", ["{", "[]", '{"toy": {"place": "o/toy"}}', '{"toy": 1}'])
def test_damaged_pins_are_named(copies, text):
    copies("o/toy", ROWS)
    first_load.pins_file().parent.mkdir()
    first_load.pins_file().write_text(text)
    with pytest.raises(UserError, match=r"dynclip-pins\.json cannot be read \(.*\); correct it, or remove it") as error:
        load_problems(NEW)
    assert "\n" not in str(error.value)


def test_the_problems_of_a_study_have_the_hash_of_the_whole_set(copies, monkeypatch, tmp_path):
    copies("o/toy", ROWS)
    copies("o/train", [{"problem": "Find 99.", "answer": "99"}])
    monkeypatch.setattr(loading, "BENCHMARKS", {"toy": NEW})
    train = toy([{"problem": "Find 99.", "answer": "99"}], name="set", id="o/train")
    monkeypatch.setattr(loading, "TRAIN_SETS", {"set": train})
    manifest = loading.write_data(tmp_path / "data", "tiny", "set", ("toy",))
    monkeypatch.setattr(evaluation, "BENCHMARKS", {"toy": NEW})
    request = evaluation.Request(None, ("toy",), Evaluation(limit=2), tmp_path, tmp_path, tmp_path / "data")
    problems, whole, content = evaluation.problems_of(request, "toy")
    assert (len(problems), whole) == (2, 5)
    assert content == manifest["sets"]["toy"]["content"] == content_hash(load_problems(NEW))


# Rows with the documented columns of these sets: (rows, their answers, the subject of the first)
DOCUMENTED = {
    "aime26": ([{"problem_idx": 1, "answer": 62, "problem": "Find 62."}], ["62"], "AIME 2026"),
    "amc24": (
        [{"exam": "AMC 12A", "problem_number": 1, "problem": "Find 2.", "answer": "2"},
         {"exam": "AMC 12B", "problem_number": 1, "problem": "Where?", "answer": "(0, \\frac{1}{2})"}],
        ["2", "(0, \\frac{1}{2})"], "AMC 12A",
    ),
    "minerva": (
        [{"question": "Find x(t).", "answer": "1+\\sqrt{3} i"}, {"question": "How long?", "answer": "4.5e33"}],
        ["1+\\sqrt{3} i", "4.5e33"], "Minerva-Math",
    ),
    **dict.fromkeys(
        ("hmmt_feb25", "hmmt_nov25", "hmmt_feb26"),
        (
            [{"problem_idx": 1, "answer": "-\\frac{1}{21}", "problem_type": ["Algebra", " Geometry"], "problem": "x"},
             {"problem_idx": 2, "answer": "0,i\\sqrt{6}", "problem_type": ["Algebra"], "problem": "Find all."}],
            ["-\\frac{1}{21}", "0, i\\sqrt{6}"], "Algebra, Geometry",
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPINNED)
def test_documented_columns_become_problems(copies, name):
    rows, answers, subject = DOCUMENTED[name]
    entry = BENCHMARKS[name]
    copies(entry.id, rows, name=f"{entry.split}.jsonl")
    problems = load_problems(dataclasses.replace(entry, count=len(rows)))  # golds are graded against themselves
    assert [p.answer for p in problems] == answers and problems[0].subject == subject
    assert problems[0].problem in (rows[0].get("problem"), rows[0].get("question"))
    with pytest.raises(UserError, match=f"expected {entry.count} problems, found {len(rows)}"):
        load_problems(entry)


# The real sets, from the stand-in hub


def python(script, home, **environment):
    """The last line that `script` prints, as JSON, and its standard error, from a process with this environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "DYNCLIP_", "HUGGINGFACE"))}
    result = subprocess.run(
        [sys.executable, "-c", f"import dataclasses, json\nfrom evals.benchmarks import hub, loading\n{script}"],
        cwd=home, capture_output=True, text=True, timeout=1800,
        env={**kept, "PYTHONPATH": str(ROOT), "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


# One line of JSON: the message that loading each of `changed` fails with, or what it loads.
MESSAGES = """
entries = {**loading.BENCHMARKS, **loading.TRAIN_SETS}
found = []
for name, changes in %s:
    try:
        found.append(len(loading.obtain(dataclasses.replace(entries[name], **changes))[0]))
    except loading.UserError as error:
        found.append(str(error))
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A fresh HF_HOME, filled by `real`."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="session")
def real(stand_in, home):
    """Every set, loaded once: name -> problems; the manifest of DAPO's training data beside all six benchmarks."""
    script = f"""
folder = loading.Path("data")
loading.write_data(folder, "paper", "dapo", {SIX})
sources = {{}}
for name in {TRAINING}:
    problems, sources[name] = loading.obtain(loading.TRAIN_SETS[name])
    loading.check_golds(name, problems)
    (folder / f"whole_{{name}}.json").write_text(json.dumps([dataclasses.asdict(p) for p in problems]))
print(json.dumps(sources))
"""
    sources, _ = python(script, home, HF_ENDPOINT=stand_in)
    manifest = json.loads((home / "data/manifest.json").read_text())
    sets = {name: loading.read_problems(home / "data" / f"{name}.jsonl") for name in SIX}
    for name in TRAINING:
        sets[name] = [Problem(**row) for row in json.loads((home / f"data/whole_{name}.json").read_text())]
    return sets, manifest, {**manifest["sets"], **sources}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_set_loads_as_pinned_with_golds_that_agree_with_themselves(real, name):
    sets, _, sources = real  # loading it has graded every gold
    assert len(sets[name]) == len({p.id for p in sets[name]}) == ENTRIES[name].count
    assert content_hash(sets[name]) == ENTRIES[name].content == sources[name]["content"]
    assert sources[name]["id"] == ENTRIES[name].id and re.fullmatch("[0-9a-f]{40}", sources[name]["revision"])
    assert all(p.problem and p.answer and p.subject and "boxed" not in p.answer for p in sets[name])


def test_contest_answers_are_plain_integers(real):
    for name in ("aime24", "aime25", "amc", "gsm8k", *TRAINING):
        assert all(re.fullmatch(r"0|-?[1-9][0-9]*", p.answer) for p in real[0][name]), name
    assert all(0 <= int(p.answer) <= 999 for name in ("aime24", "aime25") for p in real[0][name])


def test_contests_levels_and_fields_are_visible(real):
    subjects = {name: Counter(p.subject for p in real[0][name]) for name in SIX}
    assert subjects["aime24"] == {"AIME 2024 I": 15, "AIME 2024 II": 15}
    assert subjects["aime25"] == {"AIME 2025 I": 15, "AIME 2025 II": 15}
    assert subjects["amc"] == {"AMC 12 2022": 43, "AMC 12 2023": 40}
    assert len(subjects["math500"]) == 7 and {p.level for p in real[0]["math500"]} == {1, 2, 3, 4, 5}
    assert set(subjects["olympiad"]) == {"Algebra", "Combinatorics", "Geometry", "Number Theory"}


def test_the_pools_are_what_the_files_say_elsewhere(real):
    """AIME 2024's rows carry the contest in their address; AMC 2023 is also a data set of its own."""
    import pyarrow.parquet as parquet

    tree = SHARED / "hub" / "datasets"
    urls = parquet.read_table(tree / "HuggingFaceH4/aime_2024/data/train-00000-of-00001.parquet")["url"].to_pylist()
    assert [p.subject for p in real[0]["aime24"]] == [
        "AIME 2024 II" if "AIME_II_" in url else "AIME 2024 I" for url in urls
    ]
    rows = parquet.read_table(tree / "math-ai/amc23/data/test-00000-of-00001.parquet").to_pylist()
    pool = [p for p in real[0]["amc"] if p.subject == "AMC 12 2023"]
    assert [normalise(row["question"]) for row in rows] == [normalise(p.problem) for p in pool]
    assert [row["answer"] for row in rows] == [p.answer for p in pool]


def test_olympiad_golds_are_bare(real):
    golds = real[0]["olympiad"]
    assert not [p for p in golds if "$" in p.answer or p.answer != p.answer.strip(" .")]
    assert [(p.id, p.tolerance) for p in golds if p.tolerance] == [("olympiad-2592", "1e-1")]
    assert not [p for p in golds if re.search(r"\d,\d", re.sub(r"[\[({].*[\])}]", "", p.answer))]


def test_both_hub_variants_of_dapo_hold_the_same_problems(real):
    sets = real[0]
    rows = {name: {p.id.removeprefix(f"{name}-"): (p.problem, p.answer) for p in sets[name]} for name in TRAINING[1:]}
    assert rows["dapo"] == rows["dapo_processed"]
    assert rows["dapo_english"].items() < rows["dapo"].items()
    assert not [p for p in sets["dapo"] if "Answer:" in p.problem or p.problem.startswith("Solve the following math")]


def test_what_is_known_to_be_odd_in_dapo_is_there(real):
    """Reported in docs/benchmarks.md; a change of these counts is a change of the data."""
    dapo = real[0]["dapo"]
    answers = {}
    for p in dapo:
        answers.setdefault("".join(p.problem.split()), set()).add(p.answer)
    assert len(answers) == 16921 and sum(len(found) > 1 for found in answers.values()) == 8
    assert sum(p.answer == "-1" for p in dapo) == 72
    assert sum(abs(int(p.answer)) >= 2**63 for p in dapo) == 3


def test_the_problems_of_dapo_that_occur_in_benchmarks_are_removed_and_listed(real, home):
    _, manifest, _ = real
    removed = manifest["removed"]
    exact = [row for row in removed if row["why"] == "exact"]
    assert Counter(row["benchmark"] for row in exact) == {"amc": 18, "olympiad": 11, "math500": 8}
    assert len({(row["benchmark"], row["problem"]) for row in exact}) == 31
    assert Counter(row["why"] for row in removed) == {"exact": 37, "13-gram": 368}
    assert manifest["overlaps_removed"] == {
        "aime24": 46, "aime25": 60, "amc": 108, "math500": 80, "gsm8k": 0, "olympiad": 111
    }  # fmt: skip
    assert sum(row["why"] == "13-gram" and row["share"] >= 0.5 for row in removed) == 107
    assert manifest["files"]["train.jsonl"]["rows"] == 17398 - len(removed)
    left = {json.loads(line)["id"] for line in (home / "data/train.jsonl").read_text().splitlines()}
    assert left == {p.id for p in real[0]["dapo"]} - {row["id"] for row in removed}


def test_gsm8k_train_shares_four_stories_with_its_test_set(real):
    kept, overlaps = decontaminate(real[0]["gsm8k_train"], {name: real[0][name] for name in SIX})
    assert [(o.why, o.benchmark) for o in overlaps] == [("13-gram", "gsm8k")] * 4 and len(kept) == 7469


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": NOWHERE}], ids=["offline", "away"])
def test_a_filled_cache_serves_without_the_hub(real, home, environment):
    found, said = python(MESSAGES % [(name, {}) for name in ENTRIES], home, **environment)
    assert found == [entry.count for entry in ENTRIES.values()]
    reason = "HF_HUB_OFFLINE is set" if "HF_HUB_OFFLINE" in environment else "refused"
    for name in ENTRIES:
        assert re.search(rf"^\[{name}\] .* from the cache .*, commit [0-9a-f]{{12}} \(.*{reason}", said, re.MULTILINE)
    assert "Retry" not in said


def test_what_the_hub_does_not_have_is_an_error_that_says_so(real, home, stand_in):
    none = "0" * 64
    cases = [
        ("aime24", {"count": 29, "content": none}),
        ("aime24", {"id": "HuggingFaceH4/aime_1900"}),
        ("gsm8k", {"config": "secondary"}),
        ("gsm8k", {"split": "validation"}),
        ("aime24", {"problem": "question"}),
        ("dapo_processed", {"key": "extra_info.number"}),
    ]
    found, _ = python(MESSAGES % cases, home, HF_ENDPOINT=stand_in)
    aime = BENCHMARKS["aime24"]
    assert f"expected 29 problems with content {none}, found 30 with {aime.content} at " in found[0]
    assert "aime24: HuggingFaceH4/aime_2024 (config default, split train, revision main)" in found[0]
    assert (
        f"cannot load HuggingFaceH4/aime_1900 (config default, split train, revision main) from {stand_in}" in found[1]
    )
    assert "secondary" in found[2] and "validation" in found[3]
    assert "has the columns id, problem, solution, answer, url, year" in found[4] and "question" in found[4]
    assert "extra_info.number" in found[5] or "number" in found[5]
    assert not [message for message in found if "\n" in message]


def test_a_revision_is_asked_for_and_must_exist(real, stand_in, tmp_path):
    commit = real[2]["aime25"]["revision"]
    cases = [("aime25", {"revision": commit}), ("aime24", {"revision": "0" * 40})]
    found, said = python(MESSAGES % cases, tmp_path, HF_ENDPOINT=stand_in)
    assert found[0] == 30 and f"commit {commit[:12]}" in said
    assert f"revision {'0' * 40}" in found[1] and "cannot load" in found[1]


def test_a_hub_that_is_away_is_one_error_without_retries(tmp_path):
    found, said = python(MESSAGES % [("olympiad", {})], tmp_path, HF_ENDPOINT=NOWHERE)
    for part in (
        "olympiad: cannot load Hothan/OlympiadBench (config OE_TO_maths_en_COMP, split train, revision main)",
        NOWHERE, "refused", "HF_ENDPOINT", "HF_HUB_OFFLINE=1", f"cache ({tmp_path})",
        "DYNCLIP_HUB=FOLDER with a copy in FOLDER/Hothan/OlympiadBench",
    ):  # fmt: skip
        assert part in found[0]
    assert "Retry" not in said and "\n" not in found[0]


def test_an_empty_cache_offline_is_an_error(tmp_path):
    found, _ = python(MESSAGES % [("aime24", {})], tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set; nor is it in the cache" in found[0]


def test_a_hub_that_never_answers_is_asked_once(tmp_path):
    silent = socket.create_server(("127.0.0.1", 0))
    calls = []

    def listen():
        while True:
            try:
                calls.append(silent.accept()[0])
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
    found, _ = python(f"hub.HUB_TIMEOUT_S = 1\n{MESSAGES}" % [("aime24", {})], tmp_path, HF_ENDPOINT=endpoint)
    silent.close()
    assert f"from {endpoint}: " in found[0] and "timed out" in found[0]
    datasets = [call for call in calls if b"/api/datasets/" in call.recv(4096)]
    assert len(datasets) == 1


def test_a_folder_of_copies_serves_instead_of_the_hub(stand_in, tmp_path):
    copies = str(SHARED / "hub" / "datasets")
    found, said = python(MESSAGES % [(name, {}) for name in ENTRIES], tmp_path, DYNCLIP_HUB=copies)
    assert found == [entry.count for entry in ENTRIES.values()]
    assert said.count("from the local copy") == len(ENTRIES)
