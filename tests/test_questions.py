"""The order of docs/methods.md, its table and its chooser: one place for every method, a source for every number."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_catalogue import Counter, halves, newcomer, nothing, ones, plain, straight, untouched

from docs.generate import chooser, comparison
from docs.generate.methods_page import page
from docs.generate.questions import FAMILIES, QUESTIONS, changed, family, grouped, sections
from dynclip import METHODS
from dynclip.methods.spec import LIBRARIES

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", "constant"), ("clip_lower", "constant"), ("dynamic_upper", "probability"), ("bandpo", "probability"),
        ("id", "schedule"), ("did", "schedule"), ("od", "bound by entropy"), ("thermostat", "bound by entropy"),
        ("adapo", "bound by entropy"), ("gspo", "surrogate"), ("sapo", "surrogate"), ("steer", "weight"),
        ("clip_v", "weight"), ("cppo", "weight"), ("par", "weight by entropy"), ("exchange", "advantage"),
        ("entrocraft", "advantage by entropy"), ("kl_cov", "term"), ("ent_reg", "term"), ("aer", "term by entropy"),
    ],
)  # fmt: skip
def test_a_family_is_the_piece_that_carries_the_method(name, expected):
    assert family(METHODS[name]) == expected


def test_a_method_of_ones_own_finds_its_question():
    plain_entry = newcomer(**dict.fromkeys(("ratio", "surrogate", "weights", "rollout_weights", "advantages", "extra")),
                           reduction=None, controller=None, defaults={"width": 0.5})  # fmt: skip
    pieces = {"ratio": straight, "surrogate": plain, "weights": halves, "rollout_weights": ones,
              "advantages": untouched, "extra": nothing}  # fmt: skip
    expected = ["surrogate", "surrogate", "weight", "weight", "advantage", "term"]
    assert family(plain_entry) == "schedule"
    for (role, piece), place in zip(pieces.items(), expected, strict=True):
        options = {"width": 0.5} | ({"strength": 1.0} if role == "extra" else {})
        one = replace(plain_entry, **{role: piece}, defaults=options)
        assert family(one) == place
        assert family(replace(one, controller=Counter)) == f"{changed(one)} by entropy"
    assert family(replace(plain_entry, controller=Counter)) == "bound by entropy"


def test_every_method_is_in_one_family_and_every_family_has_a_question():
    names = [spec.name for members in grouped(METHODS).values() for spec in members]
    assert sorted(names) == sorted(METHODS)
    assert {part.question for part in FAMILIES.values()} == set(QUESTIONS)
    listed = [spec.name for parts in sections(METHODS).values() for members in parts.values() for spec in members]
    assert listed == names


def test_every_method_has_a_row_in_the_order_of_its_section():
    text = comparison.comparison(METHODS)
    rows = re.findall(r"^\| \[(\w+)\]\(#\1\) ", text, re.MULTILINE)
    assert rows == [spec.name for members in grouped(METHODS).values() for spec in members]
    assert re.findall(r"^#+ (\w+)$", page(METHODS), re.MULTILINE) == ["Methods", "Notation", *rows]
    assert all(version in text for version in LIBRARIES.values())


def test_the_times_are_those_of_the_cost_page():
    times = comparison.costs()
    cost_page = (ROOT / "docs/cost.md").read_text()
    for name in ("grpo", "bandpo"):
        value = re.search(rf"\[`{name}`\]\(methods.md#{name}\) \| ([\d.]+) \[", cost_page)[1]
        assert times[name] == float(value)
        assert f" | {float(value):.2f} | " in next(
            line for line in comparison.comparison(METHODS).splitlines() if line.startswith(f"| [{name}](")
        )
    assert set(times) <= set(METHODS)
    assert (
        comparison.row(newcomer(), None)[5] == "–" and comparison.row(newcomer(change=""), 1.0)[1] == r"The New\_comer"
    )


def test_cells_of_the_comparison_are_short_and_a_long_one_is_an_error():
    for name, spec in METHODS.items():
        cells = comparison.row(spec, 1.0)
        assert [len(cell) <= most for cell, most in zip(cells[1:], (60, 25, 32, 3, 4, 26), strict=True)] == [
            True
        ] * 6, name
    with pytest.raises(ValueError, match="'newcomer': the first sentence of `change` has 59 characters"):
        comparison.brief(newcomer(change="x" * 59 + ". It is short."))


def test_libraries_are_named_in_one_order_and_only_if_known():
    assert comparison.libraries(("verl", "TRL")) == "TRL, verl"
    assert comparison.libraries(tuple(LIBRARIES)) == "all" and comparison.libraries(()) == "–"
    assert comparison.libraries(tuple(LIBRARIES)[1:]) == "all but TRL"
    with pytest.raises(ValueError, match="method 'newcomer': shipped in 'nowhere', expected: TRL, verl"):
        newcomer(shipped=("nowhere",))


def plain_text(markdown: str) -> str:
    """One line, with one sign for minus."""
    return " ".join(markdown.split()).replace("-", "−")


def numbers(claim: str) -> list[str]:
    """Intervals and numbers of a claim, without those in names and words."""
    bare = re.sub(r"`[^`]*`|pass@\d+", "", plain_text(claim))
    intervals = re.findall(r"\[[^]]*\]", bare)
    bare = re.sub(r"\[[^]]*\]", "", bare)
    return intervals + re.findall(r"[+−]?\d+(?:\.\d+)?(?:e−\d+)?", bare)


def test_every_line_of_the_chooser_names_methods_and_every_number_is_on_its_page():
    assert numbers("`od_2` has −0.5 nats [−1.0, +0.2] at pass@1, 3 of 4.") == ["[−1.0, +0.2]", "−0.5", "3", "4"]
    for advice in chooser.CHOICES:
        assert set(advice.methods) <= set(METHODS) and advice.methods, advice.seen
        assert numbers(advice.why.replace("(1 − m)", "")) == [], "a number needs a finding"
        for finding in advice.found:
            found = plain_text((ROOT / "docs" / finding.page.split("#")[0]).read_text())
            for one in numbers(finding.text):
                assert re.search(rf"(?<![\d.]){re.escape(one)}(?!\d)", found), (finding.page, one)
            named = set(re.findall(r"`(\w+)`", finding.text)) - {"paths", "worded", "facts"}
            assert named <= set(METHODS), advice.seen


def test_the_chooser_links_its_evidence_and_says_where_there_is_none():
    lines = chooser.chooser().splitlines()[2:]
    assert len(lines) == len(chooser.CHOICES)
    for line, advice in zip(lines, chooser.CHOICES, strict=True):
        assert (chooser.NONE in line) == (not advice.found)
        assert all(f"]({finding.page})" in line for finding in advice.found)
        assert all(f"[{name}](#{name})" in line for name in advice.methods)
    assert "\n".join(lines) in page(METHODS)
