"""The rule that chose the training regime of each world: python -m dynclip.lab.regime [--world facts] [--write FOLDER]

The rule looks at GRPO alone, never at the order of methods. Every candidate trains GRPO on SEARCH_SEEDS, side by side,
from base policies of their own. A candidate passes if, on the mean over these seeds,

    collapse  the entropy of the last tenth of the steps is below ENTROPY of that of the first step
    binding   the bounds remove the gradient of CLIPPED of the tokens, both bounds together, mean over the run
    learning  held-out pass@1 ends at least GAIN above the base policy
    stable    the mean reward of the last tenth of the steps is at most DROP below the best tenth

Candidates with several epochs come before those with one. A token's first update is at ratio 1, so with one epoch no
bound acts on a token's own movement, and none changed entropy in the map of docs/steering.md. Then the cheapest is
taken: the fewest completions x epochs x steps, at equal cost the one whose entropy ends lowest. pass@k at the largest k
is reported and decides nothing. No study uses the search seeds, their policies or, in `paths`,
their graphs: seed mod 24 is the number of the graph, 16 to 19 here, the other 20 for the study's seeds 20 to 39.

Finished candidates are kept as JSON. A changed scale gets a new folder; after a change of the code delete the old one.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dynclip.methods.registry import method
from dynclip.report.tables import markdown_rows
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_atomic, write_json
from dynclip.runtime.hardware import processor
from dynclip.runtime.progress import Progress
from dynclip.runtime.provenance import digest, environment
from dynclip.studies.scales import FACTS, PATHS, WORDED, Scale
from dynclip.training.company import summary
from dynclip.training.loop import Loop
from dynclip.training.worlds import folders
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.scoring import limited, numbers_of
from dynclip.training.worlds.tasks import task_of
from dynclip.training.worlds.warm_start import warm_start
from evals.benchmarks.loading import read_problems, write_data

ENTROPY = {"paths": 0.25, "facts": 0.25, "worded": 0.50}  # share of the first step's
CLIPPED = (0.02, 0.15)  # share of the tokens, at least and at most
GAIN = {"paths": 0.15, "facts": 0.15, "worded": 0.10}  # of pass@1; no candidate of `worded` reached 0.15
DROP = 0.05
SEARCH_SEEDS = (1000, 1001, 1002, 1003)
WORLDS = {scale.name: scale for scale in (PATHS, FACTS, WORDED)}


@dataclass(frozen=True)
class Candidate:
    """What the search varies in a scale: fields of `Scale`."""

    prompts_per_step: int
    group_size: int
    minibatches: int
    epochs: int
    learning_rate: float
    steps: int

    @property
    def label(self) -> str:
        """The candidate in one word, also the name of its file."""
        return "{}x{}-updates{}x{}-lr{:g}-steps{}".format(*astuple(self))

    @property
    def cost(self) -> int:
        """Completions that the updates go over, each counted once per epoch."""
        return self.prompts_per_step * self.group_size * self.epochs * self.steps


CANDIDATES = {
    "paths": (
        Candidate(32, 8, 16, 1, 1e-3, 100), Candidate(64, 8, 16, 1, 1e-3, 100), Candidate(32, 8, 4, 4, 6e-4, 100),
    ),
    "facts": (
        Candidate(40, 8, 16, 1, 6e-4, 100), Candidate(48, 8, 16, 1, 6e-4, 100), Candidate(64, 8, 16, 1, 6e-4, 100),
        Candidate(64, 8, 16, 1, 8e-4, 100), Candidate(32, 8, 4, 4, 3e-4, 100),
    ),
    "worded": (
        Candidate(16, 8, 16, 1, 6e-4, 100), Candidate(32, 8, 16, 1, 6e-4, 100), Candidate(32, 8, 16, 1, 8e-4, 100),
        Candidate(40, 8, 16, 1, 8e-4, 100), Candidate(16, 8, 4, 4, 3e-4, 100), Candidate(16, 8, 4, 4, 4e-4, 100),
        Candidate(16, 8, 4, 4, 5e-4, 100), Candidate(24, 8, 4, 4, 4e-4, 100),
        Candidate(16, 8, 4, 4, 3e-4, 120),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A finished candidate, a value for each search seed: nats, share of tokens, rewards of the tenths, k -> pass@k.

    `stopped`: the error that ended the training, without numbers. `minutes`: of all seeds, on the processor `machine`.
    """

    entropy_first: list[float]
    entropy_last: list[float]
    clipped: list[float]
    reward: list[list[float]]
    base: list[dict[str, float]]
    end: list[dict[str, float]]
    minutes: float
    machine: str
    stopped: str = ""

    @property
    def tenths(self) -> np.ndarray:
        """The mean reward of each tenth of the steps, mean over seeds."""
        return np.mean(self.reward, 0)

    def pass_at(self, k: str) -> tuple[float, float]:
        """pass@k of base policy and trained policy, means over seeds."""
        return tuple(float(np.mean([each[k] for each in found])) for found in (self.base, self.end))

    def failures(self, world: str) -> list[str]:
        """The parts of the rule that the candidate breaks; empty if it passes."""
        if self.stopped:
            return ["stopped"]
        before, after = self.pass_at("1")
        broken = {
            "collapse": np.mean(self.entropy_last) >= ENTROPY[world] * np.mean(self.entropy_first),
            "binding": not CLIPPED[0] <= np.mean(self.clipped) <= CLIPPED[1],
            "learning": after - before < GAIN[world],
            "stable": self.tenths[-1] < self.tenths.max() - DROP,
        }
        return [name for name, true in broken.items() if true]


