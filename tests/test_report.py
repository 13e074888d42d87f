"""The report: one file, nothing loaded, its own scripts alone, every figure and table in it."""

import base64
import hashlib
import html
import json
import math
import re
import shutil
import unicodedata
from html.parser import HTMLParser

import pytest
from synthetic_study import write_score, write_study, write_world

from dynclip.report.claims.registry import CLAIMS
from dynclip.report.evidence import load_evidence
from dynclip.report.figures import FIGURES
from dynclip.report.html import report, write_front, write_report
from dynclip.report.html.answers import details, end_scores, entropy_areas, main_table, summary, summary_of_suite
from dynclip.report.html.cards import claims_of
from dynclip.report.html.charts import chart_data
from dynclip.report.html.effects import bars, groups
from dynclip.report.html.front_figure import spread_apart
from dynclip.report.html.samples import samples_of
from dynclip.report.tables import TABLES
from dynclip.runtime.errors import UserError
from dynclip.runtime.progress import Progress
from dynclip.runtime.text import HIDDEN, say
from evals.stats import mean_interval


class Page(HTMLParser):
    """Tags with attributes, and the text outside of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a study with its report, for tests that change nothing."""
    results = write_study(tmp_path_factory.mktemp("written") / "results" / "tiny")
    write_report(results)
    return results


@pytest.fixture(scope="module")
def text(written):
    return (written / "report.html").read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_report_is_well_formed_and_self_contained(text, page):
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "link"}
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == len(FIGURES) + 1 and all(s.startswith("data:image/") for s in sources)
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', markup)


def test_the_policy_allows_the_two_scripts_of_the_page_alone(text):
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    hashes = [f"sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}" for s in scripts]
    shown = html.unescape(text)
    assert f"script-src '{hashes[0]}' '{hashes[1]}';" in shown and len(scripts) == 2
    assert "default-src 'none'" in shown and "unsafe-eval" not in shown


def test_report_holds_every_table_caption_and_fact(page):
    assert sum(tag == "table" for tag, _ in page.tags) == len(TABLES) + 4  # main, undecided claims, two of provenance
    for text in (
        "9 of 9 finished", "12 rollout steps, 8 updates per rollout batch", "torch 2.13.0", "Test <CPU> & Co",
        "Entropy under grpo falls in 3 of 3 seeds", "commit 0123456789abcdef", "fp-od-2",
        "dynclip ui",
    ):  # fmt: skip
        assert text in page.text, text
    assert page.text.count("n = 3 seeds (0, 1, 2) per method") == len(FIGURES)


def test_model_output_is_escaped(text, page):
    assert "<script>alert('" in page.text and "</script> & done" in page.text
    assert "<script>alert" not in text
    assert "what is" in page.text and "expected" in page.text


def test_control_characters_of_models_and_names_are_spelled_out(study, monkeypatch):
    hostile = "a\x1b[2Jb\u202ec\x00d\u2028e"

    def hostile_samples(evidence):
        found = samples_of(evidence)
        found["note"] += hostile
        found["rows"][0] |= {"text": hostile, "id": hostile}
        found["problems"][hostile] = {"problem": hostile, "answer": hostile}
        return found

    monkeypatch.setattr(report, "samples_of", hostile_samples)
    text = write_report(study).read_text()
    bare = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not [c for c in bare if c != "\n" and unicodedata.category(c) in HIDDEN]
    spelled = r"a\x1b[2Jb\u202ec\x00d\u2028e"
    samples = embedded(text, "samples-data")  # JSON's own escapes would come back in the browser
    assert samples["rows"][0]["text"] == samples["problems"][spelled]["answer"] == spelled and spelled in bare


def test_names_with_control_characters_are_spelled_out_in_the_terminal(capsys):
    Progress("m\x1b[2J", 1).log("b\u202e")
    say("c\x07")
    said = "".join(capsys.readouterr())
    assert r"m\x1b[2J] b\u202e" in said and r"c\x07" in said
    assert not [c for c in said if c != "\n" and unicodedata.category(c) in HIDDEN]


def test_the_first_screen_is_the_answers_and_provenance_comes_last(text):
    first, rest = text.split("<nav", 1)
    assert "Mean entropy over training, against grpo" in first and 'class="main"' in first and "<dl>" not in first
    assert rest.index('id="provenance"') < rest.index("<dl>")


def test_curves_are_those_of_the_runs(written, text):
    data = embedded(text, "curves-data")
    evidence, (world,) = load_evidence(written), data["worlds"]
    curve = world["columns"]["policy/entropy"]["id"]
    expected = evidence.curves("policy/entropy", "id")
    assert curve["1"] == pytest.approx(expected[1], rel=1e-3) and world["steps"] == list(range(12))
    spread = mean_interval([values[5] for values in expected.values()])
    assert [curve[name][5] for name in ("mean", "low", "high")] == pytest.approx(
        [spread.mean, spread.low, spread.high], rel=1e-3
    )
    assert "entropy of the neutral tokens" not in [view["label"] for view in data["views"]]  # not recorded


def test_long_curves_are_thinned_from_end_to_end(tmp_path):
    results = write_study(tmp_path / "tiny", ("grpo",), (0,), steps=250)
    (world,) = chart_data([load_evidence(results)], points=100)["worlds"]
    assert len(world["steps"]) == 100 and (world["steps"][0], world["steps"][-1]) == (0, 249)


def embedded(text, name):
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', text)[1])


def test_samples_of_every_method_right_and_wrong_in_turn(text):
    rows = embedded(text, "samples-data")["rows"]
    for method in ("grpo", "id", "od", "base"):
        kinds = [row["right"] for row in rows if (row["method"], row["benchmark"]) == (method, "facts")]
        assert kinds[:6] == [True, False] * 3 and len(kinds) == 40  # 10 problems, 4 completions of each


