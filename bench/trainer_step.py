"""Seconds per rollout step of DynClipTrainer against stock TRL, on the same work, interleaved in one run.

    python bench/trainer_step.py [rounds] [steps]

Laptop-scale model (untrained), problems and batch; one thread. Per arm: median of the rounds' seconds per rollout step
with minimum and maximum, and the median of the per-round ratios to TRL's own GRPOTrainer.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from dynclip import lean

lean.prepare()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers.trainer_callback import PrinterCallback  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from dynclip.policies import build_model, build_tokenizer  # noqa: E402
from dynclip.provenance import processor  # noqa: E402
from dynclip.scales import resolve  # noqa: E402
from dynclip.run import trainer_config  # noqa: E402
from dynclip.trl import DynClipTrainer  # noqa: E402
from evals.families import generate  # noqa: E402
from evals.grading import grade_many  # noqa: E402

ARMS = ("TRL", "grpo", "clip_higher", "id", "did", "od")


def reward(completions, answer, **_):
    return [float(v.correct) for v in grade_many(list(zip(completions, answer, strict=True)))]


def seconds_per_step(arm: str, steps: int, problems, folder: Path) -> float:
    """Train `steps` rollout steps from the same untrained policy and return the mean seconds of one."""
    study = replace(resolve("laptop"), steps=steps)
    tokenizer = build_tokenizer()
    cls, extra = (GRPOTrainer, {}) if arm == "TRL" else (DynClipTrainer, {"dynclip_method": arm})
    args = trainer_config(study, 0, folder)
    args.save_strategy = "no"
    trainer = cls(
        model=build_model(study.scale.policy, tokenizer, 0),
        processing_class=tokenizer,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": p.problem, "answer": p.answer} for p in problems]),
        **extra,
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    return (time.perf_counter() - start) / steps


def main(rounds: int = 5, steps: int = 5) -> None:
    torch.set_num_threads(1)
    problems = generate("chain_mod", 400, 1, held_out=False)
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        seconds_per_step("TRL", 2, problems, Path(folder))  # warm-up, not counted
        for _ in range(rounds):
            for arm in ARMS:
                seconds[arm].append(seconds_per_step(arm, steps, problems, Path(folder)))
    print(f"{processor()}, 1 thread, {rounds} rounds x {steps} rollout steps, seconds per rollout step")
    print(f"{'arm':<12} {'median':>7} {'min':>7} {'max':>7}  ratio to TRL (median of rounds)")
    for arm in ARMS:
        ratio = statistics.median(a / b for a, b in zip(seconds[arm], seconds["TRL"], strict=True))
        found = seconds[arm]
        print(f"{arm:<12} {statistics.median(found):7.3f} {min(found):7.3f} {max(found):7.3f}  {ratio:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
