"""docs/methods.md: up to date, complete for any entry of the registry, valid as a page, and its figures true."""

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch

from docs.generate import method_figures, methods_page
from docs.generate.curves import STEPS, Q, courses, gradient_factor, surrogates, thresholds
from docs.generate.methods_page import page, same, stale
from docs.generate.questions import grouped
from dynclip import METHODS
from dynclip.methods.controllers import Controller
from dynclip.methods.registry import method
from dynclip.methods.spec import ROLES, MethodSpec

ROOT = Path(__file__).resolve().parents[1]


def closing(q, clock, *, width: float):
    """An interval that closes | over training."""
    return width * (1 - clock.step / clock.total_steps), width


def straight(log_ratio, logprob, mask):
    """The ratio as it is."""
    return log_ratio


def plain(tokens):
    """No bound at all."""
    return -tokens.ratio * tokens.advantages


def halves(tokens):
    """Every token counts half."""
    return torch.full_like(tokens.ratio, 0.5)


def ones(tokens, total):
    """Every token counts, decided early."""
    return torch.ones_like(tokens.ratio)


def untouched(tokens, total):
    """The advantages as they were."""
    return tokens.advantages.expand_as(tokens.ratio)


def nothing(tokens, *, strength: float):
    """A term of zero."""
    return strength * torch.zeros_like(tokens.ratio)


def first(logits):
    """The first logit."""
    return logits[..., 0]


@dataclass
class Counter(Controller):
    """Counts what it is told."""

    total_steps: int

    def __post_init__(self):
        self.signal = 0

    def observe(self, step, entropy):
        self.signal += 1


# Every field of an entry, and what a reader of the page must find of it.
FULL = {
    "name": ("newcomer", "### newcomer"),
    "title": ("The New_comer", r"The New\_comer"),
    "arxiv": ("9901.00001", "https://arxiv.org/abs/9901.00001"),
    "bounds": (closing, r"An interval that closes \| over training."),
    "defaults": ({"width": 0.375, "strength": 0.0625}, "| `strength` | `0.0625` |"),
    "evidence": ({"width": "a dream", "strength": "a guess"}, "| `0.375` | a dream |"),
    "equation": (r"\nu(r_t) A_t", "```math\n\\nu(r_t) A_t\n```"),
    "change": ("It is new. Nobody has it.", "It is new. Nobody has it."),
    "shipped": (("verl", "TRL"), ""),  # shown in the comparison, see `row` below
    "ratio": (straight, "| ratio | [`straight`]"),
    "surrogate": (plain, "| surrogate | [`plain`]"),
    "weights": (halves, "Every token counts half."),
    "rollout_weights": (ones, "Every token counts, decided early."),
    "advantages": (untouched, "The advantages as they were."),
    "extra": (nothing, "A term of zero."),
    "reduction": (first, "The first logit."),
    "controller": (Counter, "Counts what it is told."),
    "needs": (("success",), "Needs `success`: mean reward"),
    "observes": ("clamped_entropy", "mean `clamped_entropy`"),
    "keeps": ("a number", "Keeps a number."),
    "caveats": (("Beware.", "Take care."), "* Take care."),
    "on_policy_grpo": (True, ""),  # likewise
    "over_batch": (True, "depends on other sequences"),
}


def newcomer(**changes) -> MethodSpec:
    return MethodSpec(**{name: value for name, (value, _) in FULL.items()} | changes)


def test_the_committed_page_and_figures_are_what_the_registry_gives():
    assert [str(path.relative_to(ROOT)) for path in stale(METHODS)] == [], "run `make docs`"


def test_every_field_of_an_entry_is_shown():
    assert set(FULL) == {field.name for field in fields(MethodSpec)}
    assert set(methods_page.ROLE_CALLS) == set(ROLES)
    text = page(METHODS | {"newcomer": newcomer()})
    own = text[text.index("### newcomer") :]
    own = re.split(r"\n##+ ", own)[0]
    assert [name for name, (_, shown) in FULL.items() if shown not in own] == []
    row = next(line for line in text.splitlines() if line.startswith("| [newcomer](#newcomer) "))
    assert row.endswith("| It is new | success | a number | yes | – | TRL, verl |")
    assert "newcomer" not in page(METHODS)


def test_one_source_for_all_options_is_enough():
    bare = MethodSpec("bare", "Bare", "", closing, {"width": 0.5}, evidence="an example")
    text = page({**METHODS, "bare": bare})
    assert "| `width` | `0.5` | an example |" in text and "**Bare** (no paper)" in text


