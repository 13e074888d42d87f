"""Figures: all are drawn, are the same bytes every time, and show what they say."""

import pytest
from synthetic_study import write_study, write_world

from dynclip.report.evidence import load_evidence
from dynclip.report.figures.study import (
    FIGURES,
    bounds,
    caption,
    clip_fraction,
    entropy,
    names_of,
    render,
    scores,
    write_figures,
)


def test_every_figure_in_both_formats_and_byte_stable(study):
    written = write_figures(study)
    assert {path.name for path in written} == {f"{name}.{end}" for name in FIGURES for end in ("svg", "png")}
    first = {path: path.read_bytes() for path in written}
    assert all(content[:4] == b"\x89PNG" for path, content in first.items() if path.suffix == ".png")
    assert {path: path.read_bytes() for path in write_figures(study)} == first
    assert not any(b"<dc:date>" in content for content in first.values())


@pytest.mark.parametrize(("methods", "seeds", "steps"), [(("id",), (3,), 1), (("grpo", "od"), (0,), 2)])
def test_smallest_studies_are_drawn(tmp_path, methods, seeds, steps):
    assert len(write_figures(write_study(tmp_path / "tiny", methods, seeds, steps))) == 2 * len(FIGURES)


def test_entropy_is_the_mean_over_seeds_with_the_seed_range(study):
    evidence = load_evidence(study)
    axes = entropy(evidence).axes[0]
    line = next(line for line in axes.lines if line.get_label() == "grpo")
    expected = evidence.metrics.query("method == 'grpo'").groupby("step")["policy/entropy"]
    assert line.get_ydata() == pytest.approx(expected.mean().tolist())
    assert list(line.get_xdata()) == list(range(12))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(expected.max().max()) and "nats" in axes.get_ylabel()


def test_ods_switches_are_visible(study):
    evidence = load_evidence(study)
    strip = entropy(evidence).axes[1]
    assert [label.get_text() for label in strip.get_yticklabels()] == [f"od, seed {s}" for s in range(3)]
    drawn = len(strip.patches)
    assert drawn == 3 * 12  # every step of every seed is in exactly one state
    assert len(entropy(load_evidence(study, methods=("grpo", "id"))).axes) == 1


def test_methods_differ_without_colour(study):
    lines = entropy(load_evidence(study)).axes[0].lines
    looks = {(line.get_marker(), tuple(line._unscaled_dash_pattern[1] or ())) for line in lines}
    assert len(looks) == 3 and len({marker for marker, _ in looks}) == 3


def test_measured_bounds_and_clipped_share(study):
    evidence = load_evidence(study)
    high = bounds(evidence).axes[1].lines[0]
    assert (high.get_ydata()[0], high.get_ydata()[-1]) == pytest.approx((0.2, 0.3))
    low = clip_fraction(evidence).axes[0].lines[0]
    first = [100 * row["clip/low_fraction"] for row in evidence.rows["grpo", 0][:3]]  # one of the three seeds, smoothed
    assert low.get_ydata()[0] == pytest.approx(sum(first[:2]) / 2, abs=0.1)


def test_scores_show_a_missing_method(study):
    axes = scores(load_evidence(study, methods=("grpo", "did"), seeds=(0, 1))).axes[0]
    assert "missing" in [text.get_text() for text in axes.texts]


def test_captions_say_n_seeds_and_what_the_band_is(study):
    evidence = load_evidence(study)
    for name in FIGURES:
        assert "n = 3 seeds (0, 1, 2) per method" in caption(evidence, name)
    assert "bands: lowest to highest seed" in caption(evidence, "entropy")
    with_text, without = (len(render(evidence, "reward", flag, ("svg",))["svg"]) for flag in (True, False))
    assert with_text > without


def test_many_seeds_share_one_strip_of_states(tmp_path):
    evidence = load_evidence(write_world(tmp_path / "paths", ("grpo", "od"), range(8), steps=20))
    strip = entropy(evidence).axes[1]
    assert [label.get_text() for label in strip.get_yticklabels()] == ["od, share\nof 8 seeds"]
    heights = {}
    for bar in strip.patches:
        step = round(bar.get_x() + 0.5)
        heights[step] = heights.get(step, 0) + abs(bar.get_height())
    assert list(heights) and all(height == pytest.approx(4.8) for height in heights.values())


def test_kinds_of_tokens_are_drawn_where_they_are_recorded(tmp_path, study):
    assert names_of(load_evidence(study)) == list(FIGURES)
    worded = write_world(tmp_path / "worded", ("grpo", "id"), (0, 1), steps=20)
    evidence = load_evidence(worded)
    assert names_of(evidence) == [*FIGURES, "entropy_split", "clip_split"]
    for name in ("entropy_split", "clip_split"):
        assert render(evidence, name, captioned=True, formats=("svg",))["svg"]


def test_a_caption_tells_the_steps_of_a_mean(study, tmp_path):
    assert "running mean over 3 steps" in caption(load_evidence(study), "reward")
    long = load_evidence(write_study(tmp_path / "long", ("grpo",), (0,), steps=100))
    assert "running mean over 5 steps" in caption(long, "reward")
    assert "running mean over 31 steps" in caption(long, "entropy_reward")
