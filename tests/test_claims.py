"""The paper's claims: each rule against planted effects, their opposites, noise, few seeds and missing runs."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import write_study

from dynclip.methods.registry import METHODS
from dynclip.report.claims.page import discoveries, part_of, records, rows, write_claims
from dynclip.report.claims.parts import AS_CLAIMED, MISSING, NEGLIGIBLE, OPPOSITE, Part, sized
from dynclip.report.claims.published import BENCHMARKS, SCORES, cell, table
from dynclip.report.claims.registry import (
    CLAIMS,
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_RUN,
    NOT_TESTABLE,
    REPRODUCED,
    RULES,
    decide,
)
from dynclip.report.evidence import Evidence, load_evidence
from dynclip.studies.arms import ARMS, STUDIES
from evals.stats import mean_interval, problem_interval

STEPS = 60
SEEDS = (0, 1, 2, 3, 4)


def runs(curves, seeds=SEEDS, noise=0.01, **others) -> Evidence:
    """Evidence with an entropy curve per arm, `share of training -> nats`, and noise of its own for every run."""
    rows = {}
    for place, (arm, curve) in enumerate(curves.items()):
        for seed in seeds:
            rng = np.random.default_rng([place, seed])
            level = rng.normal(0, noise)
            rows[arm, seed] = [
                {
                    "step": k, "policy/entropy": curve(k / (STEPS - 1)) + level + rng.normal(0, noise / 4),
                    **{key.replace("__", "/"): value(arm, k / (STEPS - 1), rng) for key, value in others.items()},
                }
                for k in range(STEPS)
            ]  # fmt: skip
    return Evidence(
        Path("results/laptop"), tuple(curves), tuple(seeds), {key: {"options": {}} for key in rows}, rows, []
    )


def verdict(name, evidence) -> str:
    return decide(CLAIMS[name], evidence).verdict


def test_every_claim_names_runs_of_its_own_study_and_a_rule_in_words():
    assert len(CLAIMS) == len({claim.sentence for claim in CLAIMS.values()}) >= 25
    for claim in CLAIMS.values():
        spec = STUDIES[claim.study]
        assert set(claim.arms) <= set(spec.arms) <= set(ARMS), claim.id
        assert claim.decide in RULES and claim.paper and claim.statistic
        assert not spec.groups or any(set(claim.arms) <= set(group) for group in spec.groups)


@pytest.mark.parametrize(
    ("end", "falls", "collapses"),
    [(0.1, REPRODUCED, REPRODUCED), (0.4, REPRODUCED, NOT_TESTABLE), (0.7, CONTRADICTED, NOT_TESTABLE)],
)
def test_a_fall_is_not_yet_a_collapse(end, falls, collapses):
    evidence = runs({"grpo": lambda x: 0.5 + (end - 0.5) * x})
    assert (verdict("entropy_falls", evidence), verdict("entropy_collapses", evidence)) == (falls, collapses)


def test_noise_decides_nothing_and_the_detectable_effect_is_told():
    made = decide(CLAIMS["upper_raises"], runs({"grpo": lambda x: 0.5, "dynamic_upper": lambda x: 0.5}, noise=0.05))
    assert made.verdict == INCONCLUSIVE and made.parts[0].detectable > 0 and made.seeds == 5


def falling(x):
    return 0.5 - 0.45 * x


@pytest.mark.parametrize(("shift", "expected"), [(0.1, REPRODUCED), (-0.1, CONTRADICTED)])
def test_an_area_between_curves_decides_both_ways(shift, expected):
    evidence = runs({"grpo": falling, "dynamic_upper": lambda x: falling(x) + shift})
    assert verdict("upper_raises", evidence) == expected


def test_a_claim_is_contradicted_only_where_its_precondition_holds():
    """A collapse under GRPO, and bounds that act; a claim can be reproduced without them."""
    kept = decide(CLAIMS["upper_raises"], runs({"grpo": lambda x: 0.5, "dynamic_upper": lambda x: 0.4}))
    assert (kept.verdict, kept.reason) == (NOT_TESTABLE, "grpo's entropy keeps 100% of its start")
    curves = {"grpo": falling, "dynamic_upper": lambda x: falling(x) - 0.1}
    for share, expected in ((0.002, NOT_TESTABLE), (0.02, CONTRADICTED)):
        clipped = dict.fromkeys(("clip__low_fraction", "clip__high_fraction"), lambda arm, x, rng, at=share: at)
        made = decide(CLAIMS["upper_raises"], runs(curves, **clipped))
        assert made.verdict == expected
        assert made.reason == ("grpo's bounds act on 0.40% of the tokens" if expected == NOT_TESTABLE else "")


@pytest.mark.parametrize(("shift", "noise", "expected"), [
    (0.0, 0.002, NEGLIGIBLE), (0.02, 0.002, NEGLIGIBLE), (-0.02, 0.002, NEGLIGIBLE),  # 0.045 is a tenth of GRPO's fall
    (0.03, 0.1, INCONCLUSIVE), (0.06, 0.002, REPRODUCED), (0.0, 0.3, INCONCLUSIVE),
])  # fmt: skip
def test_an_effect_below_a_tenth_of_grpo_s_own_change_is_negligible(shift, noise, expected):
    evidence = runs({"grpo": falling, "dynamic_upper": lambda x: falling(x) + shift}, noise=noise)
    made = decide(CLAIMS["upper_raises"], evidence)
    assert made.verdict == expected, made.parts
    assert verdict("upper_raises", evidence.subset(evidence.methods, (0, 1, 2))) != NEGLIGIBLE


@pytest.mark.parametrize("seeds", [5, 20])
def test_equivalence_is_found_by_mistake_in_5_percent(seeds):
    """Two one-sided tests at 5 %: true effects just at the margin are called negligible that often."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(2000):
        i = mean_interval(rng.normal(1.0, 0.1, seeds))
        part = Part("", i.mean, i.low, i.high, seeds, math.nan, "", 0.0, 1, "higher")
        found += sized(part, 1.0).finding == "negligible"
    assert found / 2000 == pytest.approx(0.05, abs=0.015)


