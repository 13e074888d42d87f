"""Search for a laptop regime in which the bounds bind: python -m dynclip.lab.regime [--write FOLDER]

The rule was fixed before any run of the study. Every candidate trains GRPO from the laptop's base policy for STEPS
rollout steps, on SEARCH_SEEDS, which no study uses. A candidate passes if in every seed
    binding  at least BINDING of the tokens lose their gradient to a bound, on average over the run,
    learning the reward gains at least GAIN from the first to the last sixth of the run,
    stable   the reward of the last sixth is at most DROP below the best sixth, and entropy stays above FLOOR.
DROP was 0.03 for the first fourteen candidates. That is within the noise: a mean of six steps has a standard error of
about 0.02, and the best of 35 such means lies about two standard errors above the true one.
The candidate with the largest reward gain among those that pass is taken. Finished runs are not repeated.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dynclip.report.tables import markdown_rows
from dynclip.runtime.files import write_atomic, write_json
from dynclip.runtime.provenance import environment
from dynclip.studies.scales import LAPTOP, RunConfig, Scale
from dynclip.training.lifecycle import train

SEARCH_SEEDS = (1001, 1002)
STEPS = 40
BINDING, GAIN, DROP, FLOOR = 0.05, 0.05, 0.08, 0.05


def candidates() -> list[Scale]:
    """The laptop scale with other batches, updates per rollout, learning rates and factors on the thresholds."""
    found = []
    for prompts, minibatches, epochs, rate, thresholds in (
        (16, 4, 2, 1.5e-4, 1.0),
        (16, 4, 2, 3e-4, 1.0),
        (16, 4, 4, 1.5e-4, 1.0),
        (16, 4, 4, 3e-4, 1.0),
        (16, 2, 8, 1.5e-4, 1.0),
        (16, 2, 8, 3e-4, 1.0),
        (8, 4, 4, 1.5e-4, 1.0),
        (16, 4, 2, 1e-4, 0.25),
        (16, 4, 2, 1.5e-4, 0.5),
        (16, 4, 2, 1.5e-4, 0.25),
        (16, 4, 2, 2e-4, 0.25),
        (16, 4, 4, 1e-4, 0.5),
        (8, 4, 4, 1e-4, 0.5),
        (8, 4, 2, 1.5e-4, 0.25),
        (16, 4, 2, 1.5e-4, 0.125),
        (16, 4, 2, 2e-4, 0.125),
        (16, 4, 2, 2.5e-4, 0.25),
    ):
        batch = {"prompts_per_step": prompts, "minibatches": minibatches, "epochs": epochs}
        found.append(replace(LAPTOP, **batch, learning_rate=rate, thresholds=thresholds))
    return found


@dataclass(frozen=True)
class Outcome:
    """One run of one candidate: shares of tokens and of rewards, nats, seconds per rollout step."""

    seed: int
    clipped: float
    reward_first: float
    reward_best: float
    reward_last: float
    entropy_first: float
    entropy_last: float
    entropy_least: float
    step_seconds: float

    @property
    def gain(self) -> float:
        return self.reward_last - self.reward_first

    @property
    def failures(self) -> list[str]:
        """The parts of the rule that the run breaks."""
        broken = {
            "binding": self.clipped < BINDING,
            "learning": self.gain < GAIN,
            "stable": self.reward_last < self.reward_best - DROP or self.entropy_least < FLOOR,
        }
        return [name for name, true in broken.items() if true]


def outcome(seed: int, rows: Sequence[dict]) -> Outcome:
    """The numbers of the rule, from the rows of a run's metrics.jsonl."""
    sixth = max(1, len(rows) // 6)

    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    rewards = column("train/reward")
    means = [sum(rewards[i : i + sixth]) / sixth for i in range(0, len(rows) - sixth + 1)]
    entropy = column("policy/entropy")
    clipped = [low + high for low, high in zip(column("clip/low_fraction"), column("clip/high_fraction"), strict=True)]
    return Outcome(
        seed=seed,
        clipped=sum(clipped) / len(rows),
        reward_first=means[0],
        reward_best=max(means),
        reward_last=means[-1],
        entropy_first=entropy[0],
        entropy_last=entropy[-1],
        entropy_least=min(entropy) if all(map(math.isfinite, entropy)) else -math.inf,
        step_seconds=sorted(column("time/step"))[len(rows) // 2],
    )


def label(scale: Scale) -> str:
    """A candidate in one word, also the name of its folder."""
    return (
        f"{scale.prompts_per_step}x{scale.group_size}-updates{scale.minibatches}x{scale.epochs}-"
        f"lr{scale.learning_rate:g}" + (f"-thresholds{scale.thresholds:g}" if scale.thresholds != 1 else "")
    )


def chosen(results: dict[str, list[Outcome]]) -> str | None:
    """The candidate that the rule takes; None if no candidate passes."""
    passed = [
        name
        for name, found in results.items()
        if len(found) == len(SEARCH_SEEDS) and not any(each.failures for each in found)
    ]
    return max(passed, key=lambda name: sum(each.gain for each in results[name]), default=None)


def search(laptop: Path, out: Path, jobs: int) -> dict[str, list[Outcome]]:
    """Train every candidate without a finished run under `out`, `jobs` at a time.

    `laptop` is results/laptop, with data and base policy. A candidate that fails with one seed is not tried with the
    next.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    results: dict[str, list[Outcome]] = {label(scale): [] for scale in candidates()}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for seed in SEARCH_SEEDS:
            left = [scale for scale in candidates() if not any(each.failures for each in results[label(scale)])]
            places = [(scale, seed) for scale in left]
            every = pool.map(trained, places, [laptop] * len(places), [out] * len(places))
            for (scale, seed), rows in zip(places, every, strict=True):
                results[label(scale)].append(outcome(seed, rows))
                print(" | ".join(cells(label(scale), results[label(scale)])), flush=True)
    return results


def trained(place: tuple[Scale, int], laptop: Path, out: Path) -> list[dict]:
    """The metrics rows of one candidate with one seed, trained if it has no finished run under `out`."""
    scale, seed = place
    run = out / label(scale) / f"seed{seed}"
    if not (run / "run.json").exists():
        config = RunConfig(scale, ("grpo",), (seed,), STEPS, {})
        train(config, "grpo", seed, laptop / "base", laptop / "data" / "train.jsonl", run)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


HEAD = (
    "prompts x samples, mini-batches x epochs, learning rate, factor on the thresholds", "clipped, %",
    "reward first → last", "entropy, nats", "s per step", "fails",
)  # fmt: skip


def cells(name: str, found: Sequence[Outcome]) -> list[str]:
    """The cells of a table row, one value per seed in each."""

    def each(text) -> str:
        return ", ".join(map(text, found))

    failures = sorted({failure for one in found for failure in one.failures})
    return [
        name,
        each(lambda o: f"{100 * o.clipped:.1f}"),
        each(lambda o: f"{o.reward_first:.2f} → {o.reward_last:.2f}"),
        each(lambda o: f"{o.entropy_first:.2f} → {o.entropy_last:.2f}"),
        each(lambda o: f"{o.step_seconds:.2f}"),
        ", ".join(failures) or "passes",
    ]


def page(results: dict[str, list[Outcome]]) -> str:
    """The search as Markdown: the rule, a row per candidate, and the candidate taken."""
    taken = chosen(results)
    return "\n\n".join(
        [
            "# The search for a regime in which the bounds bind",
            f"GRPO, {STEPS} rollout steps, seeds {', '.join(map(str, SEARCH_SEEDS))} (no study uses them); one value "
            "per seed, and no second one for a candidate that fails with the first. The rule, fixed before: clipped ≥ "
            f"{BINDING:.0%} of tokens, reward gain ≥ {GAIN} from the first to the last sixth, last sixth at most "
            f"{DROP} below the best, entropy above {FLOOR} nats; of those that pass, the largest gain. Made by "
            "`python -m dynclip.lab.regime`.",
            markdown_rows(HEAD, [cells(name, found) for name, found in results.items()]),
            f"Taken: **{taken}**." if taken else "None passes.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laptop", type=Path, default=Path("results/laptop"), help="default: results/laptop")
    parser.add_argument("--out", type=Path, default=Path("results/regime"), help="of the runs; default: results/regime")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side; default: 2")
    parser.add_argument("--write", type=Path, help="put the table and its numbers into this folder")
    arguments = parser.parse_args()
    results = search(arguments.laptop, arguments.out, arguments.jobs)
    if arguments.write:
        write_atomic(arguments.write / "README.md", page(results) + "\n")
        numbers = {name: [vars(each) for each in found] for name, found in results.items()}
        write_json(arguments.write / "search.json", {"candidates": numbers, "environment": environment()})


if __name__ == "__main__":
    main()
