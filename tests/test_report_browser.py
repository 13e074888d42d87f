"""The report in a real browser: curves follow the controls, samples cannot run; on paper, by phone, without script."""

import json
import re
from contextlib import contextmanager
from urllib.parse import quote

import pandas as pd
import pytest
from browsing import CHROMIUM, needs_browser
from synthetic_study import FIVE, edit, write_study, write_world

from dynclip.report.html import write_front, write_report
from dynclip.runtime.files import sha256

pytestmark = needs_browser
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'><svg onload='window.hacked = 4'>",
    "{{ 7 * 7 }} ${window.hacked = 5} <!-- </pre></div></body> \u2028 \u202e\x1b[2J\x00 javascript:window.hacked=6",
    "]]> &lt;b&gt; <style>body { display: none }</style><base href='https://example.com/'>",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a sampled study with hostile completions, of two worlds, and the front page of the worlds."""
    results = tmp_path_factory.mktemp("reports") / "results"
    write_study(results / "tiny", FIVE, (0, 1, 2, 3, 4), steps=12)
    poison(results / "tiny")
    write_world(results / "paths", FIVE, range(8), steps=40)
    write_world(results / "worded", FIVE, range(6), steps=40, start=1.3, end=0.8)
    for name in ("tiny", "paths", "worded"):
        write_report(results / name)
    write_front(results, "laptop", ("paths", "worded"))
    return results


def poison(results):
    """Replace the completions and problems of one run by hostile text, with the checksums of the changed files."""
    stored = results / "samples/grpo/seed0/final/facts.parquet"
    table = pd.read_parquet(stored)
    table["text"] = [HOSTILE[i % len(HOSTILE)] for i in range(len(table))]
    table.to_parquet(stored, index=False)
    path = results / "scores/grpo/seed0/final/facts.json"
    edit(path, samples=json.loads(path.read_text())["samples"] | {"sha256": sha256(stored)})
    problems = results / "data/facts.jsonl"
    problems.write_text(problems.read_text().replace("what is 1 <", "what is <img src=x onerror=window.hacked=7> 1 <"))


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@contextmanager
def opened(browser, path, drawn=True, **options):
    """A page in a window of its own. Every message of the console, error and request to elsewhere fails the test."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if not_own(request.url, path) else None)
    page.goto(f"file://{quote(str(path))}")
    if drawn:
        page.wait_for_selector(".chart svg path")
    yield page
    assert complaints == []
    context.close()


def not_own(url, path):
    return not url.startswith("data:") and url != f"file://{quote(str(path))}"


def lines(page):
    return page.locator(".chart >> nth=0").locator("g.mark-line path").count()


def test_the_first_screen_holds_question_answer_figure_and_table(pages, browser):
    for name in ("paths", "laptop", "tiny"):
        with opened(browser, pages / name / "report.html") as page:
            assert page.locator("h1").inner_text().endswith("?")
            assert page.locator(".answer li").count() == 3
            for part in (".chart >> nth=0", "table.main"):
                box = page.locator(part).bounding_box()
                assert box["y"] > 0 and box["y"] + box["height"] <= 900, (name, part, box)
        assert (pages / name / "report.html").stat().st_size < 3_000_000


def test_curves_answer_to_the_controls(pages, browser):
    with opened(browser, pages / "worded/report.html") as page:
        assert lines(page) == 5
        page.get_by_role("checkbox", name="clip_higher").uncheck()
        page.wait_for_function("document.querySelectorAll('.chart g.mark-line path').length === 4")
        page.get_by_label("as", exact=True).select_option("every seed")
        page.wait_for_function("document.querySelectorAll('.chart g.mark-line path').length === 24")
        page.get_by_label("as", exact=True).select_option("seed 3")
        page.wait_for_function("document.querySelectorAll('.chart g.mark-line path').length === 4")
        page.get_by_label("show").select_option("entropy, neutral against decisive tokens")
        page.wait_for_function("document.querySelector('.chart').textContent.includes('entropy of the neutral tokens')")
        assert "entropy of the decisive tokens" in page.locator(".chart").inner_text()
        page.get_by_label("show").select_option("entropy against reward")
        page.wait_for_function("document.querySelector('.chart').textContent.includes('share correct')")