def taken(world: str, found: dict[Candidate, Outcome]) -> Candidate | None:
    """The candidate that the rule takes; None if none passes."""

    def order(candidate: Candidate) -> tuple[bool, int, float]:
        return candidate.epochs == 1, candidate.cost, float(np.mean(found[candidate].entropy_last))

    return min((each for each, outcome in found.items() if not outcome.failures(world)), key=order, default=None)


def search(scale: Scale, seeds: Sequence[int], candidates: Sequence[Candidate], out: Path) -> dict[Candidate, Outcome]:
    """The outcome of each candidate. What is missing under `out` is made: data, base policies, outcomes."""
    varied = ("title", "methods", "seeds", *Candidate.__dataclass_fields__)
    fixed = {name: value for name, value in asdict(scale).items() if name not in varied}
    folder = out / f"{scale.name}-{digest([fixed, list(seeds)])}"
    progress = Progress(f"regime {scale.name}", len(candidates))
    if not (folder / "data" / "manifest.json").exists():
        write_data(folder / "data", scale.name, scale.train_set, scale.benchmarks)
    bases = {seed: folder / "base" / f"seed{seed}" for seed in seeds}
    warm_start(scale, read_problems(folder / "data" / "train.jsonl"), bases, progress.log)
    found = {}
    for candidate in candidates:
        kept = folder / f"{candidate.label}.json"
        if not kept.exists():
            write_json(kept, asdict(train(replace(scale, **asdict(candidate)), bases, folder / "data")))
        found[candidate] = Outcome(**json.loads(kept.read_text()))
        progress.log(f"{candidate.label}: {', '.join(found[candidate].failures(scale.policy.world)) or 'passes'}")
    return found


def train(scale: Scale, bases: dict[int, Path], data: Path) -> Outcome:
    """Train GRPO from the base policies, seed -> folder, and score both ends."""
    torch.set_num_threads(scale.threads)
    seeds, began = tuple(bases), time.perf_counter()
    task = task_of(scale, seeds, bases, read_problems(data / "train.jsonl"))
    start = stack([folders.load(base, task.network) for base in bases.values()])
    loop = Loop(scale, [method("grpo", scale.steps) for _ in seeds], seeds, task, start)
    progress, steps = Progress(f"regime {scale.name}", scale.steps), []
    try:
        while loop.done < scale.steps:
            steps.append(loop.step())
            progress.step(loop.done, summary(steps[-1]))
    except UserError as error:
        return Outcome([], [], [], [], [], [], (time.perf_counter() - began) / 60, processor(), str(error))
    minutes = (time.perf_counter() - began) / 60
    (name,) = scale.benchmarks
    problems = limited(scale, read_problems(data / f"{name}.jsonl"), seeds)
    base, end = ([n["pass_at"] for n in numbers_of(scale, name, problems, bases, w)] for w in (start, loop.weights))
    return Outcome(*zip(*map(numbers, zip(*steps, strict=True)), strict=True), base, end, minutes, processor())