def test_report_is_byte_stable(study):
    first = write_report(study).read_bytes()
    assert write_report(study).read_bytes() == first


def test_smallest_study_without_problem_texts(tmp_path):
    results = write_study(tmp_path / "tiny", ("id",), (3,), steps=1)
    for path in (results / "data").glob("*.jsonl"):
        path.unlink()
    text = Page(write_report(results).read_text()).text
    assert "n=1, no claim" in text and "One method only" in text and "No score" not in text


def test_a_study_of_which_only_the_base_policy_is_scored_yet(study):
    for path in study.glob("scores/*"):
        if path.name != "base":
            shutil.rmtree(path)
    rows = embedded(write_report(study).read_text(), "samples-data")["rows"]
    assert rows and {row["method"] for row in rows} == {"base"}


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
    assert page.open == [] and sum(tag == "img" for tag, _ in page.tags) == 2
    assert re.findall(r'<a href="([^#"]*)"', text) == ["../paths/report.html", "../worded/report.html"]
    assert str(suite) not in text and "/tmp" not in text
    assert (suite / "laptop/front.png").read_bytes()[:4] == b"\x89PNG"
    assert page.text.index("Of the entropy at the start") < page.text.index("entropy left, %")


def test_the_answers_say_what_the_runs_show(suite):
    paths, worded = (load_evidence(suite / name, METHODS[:n]) for name, n in (("paths", 4), ("worded", 2)))
    said, more = summary(paths), details(paths)
    assert re.match(
        r"Entropy collapses under grpo: from 2\.\d\d \[.*1\d \[1\d, 1\d\] % of the start is left \(8 seeds\)", said[0]
    ), said[0]
    assert more[0].startswith("Held-out pass@1 under grpo rises from") and more[1].startswith("pass@256 rises")
    gap = next(gap for gap in end_scores(paths) if gap.a == "did")
    assert gap.claim and f"higher under did ({gap.text})" in said[2] and len(said) == 3
    area = next(area for area in entropy_areas(paths) if area.gap.a == "id")
    assert area.claim and "higher under id (+0.0" in said[1] and "would have been missed" in " ".join(said)
    said = summary(worded)
    assert said[0].startswith("Entropy falls under grpo, but not to half of its start")
    assert "decisive tokens 6" in details(worded)[0] and "2 seeds are too few for a claim" in said[-1]
    first, entropy, scores = summary_of_suite([paths, worded])
    assert re.search(r"grpo leaves after 20 rollout steps: paths 1\d \[.* %, worded 6\d \[.* %\.", first)
    assert f"did ({gap.text})" in scores and "worded: none is distinguishable" in scores and "paths: " in entropy


def test_the_table_has_a_row_for_the_start_and_marks_what_is_decided(suite):
    worlds = [load_evidence(suite / "paths", METHODS), load_evidence(suite / "worded", METHODS[:2])]
    table = main_table(worlds)
    rows = table["rows"]
    assert [world["name"] for world in table["worlds"]] == ["paths, 8 seeds", "worded, 2 seeds"]
    assert list(rows) == ["before training", *METHODS] and all(len(cells) == 6 for cells in rows.values())
    assert rows["did"][2].decided and not rows["grpo"][2].decided
    assert [cell.text for cell in rows["od"][3:]] == ["missing", "missing", "–"]


def test_every_benchmark_of_a_scale_has_its_columns_and_missing_seeds_are_counted(study):
    evidence = load_evidence(study, ("grpo", "id", "od"), (0, 1, 2, 3))
    table = main_table([evidence], every_benchmark=True)
    assert table["worlds"][0]["columns"][1:] == ["facts avg@4, %", "difference", "worded avg@4, %", "difference"]
    assert all(cells[0].text.endswith("(n = 3)") for name, cells in table["rows"].items() if name != "before training")


def test_effects_are_decided_or_say_what_was_missed(suite):
    found = {group.title: group for group in groups(load_evidence(suite / "paths", METHODS))}
    scores = found["Paths pass@1, 8 seeds"]
    assert "did" in [row.name for row in scores.decided] and all(row.bar.tone == "up" for row in scores.decided)
    entropy = found["Mean entropy, 8 seeds"]
    assert "nats would have been missed" in entropy.note and all(row.bar.tone == "" for row in entropy.undecided)


def test_bars_share_an_axis_with_the_zero():
    first, second, none = bars([(2, 1, 3), (-1, -2, 0), (math.nan,) * 3], ["up", "down", ""])
    assert first.zero == second.zero == pytest.approx(2.2 / 5.4 * 100, abs=0.01)
    assert first.left > first.zero > second.dot and first.width == pytest.approx(2 / 5.4 * 100, abs=0.01)
    assert none.dot is None and none.width is None
    (alone,) = bars([(0, 0, 0)], [""])
    assert alone.dot == alone.zero == 50


def test_claims_are_cards_or_say_what_could_have_been_seen(suite):
    claims = claims_of(load_evidence(suite / "paths", METHODS))
    assert {card.verdict for card in claims.cards} <= {"reproduced", "contradicted", "negligible"}
    assert all(card.rows for card in claims.cards) and any(card.verdict == "reproduced" for card in claims.cards)
    assert all(undecided.why or undecided.effects for undecided in claims.undecided)
    assert len(claims.cards) + len(claims.undecided) + claims.others == len(CLAIMS)


def test_labels_are_moved_apart_in_their_order():
    assert spread_apart([0.5, 0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread_apart([0.9, 0.1], 0.1, 0, 1) == [0.9, 0.1]
    low = spread_apart([0.02, 0.0, 0.01], 0.1, 0, 1)
    assert low == pytest.approx([0.2, 0.0, 0.1])