def test_check_names_what_is_stale_and_writing_mends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(methods_page, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(methods_page, "FIGURES", {"gradients": method_figures.FIGURES["gradients"]})
    assert methods_page.main(["--check"]) == 1
    assert "docs/figures/gradients.svg: differs from the registry; run `make docs`" in capsys.readouterr().err
    assert methods_page.main([]) == 0 and methods_page.main(["--check"]) == 0
    monkeypatch.setattr(methods_page, "METHODS", METHODS | {"newcomer": newcomer(surrogate=METHODS["grpo"].surrogate)})
    capsys.readouterr()
    assert methods_page.main(["--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1  # the page alone: no surrogate is new
    assert methods_page.main(["--what"]) == 2


def test_the_page_is_sound_markdown():
    text = page(METHODS)
    anchors = {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in headings(text)}
    assert len(anchors) == len(headings(text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    files = set(re.findall(r"\]\(((?!https|#)[^)]+)\)", text))
    assert [file for file in files if not (ROOT / "docs" / file.split("#")[0]).exists()] == []
    assert "## Adding a method" in (ROOT / "README.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block
    for equation in re.findall(r"```math\n(.*?)\n```", text, re.DOTALL):
        bare = re.sub(r"\\[{}]", "", equation)
        assert bare.count("{") == bare.count("}") and not set("$`\n") & set(equation), equation


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*", text, re.MULTILINE)


def test_figures_are_the_same_bytes_every_time():
    drawn = [method_figures.render("gradients", grouped(METHODS)) for _ in range(2)]
    assert drawn[0] == drawn[1] and b"<dc:date>" not in drawn[0]
    assert method_figures.render("gradients", grouped(METHODS), "png")[:4] == b"\x89PNG"


def test_drawings_agree_to_a_tenth_of_a_point_and_pages_to_the_letter():
    drawing = '<?xml?><path id="m0123456789" d="M 1.25 2.5"/>'
    assert same(drawing, drawing.replace("1.25", "1.26").replace("m0123456789", "mabcdef0123"))
    assert not same(drawing, drawing.replace("1.25", "1.75"))
    assert not same(drawing, drawing.replace("M 1.25", "L 1.25"))
    assert not same("1.25", "1.26")


def test_drawn_bounds_by_hand():
    drawn = {bound.label: bound for bound in courses(grouped(METHODS))}
    assert torch.allclose(drawn["dynamic_upper"].upper[0], 1.5 / (1 + 0.25 * Q))
    assert drawn["grpo"].envelope[:, 0].tolist() == pytest.approx([0.8, 0.8, 1.2, 1.2])
    assert {"bandpo, kl", "bandpo, chi2", "bandpo, tv", "id, formula", "did, prose"} <= set(drawn)
    # The thermostat: 1/(1 − ε) + k, k in steps of δ up to k_max as the entropy is below or above its target.
    assert drawn["thermostat"].envelope[:, 0].tolist() == pytest.approx([0.4, 0.4, 2.5, 5.0])
    assert not drawn["grpo"].moves and drawn["od"].moves and drawn["dcpo"].wide and not drawn["od"].wide


def test_thresholds_are_those_of_the_controller():
    low, high = thresholds(method("od", STEPS))
    assert low == pytest.approx([0.2] * STEPS, abs=2e-3)
    expected = [0.2 + 0.8 * (1 - step / STEPS) for step in range(1, STEPS)]
    assert high[:-1] == pytest.approx(expected, abs=2e-3)  # at T the band is closed: one threshold
    assert math.isnan(high[-1])
    assert thresholds(method("thermostat", STEPS)) == [pytest.approx([0.3] * STEPS, abs=2e-3)]
    assert thresholds(method("entropic", STEPS)) == []


def test_gradient_factors_by_hand():
    ratios = torch.tensor([0.7, 0.9, 1.1, 1.3, 6.0], dtype=torch.float64)
    drawn = surrogates(grouped(METHODS))

    def factors(label, advantage):
        return gradient_factor(drawn[label], ratios, advantage).tolist()

    assert factors("ppo_min (grpo)", 1.0) == pytest.approx([0.7, 0.9, 1.1, 0, 0])
    assert factors("ppo_min (grpo)", -1.0) == pytest.approx([0, 0.9, 1.1, 1.3, 6.0])
    assert factors("cispo", 1.0) == pytest.approx([0.7, 0.9, 1.1, 1.3, 5.0])
    assert factors("gradient_preserving (ce_gppo)", -1.0) == pytest.approx([0.75 * 0.8, 0.9, 1.1, 1.3, 6.0])
    assert factors("unclipped (cppo)", -1.0) == pytest.approx(ratios.tolist())
    assert len(drawn) == len({spec.surrogate for spec in METHODS.values()})


def test_a_new_schedule_is_drawn_without_a_word_about_it():
    bare = MethodSpec("bare", "Bare", "", closing, {"width": 0.5}, evidence="an example")
    figure = method_figures.schedules(grouped(METHODS | {"bare": bare}))
    assert [ax.get_title() for ax in figure.axes if ax.axison][-1] == "bare"
    titles = [ax.get_title() for ax in method_figures.narrow_bounds(grouped(METHODS)).axes if ax.axison]
    assert "id, did, od" in titles and len(set(titles)) == len(titles)