def test_the_page_counts_what_survives_a_correction_over_all_claims():
    strong = decide(CLAIMS["upper_raises"], runs({"grpo": falling, "dynamic_upper": lambda x: falling(x) + 0.1}))
    weak = [replace(part, p=0.04) for part in strong.parts] * 9
    text = discoveries([strong, replace(strong, parts=tuple(weak)), replace(strong, parts=(replace(weak[0], p=0.9),))])
    assert text.startswith("Of 11 tested parts 10 have p ≤ 0.05, and 10 keep it")
    alone = discoveries([replace(strong, parts=(replace(weak[0], p=0.04), replace(weak[0], p=0.9)))])
    assert alone.startswith("Of 2 tested parts 1 have p ≤ 0.05, and 0 keep it") and discoveries([]) == ""


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_few_seeds_never_decide(seeds):
    evidence = runs({"grpo": lambda x: 0.5, "dynamic_upper": lambda x: 0.9}, seeds)
    made = decide(CLAIMS["upper_raises"], evidence)
    assert made.verdict == INCONCLUSIVE and ("n=1" if len(seeds) == 1 else "exploratory") in made.parts[0].finding


def test_missing_runs_are_missing_and_keep_a_claim_from_being_reproduced():
    curves = {"clip_higher": lambda x: 0.4, "upper_0.4": lambda x: 0.4, "dynamic_upper": lambda x: 0.6}
    whole = runs(curves)
    assert verdict("upper_above_fixed", whole) == REPRODUCED
    partly = replace(whole, rows={key: value for key, value in whole.rows.items() if key[0] != "upper_0.4"})
    made = decide(CLAIMS["upper_above_fixed"], partly)
    assert made.verdict == INCONCLUSIVE and [part.finding for part in made.parts] == [AS_CLAIMED, MISSING]
    assert verdict("upper_above_fixed", None) == NOT_RUN == verdict("upper_above_fixed", replace(whole, rows={}))


def test_the_curves_of_the_schedules():
    def curves(name, curve, grpo=falling):
        return decide(CLAIMS[f"{name}_curve"], runs({"grpo": grpo, name: curve}))

    assert curves("id", lambda x: 0.5 + 0.3 * (x if x < 0.5 else 1 - x)).verdict == REPRODUCED
    assert curves("id", lambda x: 0.5 - 0.3 * x).verdict == CONTRADICTED
    wave = curves("did", lambda x: 0.5 + 0.1 * math.cos(3 * math.pi * x))
    assert wave.verdict == REPRODUCED and wave.reason == ""
    assert curves("did", lambda x: 0.5).verdict == INCONCLUSIVE
    untested = curves("did", lambda x: 0.5 + 0.1 * math.cos(3 * math.pi * x), lambda x: 0.5 - 0.1 * x)
    assert untested.verdict == NOT_TESTABLE and untested.reason.startswith("grpo's entropy keeps 8")


