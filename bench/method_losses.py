"""Time and memory of every method's loss against GRPO's, and of five methods' as shares of a training step.

    python bench/method_losses.py [rounds] [steps] [--size BxT] [--write]

The loss alone is forward and backward of `Method.loss` on one synthetic mini-batch, in float32, on one thread (and on
a GPU if there is one). A round alternates GRPO's loss and a method's, and gives one ratio, of the fastest calls. The
inputs, also entropies and reductions of full logits, are computed before. Peak memory is the allocator's maximum during
one call, beyond the inputs. A whole step is measured as in `trainer_step.py`, with `steps` rollout steps per method and
round.

`--write` puts the tables into docs/cost.md. No number is a pass or fail criterion.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dynclip.runtime import fast_imports

fast_imports.skip_unused()
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler announces its every start otherwise

import torch  # noqa: E402
from trainer_step import measure  # noqa: E402

from dynclip import METHODS, Method, TokenBatch, method, regions  # noqa: E402
from dynclip.methods.vocabulary import clamped_entropy  # noqa: E402
from dynclip.report.evidence import BASELINE  # noqa: E402
from dynclip.report.tables import markdown_rows  # noqa: E402
from dynclip.runtime.files import write_atomic  # noqa: E402
from dynclip.runtime.provenance import environment  # noqa: E402
from dynclip.studies.overrides import resolve  # noqa: E402

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cost.md"
TOTAL_STEPS, STEP = 400, 300  # in the second half of training every scheduled bound is a tensor
GROUP, VOCABULARY, CALLS = 8, 32, 7
DIFFERENTIATED = ("entropy_gradient", "clamped_entropy")
LOSS_GOAL, STEP_GOAL = 1.05, 1.02
FACTS = resolve("facts")


def batch(rows: int, length: int, device: str, needs: tuple[str, ...] = ()) -> TokenBatch:
    """A mini-batch of a softmax policy that has moved a little since it sampled; `needs` as in a method's spec."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> torch.Tensor:
        return torch.randn(rows, length, VOCABULARY, generator=generator)

    old = torch.log_softmax(2 * normal(), -1)
    new = torch.log_softmax(old + 0.15 * normal(), -1)
    actions = torch.multinomial(old.exp().flatten(0, 1), 1, generator=generator).view(rows, length, 1)
    lengths = torch.randint(length // 2, length + 1, (rows, 1), generator=generator)
    success = torch.rand(-(-rows // GROUP), generator=generator).repeat_interleave(GROUP)[:rows]
    rewards = (torch.rand(rows, generator=generator) < success).float()
    fields = {
        "logprob": new.gather(-1, actions).squeeze(-1),
        "old_logprob": old.gather(-1, actions).squeeze(-1),
        "advantages": (rewards - success) / (success * (1 - success)).sqrt().clamp(min=0.1),
        "mask": (torch.arange(length) < lengths).long(),
        "entropy": -(new.exp() * new).sum(-1),
        "old_entropy": -(old.exp() * old).sum(-1),
        "old_baseline": regions.baseline(old),
        "clamped_entropy": clamped_entropy(new, clamp=0.4),
        "success": success,
        "group": torch.arange(rows) // GROUP,
    }
    fields = {name: value.to(device) for name, value in fields.items()}
    # As a trainer gives them: what takes full logits only to those that need it, gradients where they are needed.
    for name in {"old_baseline", "clamped_entropy"} - set(needs):
        del fields[name]
    for name in {"logprob", *(need.removesuffix("_gradient") for need in needs if need in DIFFERENTIATED)}:
        fields[name].requires_grad_()
    return TokenBatch(**fields)


def running(name: str) -> Method:
    """The method in the middle of a run: its controller has seen entropy fall, so that what it steers is on."""
    chosen = method(name, TOTAL_STEPS)
    for step, entropy in enumerate((1.0, 0.05, 0.05, 0.05)):
        chosen.observe(step, entropy)
    return chosen


def update(chosen: Method, inputs: TokenBatch) -> Callable[[], None]:
    """One call: the loss of a prepared mini-batch and its gradients."""
    prepared = chosen.prepare(inputs, STEP)
    leaves = [value for value in (prepared.logprob, prepared.entropy, prepared.clamped_entropy) if value is not None]

    def call() -> None:
        chosen.loss(prepared, STEP).loss.backward()
        for leaf in leaves:
            leaf.grad = None

    return call


def turns(one: Callable[[], None], other: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds of each of two calls, made in turns: the fastest, which nothing else on the machine interrupted."""
    seconds = [math.inf, math.inf]
    for _ in range(CALLS):
        for place, call in enumerate((one, other)):
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[place] = min(seconds[place], time.perf_counter() - start)
    return seconds[0], seconds[1]


def peak(call: Callable[[], None], device: str) -> int:
    """Bytes that torch's allocator holds at most during `call` beyond what it held before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    with tempfile.TemporaryDirectory() as folder:
        record.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    changes = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    return max(itertools.accumulate(event["args"]["Bytes"] for event in changes))


def losses(names: list[str], size: tuple[int, int], rounds: int, device: str) -> dict[str, dict]:
    """name -> ratios of time to GRPO's, one per round, those of `prepare`, GRPO's seconds, peak bytes."""
    calls, prepares = {}, {}
    for name in names:
        chosen, inputs = running(name), batch(*size, device, METHODS[name].needs)
        calls[name] = update(chosen, inputs)
        if chosen.spec.advantages or chosen.spec.rollout_weights:
            prepares[name] = lambda chosen=chosen, inputs=inputs: chosen.prepare(inputs, STEP)
    reference = update(running(BASELINE), batch(*size, device))
    found = {name: {"ratios": [], "prepare": [], "seconds": [], "extra": []} for name in names}
    for name in names:
        calls[name]()
        found[name]["peak"] = peak(calls[name], device)
    for _ in range(rounds):
        for name in names:
            base, own = turns(reference, calls[name], device)
            found[name]["ratios"].append(own / base)
            found[name]["seconds"].append(base)
            found[name]["extra"].append(own - base)
            if name in prepares:
                base, own = turns(reference, prepares[name], device)
                found[name]["prepare"].append(own / base)
    return found


def steps(rounds: int, count: int) -> dict[str, list[float]]:
    """Seconds of a rollout step through TRL for the methods of the scale facts, one number per round."""
    seconds: dict[str, list[float]] = {name: [] for name in FACTS.methods}
    with tempfile.TemporaryDirectory() as folder:
        measure(BASELINE, FACTS.name, 1, Path(folder))  # warm-up, not counted
        for _ in range(rounds):
            for name in FACTS.methods:
                seconds[name].append(measure(name, FACTS.name, count, Path(folder))["seconds"])
    return seconds


def spread(values: list[float], digits: int = 3) -> str:
    """Median [least, greatest]."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def verdict(values: list[float], goal: float) -> str:
    return "yes" if statistics.median(values) <= goal else "no"


def loss_section(found: dict[str, dict], size: tuple[int, int], rounds: int, device: str) -> str:
    """The table of one device."""
    base, rows = found[BASELINE]["peak"], []
    for name, of in found.items():
        own_pass = METHODS[name].reduction is not None
        rows.append(
            [
                f"[`{name}`](methods.md#{name})",
                spread(of["ratios"]),
                "needs full logits" if own_pass else verdict(of["ratios"], LOSS_GOAL),
                spread(of["prepare"]) if of["prepare"] else "–",
                f"{of['peak'] / 2**20:.1f}",
                f"{of['peak'] / base:.2f}",
            ]
        )
    counted = [of["ratios"] for name, of in found.items() if METHODS[name].reduction is None]
    within = sum(verdict(ratios, LOSS_GOAL) == "yes" for ratios in counted)
    milliseconds = 1000 * statistics.median(found[BASELINE]["seconds"])
    header = ["method", "time ÷ grpo", f"≤ {LOSS_GOAL}", "`prepare` ÷ grpo's loss", "peak, MiB", "peak ÷ grpo"]
    return (
        f"## The loss alone, {device}, (B, T) = {size}, float32\n\n{markdown_rows(header, rows)}\n\n"
        f"Time: median [least, greatest] of {rounds} rounds, each the fastest of {CALLS} calls over the fastest of as "
        f"many of GRPO's loss made in turns ({milliseconds:.2f} ms, forward and backward); `grpo` is GRPO against "
        f"itself: what the clock cannot tell apart. {within} of {len(counted)} methods that need no pass over full "
        f"logits are within {LOSS_GOAL} by their median. `prepare` is called once per rollout batch, not per update. "
        "Not counted: making the inputs (log-probabilities, entropies, what takes full logits). Peak: what torch's "
        "allocator holds at most during a call beyond the inputs."
    )


def step_section(seconds: dict[str, list[float]], small: dict[str, dict], size: tuple[int, int], count: int) -> str:
    """The table of whole training steps; `small` are the losses at its mini-batch `size`."""
    step, updates = statistics.median(seconds[BASELINE]), FACTS.scale.updates_per_rollout
    rows = []
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds[BASELINE], strict=True)]
        shares = [1 + updates * extra / step for extra in small[name]["extra"]]
        rows.append(
            [f"[`{name}`](methods.md#{name})", spread(ratios), spread(shares, 4), verdict(shares, STEP_GOAL)]
            if name != BASELINE
            else [f"[`{name}`](methods.md#{name})", "1", spread(shares, 4), "–"]
        )
    header = ["method", "step ÷ grpo's, by the clock", "from the losses", f"≤ {STEP_GOAL}"]
    rounds = len(seconds[BASELINE])
    return (
        f"## A whole training step at the scale facts, through TRL, cpu\n\n{markdown_rows(header, rows)}\n\n"
        f"Median [least, greatest] of {rounds} rounds. By the clock: {count} rollout steps from the same start, all "
        f"methods in turns, each divided by GRPO's of the same round (median {step:.3f} s per step); from the second "
        "step on methods sample different completions, which the ratio contains. From the losses, far more precise: "
        f"1 + {updates} updates × (its loss − GRPO's) at a mini-batch of {size}, divided by GRPO's step; the last "
        "column is about this one."
    )


def report(rounds: int, count: int, size: tuple[int, int], words: list[str]) -> str:
    """docs/cost.md."""
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    sections = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        sections.append(loss_section(losses(list(METHODS), size, rounds, device), size, rounds, device))
    scale = FACTS.scale
    minibatch = (scale.completions // scale.minibatches, scale.max_completion)
    small = losses(list(FACTS.methods), minibatch, 5 * rounds, "cpu")
    sections.append(step_section(steps(rounds, count), small, minibatch, count))
    where = environment()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    commit = f"commit {where['git_commit']}{' with changes' if where['git_dirty'] else ''}"
    return (
        f"# What a method costs\n\nWritten by `{' '.join(['python bench/method_losses.py', *words])}` "
        f"(`make bench-methods`): {where['cpu']}{gpu}, one thread, load {load:.1f} at the start; "
        f"torch {where['torch']}, {commit}. Goals: a loss within {LOSS_GOAL} of GRPO's where no extra pass is needed, "
        f"a training step within {STEP_GOAL}.\n\n" + "\n\n".join(sections) + "\n"
    )


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=10)
    parser.add_argument("steps", type=int, nargs="?", default=5)
    parser.add_argument("--size", default="64x2048", help="B x T of the mini-batch, e.g. 8x256")
    parser.add_argument("--write", action="store_true", help="write docs/cost.md")
    given = parser.parse_args(words)
    rows, length = map(int, given.size.split("x"))
    text = report(given.rounds, given.steps, (rows, length), words)
    print(text)
    if given.write:
        write_atomic(PAGE, text)


if __name__ == "__main__":
    main(sys.argv[1:])
