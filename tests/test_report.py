"""The report: one file, nothing loaded, nothing run, every figure and table in it."""

import re
from html.parser import HTMLParser

import pytest
from synthetic_study import write_score, write_study, write_world

from dynclip.report.evidence import load_evidence
from dynclip.report.figures import FIGURES
from dynclip.report.html import write_front, write_report
from dynclip.report.html.answers import answers, end_scores, entropy_areas
from dynclip.report.html.front import table
from dynclip.report.html.front_figure import spread_apart
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
        "dynclip ui",
    ):  # fmt: skip
        assert text in page.text, text
    assert page.text.count("n = 3 seeds (0, 1, 2) per method") == len(FIGURES)


def test_model_output_is_escaped(study, page):
    assert "<script>alert('grpo')</script> & done" in page.text
    assert "<script" not in (study / "report.html").read_text()
    assert "what is" in page.text and "expected" in page.text


def test_the_first_screen_is_the_answers_and_provenance_comes_last(study):
    text = write_report(study).read_text()
    first, rest = text.split("<nav", 1)
    assert "Mean entropy over training, against grpo" in first and "<dl>" not in first
    assert rest.index('id="provenance"') < rest.index("<dl>")


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
    (study / "data/facts.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"facts.jsonl.*--forcerun data"):
        write_report(study)
    write_score(study, "id", 0, "final", 12, "facts", 4, 10, 0.1, "not these weights")
    with pytest.raises(UserError, match="scores other weights"):
        write_report(study)


METHODS = ("grpo", "id", "did", "od")


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    results = tmp_path_factory.mktemp("suite") / "results"
    write_world(results / "paths", METHODS, range(8), steps=20)
    write_world(results / "worded", METHODS[:2], range(2), steps=20, start=1.3, end=0.8)
    write_front(results, "laptop", ("paths", "worded"), seeds={"paths": range(8), "worded": (0, 1)})
    return results


def test_the_front_page_is_well_formed_and_links_to_each_report(suite):
    text = (suite / "laptop/report.html").read_text()
    page = Page(text)
    assert page.open == [] and sum(tag == "img" for tag, _ in page.tags) == 1
    assert re.findall(r'href="([^#"]*)"', text) == ["../paths/report.html", "../worded/report.html"]
    assert str(suite) not in text and "/tmp" not in text
    assert (suite / "laptop/front.png").read_bytes()[:4] == b"\x89PNG"
    assert page.text.index("Entropy collapses under grpo") < page.text.index("entropy left, %")


def test_the_answers_say_what_the_runs_show(suite):
    paths, worded = (load_evidence(suite / name, METHODS[:n]) for name, n in (("paths", 4), ("worded", 2)))
    said = answers(paths)
    assert re.match(
        r"Entropy collapses under grpo: from 2\.\d\d \[.*1\d \[1\d, 1\d\] % of the start is left \(8 seeds\)", said[0]
    ), said[0]
    assert said[1].startswith("Held-out pass@1 under grpo rises from") and said[2].startswith("pass@256 rises")
    gap = next(gap for gap in end_scores(paths) if gap.a == "did")
    assert gap.claim and f"higher under did ({gap.text})" in said[4]
    area = next(area for area in entropy_areas(paths) if area.gap.a == "id")
    assert area.claim and "higher under id (+0.0" in said[3] and "would have been missed" in " ".join(said)
    said = answers(worded)
    assert said[0].startswith("Entropy falls under grpo, but not to half of its start")
    assert "decisive tokens 6" in said[1] and "because 2 seeds are too few for a claim" in said[-1]


def test_the_table_has_a_row_for_the_start_and_marks_what_is_decided(suite):
    rows = table([load_evidence(suite / "paths", METHODS), load_evidence(suite / "worded", METHODS[:2])])
    assert list(rows) == ["before training", *METHODS] and all(len(cells) == 8 for cells in rows.values())
    assert rows["before training"][3].text == "8" and rows["did"][2].decided and not rows["grpo"][2].decided
    assert [cell.text for cell in rows["od"][4:]] == ["missing", "missing", "–", "0"]


def test_labels_are_moved_apart_in_their_order():
    assert spread_apart([0.5, 0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread_apart([0.9, 0.1], 0.1, 0, 1) == [0.9, 0.1]
    low = spread_apart([0.02, 0.0, 0.01], 0.1, 0, 1)
    assert low == pytest.approx([0.2, 0.0, 0.1])
