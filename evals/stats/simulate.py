"""False positive rate and power of every test, by simulation.

    python -m evals.stats.simulate                        prints the table (2000 repeats, 20 minutes on one core)
    python -m evals.stats.simulate --write                and puts it into results/reference/statistics

Models. Scores: a logit model, problem SD 2, training-seed SD 0.1, seed × problem SD 0.5,
samples binomial. Several benchmarks: normal scores with an effect of the run on all of them (SD 1 pt) and one on each
(SD 1 pt). Curves: 160 steps of AR(1) noise (0.9, SD 0.03 nats) around a trend, and each seed has its own level
(SD 0.03) and slope (SD 0.05 over training). Every cell of the table has its own generator, seeded by its names.
"""

import argparse
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dynclip.runtime.files import write_atomic
from evals.stats.bootstrap import expanded_percentiles, iqm, probability_of_improvement, rankings, resampled_gap
from evals.stats.comparison import difference, judge, mean_test
from evals.stats.curves import area_between, falls_rises_falls, oscillation, rises_then_falls
from evals.stats.power import Components, Design, minimum_detectable_effect

PAGE = Path(__file__).resolve().parents[2] / "results" / "reference" / "statistics" / "README.md"
MARKS = ("<!-- simulation -->", "<!-- /simulation -->")
SEEDS = (3, 4, 5, 10)
RESAMPLES = 1000
STEPS = 160
CLAIM = "**"  # marks the tests that the project's verdicts use

Found = dict[str, bool]
Experiment = Callable[[np.random.Generator, int], Found]


def shares(rng: np.random.Generator, seeds: int, problems: int, samples: int, shift: float) -> list[np.ndarray]:
    """Shares correct of two methods, (seeds, problems) each; the first is `shift` higher in logits."""
    hard = rng.normal(0, 2, problems)
    logits = hard + rng.normal(0, 0.1, (2, seeds, 1)) + rng.normal(0, 0.5, (2, seeds, problems))
    logits[0] += shift
    return list(rng.binomial(samples, 1 / (1 + np.exp(-logits))) / samples)


def benchmark(problems: int, samples: int, shift: float = 0.0) -> Experiment:
    """One benchmark, two methods."""

    def experiment(rng: np.random.Generator, seeds: int) -> Found:
        a, b = shares(rng, seeds, problems, samples, shift)
        gaps = a.mean(1) - b.mean(1)
        one = a[0] - b[0]
        drawn = gaps[rng.integers(0, seeds, (RESAMPLES, seeds))].mean(1)
        both = outside(resampled_gap(a, b, 0.95, RESAMPLES, rng))
        t = mean_test(gaps)[1] <= 0.05
        return {
            "one run, problems resampled": bool(abs(one.mean()) > 1.96 * one.std(ddof=1) / math.sqrt(problems)),
            "seeds resampled, percentiles": outside(np.quantile(drawn, [0.025, 0.975])),
            "seeds resampled, expanded percentiles": outside(expanded_percentiles(drawn, seeds, 0.95)),
            "problems and seeds resampled": both,
            "paired t": t,
            f"{CLAIM}paired t and problems-and-seeds": t and both,
        }

    return experiment


def planned(rng: np.random.Generator, seeds: int) -> Found:
    """A true difference of exactly the minimum detectable effect, the larger of the two, in the additive model of
    `evals.stats.power`: gaps with SDs of 2 pt (seed), 14 pt (method × problem), 10 pt (seed × problem), 100 problems ×
    4.
    """
    parts = Components(50.0, 4.0, 100.0, 196.0, 1600.0, 500.0, 5, 100, 4.0)
    effect = max(minimum_detectable_effect(parts, Design(seeds, 100, 4), problems_drawn=d) for d in (False, True))
    gap = effect + rng.normal(0, parts.sd("seed"), (seeds, 1)) + rng.normal(0, parts.sd("problem"), 100)
    gap = gap + rng.normal(0, parts.sd("residual"), (seeds, 100))
    t = mean_test(gap.mean(1))[1] <= 0.05
    boot = outside(resampled_gap(gap, np.zeros_like(gap), 0.95, RESAMPLES, rng))
    return {"paired t": t, f"{CLAIM}paired t and problems-and-seeds": t and boot}