def test_the_value_under_the_pointer_is_shown_with_its_interval(pages, browser):
    with opened(browser, pages / "paths/report.html") as page:
        box = page.locator(".chart svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert re.search(r"mean of 8[\s\S]*0?\.\d+ \[0?\.\d+, 0?\.\d+\]", tooltip.inner_text())


def test_all_charts_of_the_front_page_follow_one_control(pages, browser):
    with opened(browser, pages / "laptop/report.html") as page:
        page.get_by_label("show").select_option("reward")
        page.wait_for_function(
            "[...document.querySelectorAll('.chart')].every(each => each.textContent.includes('reward'))"
        )
        assert page.locator(".chart svg").count() == 2
        page.get_by_label("show").select_option("entropy of the neutral tokens")  # which paths does not record
        page.wait_for_function("document.querySelectorAll('.chart g.mark-line path').length === 5")


def test_hostile_completions_are_text(pages, browser):
    with opened(browser, pages / "tiny/report.html") as page:
        page.get_by_label("method", exact=True).select_option("grpo")
        page.get_by_label("benchmark").select_option("facts")
        while page.get_by_role("button", name="show more").is_visible():
            page.get_by_role("button", name="show more").click()
        text = page.locator(".samples").inner_text()
        for part in ("<script>window.hacked = 1</script>", "{{ 7 * 7 }}", "onerror=window.hacked=7"):
            assert part in text
        assert page.locator(".samples img, .samples script, .samples svg, .samples style").count() == 0
        assert page.evaluate("window.hacked") is None and page.evaluate("document.baseURI").startswith("file:")
        assert page.locator("h2#provenance").is_visible()  # what follows the samples is still there


def test_hostile_completions_are_text_without_a_script_too(pages, browser):
    with opened(browser, pages / "tiny/report.html", drawn=False, java_script_enabled=False) as page:
        assert page.locator(".samples img, .samples script, .samples style").count() == 0
        assert page.locator("img.static").is_visible() and page.locator(".sample").count() == 6
        assert not page.locator("form").first.is_visible() and page.locator("h2#provenance").is_visible()


def test_samples_are_searched_and_filtered(pages, browser):
    with opened(browser, pages / "tiny/report.html") as page:
        total = int(page.locator(".found").inner_text().split(" of ")[1])
        page.get_by_label("verdict").select_option("wrong")
        assert page.locator(".sample:not(.no)").count() == 0 and page.locator(".sample.no").count() == 20
        wrong = int(page.locator(".found").inner_text().split(" of ")[0])
        page.get_by_role("button", name="show more").click()
        assert page.locator(".sample.no").count() == min(40, wrong) and 0 < wrong < total
        page.get_by_label("verdict").select_option("")
        page.get_by_label("search").fill("WHAT IS 3 <")
        assert 0 < int(page.locator(".found").inner_text().split(" of ")[0]) < total
        assert page.locator(".sample").first.inner_text().count("what is 3 <") == 1
        page.get_by_label("search").fill("in no text")
        assert page.locator(".found").inner_text() == f"0 of {total}" and page.locator(".sample").count() == 0


@pytest.mark.parametrize("name", ["tiny", "laptop"])
@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}, "is_mobile": True}],
    ids=["light", "dark", "phone"],
)
def test_accessibility_has_no_serious_violation(pages, browser, name, options):
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, pages / name / "report.html", **options) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found = Axe().run(page).response["violations"]
        serious = [
            (each["id"], node["target"], node["failureSummary"])
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"][:2]
        ]
        assert serious == []
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0  # tables scroll in themselves


def test_dark_mode_has_light_ink_and_no_black_line(pages, browser):
    with opened(browser, pages / "paths/report.html", color_scheme="dark") as page:
        style = "getComputedStyle(document.querySelector({!r})).{}"
        assert page.evaluate(style.format("body", "backgroundColor")) == "rgb(22, 23, 25)"
        assert page.evaluate(style.format(".chart svg text", "fill")) == "rgb(230, 230, 227)"
        strokes = page.evaluate(
            "[...document.querySelectorAll('.chart g.mark-line path')].map(path => path.getAttribute('stroke'))"
        )
        assert "#ffffff" in strokes and "#000000" not in strokes


def test_the_keyboard_reaches_every_control(pages, browser):
    with opened(browser, pages / "tiny/report.html") as page:
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.name || document.activeElement.className"))
        assert {"view", "seeds", "method", "words", "verdict", "benchmark", "more"} <= reached


def test_paper_shows_what_is_folded(pages, browser):
    with opened(browser, pages / "paths/report.html") as page:
        assert page.pdf(format="A4")[:5] == b"%PDF-"
        assert page.locator("details:not([open])").count() == 0
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible() and page.locator(".chart svg").is_visible()


def test_the_smallest_study_opens(tmp_path, browser):
    results = write_study(tmp_path / "a b#c" / "one", ("id",), (3,), steps=1)
    with opened(browser, write_report(results), drawn=False) as page:
        assert "One method only" in page.locator("main").inner_text()
