"""The sample store: what it keeps, what it finds missing, damage, locks."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256
from evals.sampling import store as store_module
from evals.sampling.store import COLUMNS, Gap, Store, _runs, write_samples

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = {"model": "m", "benchmark": "b", "sampling": {"temperature": 1.0, "seed": 3}}
ENGINE = {"engine": "transformers", "threads": 1}
IDS = ["a", "b", "c", "d"]


def rows_of(gap: Gap, positions, word="text") -> list[dict]:
    return [
        {"problem_id": IDS[p], "index": gap.first + i, "text": f"{word} {p} {i} \x00é", "tokens": 5, "finish": "stop"}
        for p in positions
        for i in range(gap.n)
    ]


def fill(store: Store, gap: Gap, positions, engine=ENGINE) -> None:
    store.add(gap, max(positions) + 1, bytes(positions), engine, 1.5, rows_of(gap, positions))


def test_an_empty_store_lacks_everything_and_a_full_one_nothing(tmp_path):
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        (gap,) = store.gaps(IDS, 3)
        assert gap == Gap(0, 3, (0, 1, 2, 3)) and gap.samples == 12
        fill(store, gap, (0, 1))
        fill(store, gap, (2, 3))
        assert store.gaps(IDS, 3) == []
        rows = store.rows(IDS, 3)
    assert [(row["problem_id"], row["index"]) for row in rows] == [(name, i) for name in IDS for i in range(3)]
    assert rows[4]["text"] == "text 1 1 \x00é"


def test_parts_survive_the_process_and_a_larger_k_lacks_only_the_rest(tmp_path):
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        fill(store, store.gaps(IDS, 8)[0], (0, 1, 2, 3))
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        assert store.gaps(IDS, 8) == [] and store.gaps(IDS, 4) == []
        assert store.gaps(IDS, 32) == [Gap(8, 24, (0, 1, 2, 3))]
        assert len(store.rows(IDS[:2], 2)) == 4
        with pytest.raises(UserError, match="32 samples, expected 64; run the evaluation again"):
            store.rows(IDS, 16)


def test_a_gap_is_continued_from_the_state_of_the_part_before_it(tmp_path):
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        gap = store.gaps(IDS, 2)[0]
        fill(store, gap, (0, 1))
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        (rest,) = store.gaps(IDS, 2)
        assert rest == Gap(0, 2, (2, 3))
        assert store.state_before(rest, ENGINE) == bytes((0, 1))
        assert store.state_before(rest, ENGINE | {"threads": 2}) == b""  # another engine's stream is not ours
        assert store.state_before(Gap(0, 3, (2, 3)), ENGINE) == b""  # nor is another request's
        assert store.state_before(gap, ENGINE) == b""


def test_another_address_is_another_store(tmp_path):
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        fill(store, store.gaps(IDS, 2)[0], (0, 1, 2, 3))
    for changed in ({"model": "other"}, {"sampling": {"temperature": 1.0, "seed": 4}}):
        with Store(tmp_path / "x.parts", ADDRESS | changed) as store:
            assert store.gaps(IDS, 2)[0].samples == 8
    with Store(tmp_path / "x.parts", dict(reversed(ADDRESS.items()))) as store:
        assert store.gaps(IDS, 2) == []


@pytest.mark.parametrize("harm", [lambda b: b[:-7], lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:], lambda b: b""])
def test_a_damaged_part_is_named_dropped_and_lacking_again(tmp_path, harm):
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        gap = store.gaps(IDS, 2)[0]
        fill(store, gap, (0, 1))
        fill(store, gap, (2, 3))
    (broken,) = (tmp_path / "x.parts").rglob("*-000002-*.parquet")
    broken.write_bytes(harm(broken.read_bytes()))
    said = []
    with Store(tmp_path / "x.parts", ADDRESS, said.append) as store:
        assert store.gaps(IDS, 2) == [Gap(0, 2, (0, 1))]
    assert len(said) == 1 and str(broken) in said[0] and "generated again" in said[0] and not broken.exists()


def test_makers_share_samples_and_time(tmp_path):
    other = ENGINE | {"engine": "vllm"}
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        gap = store.gaps(IDS, 4)[0]
        fill(store, gap, (0, 1, 2))
        fill(store, gap, (3,), other)
        makers = store.makers(store.rows(IDS, 2))
    assert makers == [ENGINE | {"samples": 6, "seconds": 0.75}, other | {"samples": 2, "seconds": 0.75}]


def test_a_second_writer_is_locked_out_until_the_first_is_gone(tmp_path):
    script = (
        "import sys\nfrom evals.sampling.store import Store\n"
        f"with Store({str(tmp_path / 'x.parts')!r}, {{}}):\n    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "in\n"
        with (
            pytest.raises(UserError, match=r"x\.parts: another evaluation is writing"),
            Store(tmp_path / "x.parts", {}),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    with Store(tmp_path / "x.parts", {}):  # a killed writer leaves no lock behind
        pass


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), max_size=4), st.integers(1, 6))
def test_whatever_was_asked_before_no_address_is_doubled_and_none_is_lacking(tmp_path_factory, asked, k):
    folder = tmp_path_factory.mktemp("store") / "x.parts"
    for earlier, limit in [*asked, (k, 4)]:
        with Store(folder, ADDRESS) as store:
            before = {(row["problem_id"], row["index"]) for part in store.parts for row in part.rows}
            for gap in store.gaps(IDS[:limit], earlier):
                new = {(IDS[p], gap.first + i) for p in gap.positions for i in range(gap.n)}
                assert not new & before
                before |= new
                fill(store, gap, gap.positions)
            assert store.gaps(IDS[:limit], earlier) == []
    with Store(folder, ADDRESS) as store:
        assert len(store.rows(IDS, k)) == 4 * k
        everything = [(row["problem_id"], row["index"]) for part in store.parts for row in part.rows]
    assert len(everything) == len(set(everything))


def test_parts_of_before_thinking_was_counted_are_read_and_kept(tmp_path, monkeypatch):
    old = tuple(name for name in store_module.PART_COLUMNS if name != "thinking_tokens")
    with Store(tmp_path / "x.parts", ADDRESS) as store, monkeypatch.context() as before:
        before.setattr(store_module, "PART_COLUMNS", old)
        fill(store, store.gaps(IDS, 1)[0], (0, 1, 2, 3))
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        assert {row["thinking_tokens"] for row in store.rows(IDS, 1)} == {None}
        gap = store.gaps(IDS, 2)[0]
        store.add(gap, 4, b"", ENGINE, 1.0, [row | {"thinking_tokens": 3} for row in rows_of(gap, (0, 1, 2, 3))])
    with Store(tmp_path / "x.parts", ADDRESS) as store:
        assert [row["thinking_tokens"] for row in store.rows(IDS[:1], 2)] == [None, 3]


def test_runs():
    assert _runs([0, 1, 2, 5, 6, 9]) == [(0, 3), (5, 2), (9, 1)] and _runs([]) == []


def test_a_sample_file_has_its_columns_and_a_checksum(tmp_path):
    rows = [dict.fromkeys(COLUMNS, "x") | {"index": 0, "tokens": 1, "correct": True, "answer": None}]
    stored = write_samples(tmp_path / "b.parquet", rows)
    assert stored["rows"] == 1
    table = pd.read_parquet(tmp_path / "b.parquet")
    assert stored["sha256"] == sha256(tmp_path / "b.parquet")
    assert list(table.columns) == list(COLUMNS) and pd.isna(table["answer"][0])