def benchmarks(shift: float = 0.0) -> Experiment:
    """Six benchmarks, four methods, the first `shift` points higher on all of them."""

    def experiment(rng: np.random.Generator, seeds: int) -> Found:
        table = rng.normal(0, 1, (4, seeds, 1)) + rng.normal(0, 1, (4, seeds, 6)) + rng.normal(50, 20, 6)
        table[0] += shift
        draw, by_seed = int(rng.integers(2**31)), [dict(enumerate(column)) for column in table.mean(2)]
        family = [
            difference(dict(enumerate(table[0, :, m])), dict(enumerate(table[1, :, m])), ("a", "b"), "x")
            for m in range(6)
        ]
        improved = {
            by: probability_of_improvement(table[0], table[1], resamples=RESAMPLES, seed=draw, resample=by)
            for by in ("benchmark", "run")
        }
        pair = {
            by: [iqm(side, resamples=RESAMPLES, seed=draw + i, resample=by) for i, side in enumerate(table[:2])]
            for by in ("benchmark", "run")
        }
        places = rankings(dict(zip("abcd", table, strict=True)), resamples=RESAMPLES, seed=draw)
        return {
            "any of six paired t, uncorrected": any(gap.p <= 0.05 for gap in family),
            f"{CLAIM}any of six paired t, Holm": any(gap.p_holm <= 0.05 for gap in judge(family)),
            f"{CLAIM}paired t on the mean of the six": difference(*by_seed[:2], ("a", "b"), "x").p <= 0.05,
            "improvement, seeds resampled within benchmarks": outside(_limits(improved["benchmark"], 0.5)),
            f"{CLAIM}improvement, whole runs resampled": outside(_limits(improved["run"], 0.5)),
            "IQM intervals apart, within benchmarks": _apart(*pair["benchmark"]),
            "IQM intervals apart, whole runs": _apart(*pair["run"]),
            f"{CLAIM}one of four methods surely first": any(place.rank.high == 1 for place in places),
        }

    return experiment


TRENDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # share of training -> nats
    "flat": lambda x: 0.4 + 0 * x,
    "falls evenly": lambda x: 0.6 - 0.4 * x,
    "falls fast, levels off": lambda x: 0.2 + 0.4 * np.exp(-12 * x),
    "rises fast, levels off": lambda x: 0.6 - 0.4 * np.exp(-12 * x),
    "rises, falls by 0.15": lambda x: 0.4 + 0.15 * np.minimum(2 * x, 2 - 2 * x),
    "falls, rises, falls by 0.15": lambda x: 0.4 - 0.15 * np.interp(x, [0, 1 / 3, 2 / 3, 1], [0, 1, 0, 1]),
    "swings of 0.4, even": lambda x: 0.4 + 0.2 * np.cos(2 * np.pi * 4.5 * x),
    "swings of 0.5, halved three times": lambda x: 0.4 + 0.25 * 0.5 ** (3 * x) * np.cos(2 * np.pi * 4.5 * x),
}


def seed_curves(rng: np.random.Generator, seeds: int, trend: str) -> dict[int, np.ndarray]:
    """seed -> a noisy curve around a trend."""
    from scipy import signal

    x, phi, sd = np.linspace(0, 1, STEPS), 0.9, 0.03
    noise = rng.normal(0, sd * math.sqrt(1 - phi**2), (seeds, STEPS))
    noise[:, 0] = rng.normal(0, sd, seeds)  # stationary from the first step on
    own = rng.normal(0, 0.03, (seeds, 1)) + rng.normal(0, 0.05, (seeds, 1)) * (x - 0.5)
    return dict(enumerate(TRENDS[trend](x) + own + signal.lfilter([1], [1, -phi], noise, axis=1)))


def areas(shift: float = 0.0) -> Experiment:
    """Two methods' falling curves, the first `shift` nats higher."""

    def experiment(rng: np.random.Generator, seeds: int) -> Found:
        a, b = (seed_curves(rng, seeds, "falls fast, levels off") for _ in range(2))
        area = area_between({s: curve + shift for s, curve in a.items()}, b)
        steps = a[0] - b[0] + shift
        return {
            "one seed, t over steps": bool(abs(steps.mean()) > 1.97 * steps.std(ddof=1) / math.sqrt(STEPS)),
            "paired t over seeds": area.gap.p <= 0.05,
            "sign flips over seeds": area.p_flip <= 0.05,
            f"{CLAIM}area between curves": area.gap.p <= 0.05 and (area.p_flip <= 0.05 or area.p_flip_least > 0.05),
        }

    return experiment


def shapes(trend: str) -> Experiment:
    """One method's curves against the two shapes."""

    def experiment(rng: np.random.Generator, seeds: int) -> Found:
        curves = seed_curves(rng, seeds, trend)
        return {
            f"{CLAIM}{shape.name}": all(
                slope.p_holm <= 0.05 and slope.interval.mean * sign > 0
                for slope, sign in zip(shape.slopes, shape.signs, strict=True)
            )
            for shape in (rises_then_falls(curves), falls_rises_falls(curves))
        }

    return experiment


