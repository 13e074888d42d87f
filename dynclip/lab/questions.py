"""Answers the questions of docs/lab.md: runs everything and writes numbers, tables and figures.

    python -m dynclip.lab.questions --out results/reference/lab

Each question writes its files when it is answered, and existing files are not made again. So the same command continues
an interrupted one. `--only` answers one question. `--page` writes tables and figures from the existing files.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from dynclip.lab.compare import compare, decided, differences, summary
from dynclip.lab.figures import render_all
from dynclip.lab.grids import GROUPS, SEEDS, STORIES, UPDATES, regimes, stories
from dynclip.lab.tables import page
from dynclip.lab.tabular import Trace, View, run
from dynclip.lab.world import Regime
from dynclip.methods.types import Line
from dynclip.regions import baseline
from dynclip.runtime.files import write_atomic, write_json
from dynclip.runtime.provenance import code_digest, environment

CURVE_SEEDS = tuple(range(8))
SINGLE_SEEDS = CURVE_SEEDS[:4]  # of od, whose seeds run one after the other
CURVES = ("grpo", "id", "did")
OD_FRACTIONS = (0.2, 0.5)  # H_min / H_init: the paper's, and one that more runs get down to
MOVE = 0.02  # nats: a smaller turn of the mean curve does not count
H_STEP = 0.25  # nats: width of the bins of question 2


def ask_grid(grid: str, out: Path) -> None:
    """Questions 1 and 5 on one grid: regimes-<grid>.csv and cells-<grid>.csv, a row per regime × arm × place."""
    import pandas as pd

    facts, cells = [], []
    every = regimes(grid)
    for number, regime in enumerate(every):
        found, rows = compare(regime, SEEDS[grid])
        facts.append({"regime": number, **found})
        cells += [{"regime": number, **row} for row in rows]
        print(f"[lab] {grid}: {number + 1}/{len(every)}", file=sys.stderr, flush=True)
    write_csv(out / f"regimes-{grid}.csv", pd.DataFrame(facts))
    write_csv(out / f"cells-{grid}.csv", pd.DataFrame(cells))


def ask_rule(out: Path) -> None:
    """Question 2: rule.csv, counts of tokens and of wrong signs by the entropy of the state, along GRPO's runs."""
    import pandas as pd

    rows = []
    for story, fields in STORIES.items():
        regime = Regime(**fields, **UPDATES["4"], **GROUPS["16"], learning_rate=0.1, steps=90)
        for third, counts in enumerate(wrong_signs(regime, CURVE_SEEDS)):
            rows += [
                {"story": story, "third": third, "entropy_low": H_STEP * place, **dict(zip(COUNTS, line, strict=True))}
                for place, line in enumerate(counts)
                if line[0]
            ]
    write_csv(out / "rule.csv", pd.DataFrame(rows))


COUNTS = ("tokens", "wrong_good", "wrong_bad", "size", "size_wrong", "drift_rule", "drift_exact")


