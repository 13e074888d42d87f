"""The report: one file, nothing loaded, nothing run, every figure and table in it."""

import re
from html.parser import HTMLParser

import pytest
from synthetic_study import write_score, write_study

from dynclip.report.figures import FIGURES
from dynclip.report.html import write_report
from dynclip.report.tables import TABLES
from dynclip.runtime.errors import UserError


class Page(HTMLParser):
    """Tags with attributes, and the text outside of style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(study):
    return Page(write_report(study).read_text())


def test_report_is_well_formed_and_self_contained(study, page):
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "link"}
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == len(FIGURES) and all(s.startswith("data:image/svg+xml;base64,") for s in sources)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', (study / "report.html").read_text())


def test_report_holds_every_table_caption_and_fact(page):
    assert sum(tag == "table" for tag, _ in page.tags) == len(TABLES) + 3  # the claims, and two of provenance
    for text in (
        "9 of 9 finished", "12 rollout steps, 8 updates per rollout batch", "torch 2.13.0", "Test <CPU> & Co",
        "Entropy under grpo falls in 3 of 3 seeds", "commit 0123456789abcdef", "fp-od-2",
        "mlflow ui --backend-store-uri sqlite:///",
    ):  # fmt: skip
        assert text in page.text, text
    assert page.text.count("n = 3 seeds (0, 1, 2) per method") == len(FIGURES)


def test_model_output_is_escaped(study, page):
    assert "<script>alert('grpo')</script> & done" in page.text
    assert "<script" not in (study / "report.html").read_text()
    assert "what is" in page.text and "expected" in page.text


def test_report_is_byte_stable(study):
    first = write_report(study).read_bytes()
    assert write_report(study).read_bytes() == first


def test_right_and_wrong_samples_are_shown(page):
    kinds = [attrs.get("class") for tag, attrs in page.tags if tag == "div" and "sample" in (attrs.get("class") or "")]
    assert kinds.count("sample") == kinds.count("sample no") == 2 * 3


def test_smallest_study_without_problem_texts(tmp_path):
    results = write_study(tmp_path / "tiny", ("id",), (3,), steps=1)
    for path in (results / "data").glob("*.jsonl"):
        path.unlink()
    text = Page(write_report(results).read_text()).text
    assert "n=1, no claim" in text and "One method only" in text


def test_damaged_problems_and_stale_samples_are_named(study):
    (study / "data/chain_sum.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"chain_sum.jsonl.*--forcerun data"):
        write_report(study)
    write_score(study, "id", 0, "final", 12, "chain_sum", 4, 10, 0.1, "not these weights")
    with pytest.raises(UserError, match="scores other weights"):
        write_report(study)