def swings(trend: str, low: float, high: float) -> Experiment:
    """One method's curves against a band."""

    def experiment(rng: np.random.Generator, seeds: int) -> Found:
        found = oscillation(seed_curves(rng, seeds, trend), low, high)
        return {
            "the first seed switches three times": len(found.seeds[0].steps) >= 3,
            f"{CLAIM}oscillates": found.p <= 0.05,
            f"{CLAIM}amplitudes shrink": found.p_growth <= 0.05 and found.growth.mean < 0,
        }

    return experiment


# (what is compared, truth, is there something to find, experiment)
EXPERIMENTS: tuple[tuple[str, str, bool, Experiment], ...] = (
    ("benchmark, 30 problems × 16", "no difference", False, benchmark(30, 16)),
    ("benchmark, 500 problems × 4", "no difference", False, benchmark(500, 4)),
    ("six benchmarks, four methods", "no difference", False, benchmarks()),
    ("two curves", "no difference", False, areas()),
    *(
        ("one curve, shape", trend, False, shapes(trend))
        for trend in ("flat", "falls evenly", "falls fast, levels off", "rises fast, levels off")
    ),
    ("one curve, band 0.3-0.45", "falls fast, levels off", False, swings("falls fast, levels off", 0.3, 0.45)),
    ("one curve, band 0.36-0.44", "falls evenly", False, swings("falls evenly", 0.36, 0.44)),
    ("one curve, band 0.3-0.5", "flat, in the band", False, swings("flat", 0.3, 0.5)),
    ("one curve, band 0.36-0.44", "flat, in a band as narrow as the noise", False, swings("flat", 0.36, 0.44)),
    ("benchmark, 30 problems × 16", "0.2 in logits, about 2.8 pt", True, benchmark(30, 16, 0.2)),
    ("benchmark, 500 problems × 4", "0.2 in logits, about 2.8 pt", True, benchmark(500, 4, 0.2)),
    ("benchmark, 100 problems × 4", "the planned minimum detectable effect", True, planned),
    ("six benchmarks, four methods", "the first 2 pt higher", True, benchmarks(2.0)),
    ("two curves", "0.05 nats", True, areas(0.05)),
    ("one curve, shape", "rises, falls by 0.15", True, shapes("rises, falls by 0.15")),
    ("one curve, shape", "falls, rises, falls by 0.15", True, shapes("falls, rises, falls by 0.15")),
    ("one curve, band 0.3-0.5", "swings of 0.4, even", True, swings("swings of 0.4, even", 0.3, 0.5)),
    (
        "one curve, band 0.35-0.45",
        "swings of 0.5, halved three times",
        True,
        swings("swings of 0.5, halved three times", 0.35, 0.45),
    ),
)


def outside(limits: tuple[float, float] | np.ndarray) -> bool:
    """True if 0 is outside the interval."""
    return bool(limits[0] > 0 or limits[1] < 0)


def measure(experiment: Experiment, seeds: int, repeats: int, name: str) -> dict[str, float]:
    """Share of `repeats` in which each test finds something. `name` and `seeds` seed the draws."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), seeds])
    found = [experiment(rng, seeds) for _ in range(repeats)]
    return {route: sum(bool(entry[route]) for entry in found) / repeats for route in found[0]}


def table(repeats: int) -> str:
    """All experiments, as Markdown: per cent of `repeats` with a finding ± Monte-Carlo standard error."""
    lines = []
    for real, title in ((False, "Nothing to find: false positives"), (True, "Something to find: power")):
        lines += ["", f"### {title}, % of {repeats} repeats", ""]
        lines.append("| compared | truth | route | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |")
        lines.append("|" + "---|" * (3 + len(SEEDS)))
        for compared, truth, finds, experiment in EXPERIMENTS:
            if finds != real:
                continue
            by_seeds = [measure(experiment, n, repeats, f"{compared}: {truth}") for n in SEEDS]
            for route in by_seeds[0]:
                cells = [_cell(entry[route], repeats) for entry in by_seeds]
                shown = route + CLAIM if route.startswith(CLAIM) else route
                lines.append(f"| {compared} | {truth} | {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(rate: float, repeats: int) -> str:
    return f"{100 * rate:.1f} ± {100 * math.sqrt(rate * (1 - rate) / repeats):.1f}"


def _limits(estimate, null: float) -> tuple[float, float]:
    return estimate.low - null, estimate.high - null


def _apart(a, b) -> bool:
    return a.low > b.high or b.low > a.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help=f"replace the tables in {PAGE.parent.name}/{PAGE.name}")
    args = parser.parse_args()
    text = table(args.repeats)
    print(text)
    if args.write:
        before, rest = PAGE.read_text().split(MARKS[0])
        write_atomic(PAGE, f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.split(MARKS[1])[1]}")


if __name__ == "__main__":
    main()