def wrong_signs(regime: Regime, seeds) -> np.ndarray:
    """(3, bins, COUNTS) for the thirds of GRPO's run: tokens with an advantage, those with A > 0 and A < 0 whose rule
    has the wrong sign, Σ |exact|, the same over the wrong ones, and the sums of the rule and of the exact expression.
    """
    bins = int(np.log(regime.actions) / H_STEP) + 1
    found = np.zeros((3, bins, len(COUNTS)))

    def watch(view: View) -> None:
        if view.update:
            return
        logprob, rollout = view.logprob, view.rollout
        entropy = -(logprob.exp() * logprob).sum(-1)
        term = (logprob.exp() * (logprob + entropy.unsqueeze(-1))).view(-1)[rollout.places].flatten()
        level = baseline(logprob)[rollout.rows].flatten()
        advantages = rollout.advantages.unsqueeze(-1).expand(rollout.rows.shape).flatten()
        rule, exact = -advantages * term, -advantages * (term - level)
        counted, wrong = (advantages != 0).double(), (rule * exact < 0).double()
        columns = (counted, wrong * (advantages > 0), wrong * (advantages < 0), exact.abs(), wrong * exact.abs())
        place = (entropy[rollout.rows].flatten() / H_STEP).long().clamp(max=bins - 1)
        for number, column in enumerate((*columns, rule, exact)):
            found[3 * view.step // regime.steps, :, number] += torch.bincount(place, column, minlength=bins).numpy()

    run(regime, "grpo", seeds, watch=watch)
    return found


def ask_curves(out: Path) -> None:
    """Question 3: curves.csv (mean entropy by step) and shapes.json (what the curves do)."""
    import pandas as pd

    curves, shapes = [], []
    for label, regime in stories().items():
        traces = {name: run(regime, name, CURVE_SEEDS) for name in CURVES}
        traces |= {f"od {share}": run(regime, "od", SINGLE_SEEDS, {"fraction": share}) for share in OD_FRACTIONS}
        for name, trace in traces.items():
            curves.append({"regime": label, "method": name, **by_step(trace.entropy.mean(0))})
            switches = [int((np.diff(np.maximum(row, 0)) != 0).sum()) for row in trace.signal]
            shapes.append(
                {
                    "regime": label,
                    "method": name,
                    "legs": legs(trace.entropy),
                    "legs_from_grpo": legs(trace.entropy - traces["grpo"].entropy[: len(trace.entropy)]),
                    **({"switches": switches} if name.startswith("od") else {}),
                }
            )
        print(f"[lab] curves: {label}", file=sys.stderr, flush=True)
    write_csv(out / "curves.csv", pd.DataFrame(curves))
    write_json(out / "shapes.json", {"seeds": len(CURVE_SEEDS), "seeds_od": len(SINGLE_SEEDS), "shapes": shapes})


def by_step(curve: np.ndarray, every: int = 2) -> dict[str, float]:
    return {str(step): float(curve[step]) for step in range(0, len(curve), every)}


def legs(curves: np.ndarray) -> list[float]:
    """The rises (+) and falls (−) of the mean of `curves` (seeds, steps), in order, in nats.

    A turn counts if the way back is at least MOVE and 2.5 standard errors over seeds. Smaller ones belong to the leg
    around them.
    """
    mean, turns, extreme, way = curves.mean(0), [0], 0, 0

    def moved(start: int, end: int) -> int:
        change = curves[:, end] - curves[:, start]
        size, error, _ = summary(change)
        return decided(size, error) if abs(size) >= MOVE else 0

    for step in range(1, len(mean)):
        if way == 0:
            # The first leg starts at the highest or the lowest point so far.
            for start in (int(mean[: step + 1].argmax()), int(mean[: step + 1].argmin())):
                if way == 0 and start < step and (way := moved(start, step)):
                    turns, extreme = [start], step
        elif way * (mean[step] - mean[extreme]) > 0:
            extreme = step
        elif moved(extreme, step) == -way:
            turns.append(extreme)
            extreme, way = step, -way
    turns.append(extreme)
    return [round(float(mean[b] - mean[a]), 4) for a, b in pairwise(turns) if a != b]


def ask_formula(out: Path) -> None:
    """Question 4: variants.csv, the second phase by formula or prose, and constants in place of H(p) and M(p)."""
    import pandas as pd

    rows = []
    for label, regime in stories().items():
        rows += [{"regime": label, **row} for row in variants(regime, CURVE_SEEDS)]
        print(f"[lab] formula: {label}", file=sys.stderr, flush=True)
    write_csv(out / "variants.csv", pd.DataFrame(rows))


def variants(regime: Regime, seeds) -> list[dict]:
    """Entropy of one variant minus another at each place, paired by seed.

    A constant bound is the mean over tokens of the dynamic bound's run.
    """
    upper, lower = (run(regime, name, seeds) for name in ("dynamic_upper", "dynamic_lower"))
    high, low = float(upper.eps_high.mean()), float(lower.eps_low.mean())
    flat = {"upper": Line(0.0, high), "lower": Line(0.0, low)}
    schedules = {name: run(regime, name, seeds) for name in ("id", "did")}
    pairs: dict[str, dict[str, Trace]] = {
        "upper: mean of H − H(p)": {"": upper, "x": run(regime, "clip_higher", seeds, {"eps_high": high})},
        "lower: mean of M − M(p)": {"": lower, "x": run(regime, "clip_lower", seeds, {"eps_low": low})},
    }
    for name, trace in schedules.items():
        pairs[f"{name}: prose − formula"] = {"": trace, "x": run(regime, name, seeds, {"phase2": "prose"})}
        pairs[f"{name}: constants − lines"] = {"": trace, "x": run(regime, name, seeds, flat)}
    rows = []
    for label, pair in pairs.items():
        for where in ("half", "end", "success"):
            mean, error, n = summary(differences(pair, where)["x"])
            sign = decided(mean, error)
            rows.append(
                {"variant": label, "where": where, "difference": mean, "se": error, "n": n, "sign": sign, "high": high,
                 "low": low}
            )  # fmt: skip
    return rows


# Question → (its files, which exist once it is answered; the function that answers it).
QUESTIONS: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "train": (("regimes-train.csv", "cells-train.csv"), lambda out: ask_grid("train", out)),
    "test": (("regimes-test.csv", "cells-test.csv"), lambda out: ask_grid("test", out)),
    "rule": (("rule.csv",), ask_rule),
    "curves": (("curves.csv", "shapes.json"), ask_curves),
    "formula": (("variants.csv",), ask_formula),
}


def write_csv(path: Path, table) -> None:
    write_atomic(path, table.to_csv(index=False, float_format="%.5g", lineterminator="\n"))


def main(arguments: list[str] | None = None) -> int:
    """Answer the questions without files, then write the tables and figures."""
    parser = argparse.ArgumentParser(prog="python -m dynclip.lab.questions", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/lab"), help="default: %(default)s")
    parser.add_argument("--figures", type=Path, help="where figures go; default: OUT")
    parser.add_argument("--only", choices=QUESTIONS, help="answer this question alone, without tables and figures")
    parser.add_argument("--page", action="store_true", help="only make tables and figures from existing files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the tables are small, and one thread keeps the order of sums
    for name, (files, ask) in QUESTIONS.items():
        if options.page or options.only not in (None, name) or all((options.out / file).exists() for file in files):
            continue
        start = time.perf_counter()
        ask(options.out)
        about = {"seconds": round(time.perf_counter() - start), "code": code_digest("dynclip.lab.questions:QUESTIONS")}
        write_json(options.out / f"about-{name}.json", about | environment())
    if options.only is None:
        write_page(options.out, options.figures or options.out)
    return 0


def write_page(out: Path, figures: Path) -> None:
    """Write README.md into `out` and the figures into `figures`, from the existing files."""
    write_atomic(out / "README.md", page(out))
    for name, content in render_all(out).items():
        write_atomic(figures / name, content)


if __name__ == "__main__":
    sys.exit(main())