def numbers(rows: Sequence[dict]) -> tuple[float, float, float, list[float]]:
    """Entropy of the first step and of the last tenth, clipped share, rewards of the tenths, from rows of metrics."""

    def tenths(name: str) -> list[float]:
        parts = np.array_split([row[name] for row in rows], min(10, len(rows)))
        return [float(part.mean()) for part in parts]

    clipped = np.mean([row["clip/low_fraction"] + row["clip/high_fraction"] for row in rows])
    return rows[0]["policy/entropy"], tenths("policy/entropy")[-1], float(clipped), tenths("train/reward")


HEAD = (
    "prompts × samples", "mini-batches × epochs", "learning rate", "steps", "cost, thousands", "entropy, nats",
    "clipped, %", "reward, best → last tenth", "pass@1, %", "pass@k, %", "minutes", "breaks",
)  # fmt: skip


def cells(world: str, candidate: Candidate, outcome: Outcome) -> list[str]:
    """A row of the table."""
    prompts, group, minibatches, epochs, rate, steps = map("{:g}".format, astuple(candidate))
    regime = [f"{prompts} × {group}", f"{minibatches} × {epochs}", rate, steps, f"{candidate.cost / 1000:.1f}"]
    end = [f"{outcome.minutes:.1f}", ", ".join(outcome.failures(world)) or "nothing"]
    if outcome.stopped:
        return [*regime, *["–"] * 5, *end]
    first, last = np.mean(outcome.entropy_first), np.mean(outcome.entropy_last)
    entropy = f"{first:.3f} → {last:.3f} ({last / first:.0%})"
    reward = f"{outcome.tenths.max():.3f} → {outcome.tenths[-1]:.3f}"
    largest = max(outcome.base[0], key=int)
    one, many = ("{:.1f} → {:.1f}".format(*(100 * s for s in outcome.pass_at(k))) for k in ("1", largest))
    return [*regime, entropy, f"{100 * np.mean(outcome.clipped):.1f}", reward, one, f"{many} (k = {largest})", *end]


def table(world: str, found: dict[Candidate, Outcome]) -> str:
    """The rule's numbers, a row per candidate in Markdown, and the candidate taken."""
    best = taken(world, found)
    rule = (
        f"Search seeds {SEARCH_SEEDS[0]} to {SEARCH_SEEDS[-1]}. A candidate passes if entropy ends below "
        f"{ENTROPY[world]:.0%} of its start, {CLIPPED[0]:.0%} to {CLIPPED[1]:.0%} of the tokens are clipped, held-out "
        f"pass@1 rises by at least {100 * GAIN[world]:.0f} points, and the last tenth's reward is at most {DROP} below "
        "the best."
    )
    rows = markdown_rows(HEAD, [cells(world, *each) for each in found.items()])
    return f"## {world}\n\n{rule}\n\n{rows}\n\n" + (f"Taken: **{best.label}**." if best else "None passes.")


ABOUT = """# The search for the regime of each world

GRPO alone, means over search seeds. No study uses their base policies or, in `paths`, their graphs. Of those that pass,
candidates with several epochs come first, then the lowest cost (completions × epochs × steps), then the lowest entropy
at the end. The values of each seed are in search.json."""


def page(results: dict[str, dict[Candidate, Outcome]]) -> str:
    """The search as Markdown."""
    machines = "; ".join(sorted({outcome.machine for found in results.values() for outcome in found.values()}))
    made = f"Made by `python -m dynclip.lab.regime --write FOLDER` on: {machines}.\n"
    return "\n\n".join([ABOUT, *(table(*each) for each in results.items()), made])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, help="default: all")
    parser.add_argument("--out", type=Path, default=Path("results/regime"), help="default: results/regime")
    parser.add_argument("--write", type=Path, help="put README.md and search.json into this folder")
    given = parser.parse_args(words)
    names = [given.world] if given.world else WORLDS
    results = {name: search(WORLDS[name], SEARCH_SEEDS, CANDIDATES[name], given.out) for name in names}
    print("\n\n".join(table(name, found) for name, found in results.items()))
    if given.write:
        values = {name: {c.label: asdict(outcome) for c, outcome in found.items()} for name, found in results.items()}
        write_json(given.write / "search.json", {"outcomes": values, "environment": environment()})
        write_atomic(given.write / "README.md", page(results))


if __name__ == "__main__":
    main()
