"""The table of docs/peers.md of what equals TRL and verl: how it is made, and that it lists every compared method."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import peers_table
from dynclip import METHODS

ROOT = Path(__file__).resolve().parents[1]
DIFFERENCE = r"(0, bit for bit|\de-\d\d)"
ROW = re.compile(rf"^\| \[(\w+)\]\(methods.md#\1\) \| (TRL 1.16.0|verl 0.9.1) \| .* \| {DIFFERENCE} \| {DIFFERENCE} \|")


def listed() -> dict[tuple[str, str], tuple[str, str]]:
    """(method, peer) -> differences of loss and gradient, as the page has them."""
    lines = (ROOT / "docs/peers.md").read_text().split(peers_table.START)[1].split(peers_table.END)[0].splitlines()
    return {(row[1], row[2]): (row[3], row[4]) for row in map(ROW.match, lines) if row}


def test_the_page_lists_what_the_tests_compare_within_their_tolerance():
    source = (ROOT / "tests/peers/test_trl_methods.py").read_text()
    trl = {"grpo", "adaptive_entropy", *re.findall(r'Mapping\(\s*"(\w+)"', source.split("def assert_same")[0])}
    source = (ROOT / "tests/peers/verl/test_losses.py").read_text().split("PAIRS = ")[1].split("CASES =")[0]
    verl = {"gmpo", "ent_reg", *re.findall(r'Pair\(\s*"\w+",.*?"(\w+)",', source, re.DOTALL)}
    assert {name for name, peer in listed() if peer.startswith("TRL")} == trl <= set(METHODS)
    assert {name for name, peer in listed() if peer.startswith("verl")} == verl & set(METHODS)
    for values in listed().values():
        assert all(value == "0, bit for bit" or float(value) <= 1e-6 for value in values)
    assert listed()["grpo", "TRL 1.16.0"] == ("0, bit for bit", "0, bit for bit")


def test_a_row_has_the_largest_differences_of_a_methods_tests():
    reports = [
        {"method": "gspo", "batches": "40", "loss": "0.0", "gradient": "3e-08", "test": "tests/peers/test_trl.py"},
        {"method": "gspo", "batches": "40", "loss": "0.0", "gradient": "5e-09", "test": "tests/peers/test_trl.py"},
        {"method": "grpo", "batches": "25", "loss": "1e-07", "gradient": "0.0", "test": "tests/peers/test_trl.py"},
    ]
    first, second = peers_table.rows("TRL 1.16.0", reports)
    assert first[0] == "[grpo](methods.md#grpo)" and first[3:6] == ["1 × 25", "1e-07", "0, bit for bit"]
    assert second[3:6] == ["2 × 40", "0, bit for bit", "3e-08"]
    assert second[6] == "[test_trl](../tests/peers/test_trl.py)"


def test_the_table_replaces_what_stands_between_its_marks():
    page = f"before\n{peers_table.START}old\n{peers_table.END}\nafter\n"
    once = peers_table.written(page, "| new |")
    assert once == f"before\n{peers_table.START}\n| new |\n\n{peers_table.END}\nafter\n"
    assert peers_table.written(once, "| new |") == once
    with pytest.raises(ValueError, match="expected the marks"):
        peers_table.written("nothing", "")


def test_a_report_is_read_from_tests_that_ran_and_a_failure_is_an_error(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "def test_equals_trl(record_property): record_property('method', 'grpo')\ndef test_other(): pass\n"
    )
    (found,) = peers_table.measured(Path(sys.executable), (str(tmp_path / "test_one.py"),))
    assert found["method"] == "grpo" and found["test"].endswith("test_one.py")
    (tmp_path / "test_two.py").write_text("def test_equals_trl():\n    assert False\n")
    with pytest.raises(RuntimeError, match=r"test_two.py: expected all tests to pass"):
        peers_table.measured(Path(sys.executable), (str(tmp_path / "test_two.py"),))


def test_without_verls_environment_it_says_what_to_run(tmp_path):
    command = [sys.executable, "-m", "docs.generate.peers_table", str(tmp_path / "python")]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 1 and outcome.stderr.endswith("run `make peers`\n")