def test_od_s_swings_are_counted_against_its_own_thresholds():
    def swinging(x):
        return 0.55 - 0.43 * x / 2 + 0.45 * (1 - 0.6 * x) * math.cos(6 * math.pi * x)

    def od(curve, grpo=falling):
        return decide(CLAIMS["od_curve"], runs({"grpo": grpo, "od": curve}))

    found = od(swinging)
    assert found.parts[0].finding == AS_CLAIMED and found.parts[0].effect == 1.0
    once = od(lambda x: max(0.05, 0.5 - 0.9 * x))
    assert once.verdict == CONTRADICTED and once.parts[0].finding == OPPOSITE and once.parts[0].effect == 0.0
    assert od(lambda x: 0.5 - 0.1 * x).reason == "od's entropy never falls to its lower threshold"
    assert od(swinging, lambda x: 0.5).verdict == NOT_TESTABLE
    late = od(falling)  # at the threshold after 89 % of the steps: no time is left to swing
    assert late.verdict == NOT_TESTABLE
    assert (
        late.reason == "od's entropy falls to its lower threshold in 5 of 5 seeds, in 0 of them within 67% of the steps"
    )


def test_od_s_lower_threshold_is_the_one_of_the_run():
    evidence = runs({"grpo": falling, "od": lambda x: max(0.15, 0.5 - 0.6 * x)})
    assert decide(CLAIMS["od_curve"], evidence).verdict == NOT_TESTABLE  # 30 % of the start, above 20 %
    wide = replace(evidence, runs={key: {"options": {"fraction": 0.5}} for key in evidence.runs})
    assert decide(CLAIMS["od_curve"], wide).verdict == CONTRADICTED


@pytest.mark.parametrize(("own", "expected"), [(0.04, REPRODUCED), (0.02, INCONCLUSIVE), (0.0, CONTRADICTED)])
def test_late_clipping_is_compared_with_grpo_s_own(own, expected):
    def clipped(arm, x, rng):
        return 0.01 + (own if arm == "id" else 0.02) * x + rng.normal(0, 0.001)

    evidence = runs({"grpo": falling, "id": falling}, clip__low_fraction=clipped, clip__high_fraction=clipped)
    assert verdict("id_clips_late", evidence) == expected


def test_one_region_alone_is_compared_with_grpo():
    same = runs({"grpo": falling, "only_E1_surprisal": falling})
    assert verdict("E1_alone", same) == INCONCLUSIVE, "it falls, but no more than under GRPO"
    assert verdict("E1_alone", runs({"grpo": lambda x: 0.5, "only_E1_surprisal": falling})) == REPRODUCED


def reward(arm, x, rng):
    early = 0.05 if arm == "grpo" else 0.0
    return 0.4 + early * (1 - 2 * x) + 0.3 * x + rng.normal(0, 0.005)


def test_less_reward_early_and_more_late():
    evidence = runs(dict.fromkeys(("grpo", "id", "did", "od"), falling), train__reward=reward)
    assert verdict("reward_early", evidence) == verdict("reward_late", evidence) == REPRODUCED
    swapped = replace(evidence, rows={("id" if a == "grpo" else "grpo" if a == "id" else a, s): r
                                      for (a, s), r in evidence.rows.items()})  # fmt: skip
    assert verdict("reward_early", swapped) == CONTRADICTED


def test_a_slope_is_judged_at_equal_mean_looseness():
    tilts = ("upper_tilt_back", "dynamic_upper_mean", "dynamic_upper", "upper_tilt2")
    for step, expected in ((0.06, REPRODUCED), (-0.06, CONTRADICTED)):
        curves = {arm: lambda x, n=n, step=step: falling(x) + step * n for n, arm in enumerate(tilts)}
        made = decide(CLAIMS["upper_tilt_raises"], runs({"grpo": falling} | curves))
        assert made.verdict == expected and len(made.parts) == 3 and made.claim.ours


def test_one_update_has_to_be_the_same_run_to_the_last_bit():
    arms = CLAIMS["one_update"].arms
    evidence = runs({arms[0]: lambda x: 0.5}, (0, 1, 2), train__reward=lambda arm, x, rng: 0.5)
    same = {(arm, seed): rows for arm in arms for (_, seed), rows in evidence.rows.items()}
    alike = replace(evidence, methods=arms, rows=same)
    assert verdict("one_update", alike) == REPRODUCED
    other = [dict(row) for row in same[arms[1], 2]]
    other[30]["policy/entropy"] += 1e-12
    assert verdict("one_update", replace(alike, rows=same | {(arms[1], 2): other})) == CONTRADICTED


def test_scores_and_pass_gaps_come_from_per_problem_counts(tmp_path):
    results = write_study(tmp_path / "results" / "tiny", ("grpo", "id", "did", "od"), (0, 1, 2, 3), k=8)
    evidence = load_evidence(results)
    made = decide(CLAIMS["accuracy_grpo"], part_of(evidence, CLAIMS["accuracy_grpo"]))
    assert [part.what.split(",")[0] for part in made.parts[:3]] == ["id − grpo", "did − grpo", "od − grpo"]
    assert made.seeds == 4 and len(made.parts) == 3 and made.verdict in (REPRODUCED, INCONCLUSIVE, CONTRADICTED)
    points = {
        arm: np.mean(
            [100 * s["avg_at_k"]["value"] for s in evidence.scores if (s["method"], s["checkpoint"]) == (arm, "final")]
        )
        for arm in ("grpo", "id")
    }
    assert len(evidence.benchmarks) == 2 and made.parts[0].effect == pytest.approx(points["id"] - points["grpo"])
    gaps = decide(CLAIMS["pass_gap"], part_of(evidence, CLAIMS["pass_gap"]))
    assert len(gaps.parts) == 6, "three methods, two checkpoints"
    score = evidence.select("facts", "grpo")[0]
    assert gaps.parts[3].effect < 100 * (score["pass_at"]["4"] + 1)
    assert part_of(evidence, CLAIMS["accuracy_clip_higher"]) is None


def test_the_page_and_the_data_say_the_same(tmp_path):
    results = write_study(tmp_path / "results" / "tiny", ("grpo", "id", "did", "od"), (0, 1, 2, 3), k=8)
    data, page = write_claims(results, (0, 1, 2, 3))
    found = json.loads(data.read_text())
    assert [entry["id"] for entry in found] == list(CLAIMS)
    by_id = {entry["id"]: entry for entry in found}
    assert by_id["entropy_falls"]["verdict"] == REPRODUCED and by_id["upper_raises"]["verdict"] == NOT_RUN
    assert (
        by_id["accuracy_clip_higher"]["verdict"] == NOT_RUN and by_id["upper_raises"]["parts"][0]["finding"] == MISSING
    )
    text = page.read_text()
    paper, ours = text.split("## Statements of this project")
    rows_of_ours = ours.split("## Rules and parts")[0]
    assert all(claim.sentence in (rows_of_ours if claim.ours else paper) for claim in CLAIMS.values())
    assert "Decided at the scale `tiny`" in text and "Under GRPO, 4 seeds, entropy ends at" in text
    assert all(claim.sentence in text for claim in CLAIMS.values()) and "33.1 [19.0 [22.4, 45.9] 51.0]" in text
    assert "NaN" not in data.read_text()


def test_rows_and_records_of_an_undecided_claim():
    made = [decide(CLAIMS["entropy_falls"], runs({"grpo": lambda x: 0.5}, (0,)))]
    (row,) = rows(made)
    assert row[1] == INCONCLUSIVE and "1 seed" in row[2] and row[3] == "–"
    assert records(made)[0]["parts"][0]["low"] is None


def test_the_published_numbers_belong_to_methods_of_the_registry():
    for model, methods in SCORES.items():
        assert set(methods) <= set(METHODS) and all(len(s) == len(BENCHMARKS) for s in methods.values()), model
    shown = cell("Qwen2.5-Math-7B", "grpo", "AIME24")
    assert shown.low < shown.low_half < shown.score < shown.high_half < shown.high


def test_the_published_cells_are_calculated():
    rows = [line.split("|")[2:-1] for line in table().splitlines() if "×" in line and "problems" not in line]
    assert len(rows) == 6
    for size, *cells in rows:
        problems, samples = map(int, size.split("×"))
        for text in cells:
            score, *shown = map(float, re.findall(r"[\d.]+", text))
            outer = problem_interval(score, problems, samples)
            inner = problem_interval(score, problems, samples, correlation=0.5)
            assert shown == pytest.approx([outer[0], *inner, outer[1]], abs=0.051)
