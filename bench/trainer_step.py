"""Seconds per rollout step of DynClipTrainer and of TRL's own GRPOTrainer, on the same work, in turns.

    python bench/trainer_step.py [rounds] [steps] [--scale workstation] [--json FILE]

The scale facts uses an untrained policy, one thread and one process. A hub scale uses the base policy and problems of
results/<scale> (`snakemake --cores all --config scale=<scale> -- results/<scale>/base/model.json`). Each measurement is
then a process of its own with the scale's sampler, precision and micro-batch. For each arm it prints the median of the
rounds' seconds with minimum and maximum, the time of sampling, tokens per second, peak memory, the share of the
method's loss, and the median of the per-round ratios to the first arm.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from torch.distributed.elastic.utils.distributed import get_free_port

from dynclip.runtime import fast_imports
from dynclip.runtime.files import write_json
from dynclip.runtime.provenance import environment, processor
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import RunConfig, Scale, WorldPolicy

ARMS = ("TRL", "grpo", "clip_higher", "id", "did", "od")
MARK = "MEASURED "
PROBLEMS = 2000  # training problems of an untrained policy


def measure(arm: str, scale: str, steps: int, folder: Path) -> dict:
    """Train `steps` rollout steps from the same policy after one that does not count; what a counted one costs."""
    config = through_trl(scale, steps + 1)
    fast_imports.skip_unused(except_for=("vllm",) if config.scale.execution.sampler == "vllm" else ())
    import torch
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback, TrainerCallback
    from trl import GRPOTrainer

    from dynclip.training.trl_run.config import trainer_config
    from dynclip.trl.trainer import DynClipTrainer
    from dynclip.trl.vllm_cpu import engine_options
    from evals.grading import rewards

    torch.set_num_threads(config.scale.threads)
    model, tokenizer, rows = materials(config, folder)
    args = trainer_config(config, 0, folder)
    args.save_strategy = "no"
    extra = {} if arm == "TRL" else {"dynclip_method": arm}
    with engine_options(args.use_cpu, args.bf16):
        trainer = (GRPOTrainer if arm == "TRL" else DynClipTrainer)(
            model=model,
            processing_class=tokenizer,
            reward_funcs=lambda completions, answer, **_: rewards("correct", completions, answer),
            args=args,
            train_dataset=Dataset.from_list(rows),
            **extra,
        )
    spent = {"sampling": 0.0, "method": 0.0}
    on_gpu = not args.use_cpu

    def timed(name, function):
        def wrapper(*words, **options):
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            result = function(*words, **options)
            if on_gpu:
                torch.cuda.synchronize()
            spent[name] += time.perf_counter() - start
            return result

        return wrapper

    trainer._generate_and_score_completions = timed("sampling", trainer._generate_and_score_completions)
    marks = []
    updates = config.scale.updates_per_rollout

    class Clock(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if arm != "TRL":  # the method is made once the number of steps is known
                trainer.method.loss = timed("method", trainer.method.loss)

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in (updates, updates * (steps + 1)):
                if on_gpu:
                    torch.cuda.synchronize()
                marks.append((time.perf_counter(), dict(spent), state.num_input_tokens_seen))

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.train()
    (begin, before, tokens), (end, after, all_tokens) = marks
    seconds = (end - begin) / steps
    peak = torch.cuda.max_memory_reserved() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "sampling": (after["sampling"] - before["sampling"]) / steps,
        "method_share": (after["method"] - before["method"]) / steps / seconds,
        "tokens_per_second": (all_tokens - tokens) / steps / seconds,
        "peak_gib": peak / 2**30,
    }


def through_trl(scale: str, steps: int) -> RunConfig:
    """The configuration of `scale` for so many rollout steps, trained by TRL."""
    config = resolve(scale)
    return replace(config, steps=steps, scale=replace(config.scale, trainer="trl"))


def untrained(scale: Scale, folder: Path) -> Path:
    """The folder of an untrained language policy of a world, in Hugging Face format, made where it is missing."""
    import torch

    from dynclip.training.worlds import folders
    from dynclip.training.worlds.tasks import network_of
    from dynclip.training.worlds.tokenizer import build_tokenizer
    from evals.benchmarks.worlds import WORLDS

    base = folder / f"{scale.name}-untrained"
    if not base.exists():
        tokenizer = build_tokenizer(WORLDS[scale.policy.world])
        network = network_of(scale.policy, len(tokenizer))
        weights = network.start(torch.Generator().manual_seed(0))
        folders.publish(base, scale, network, weights, {"steps": 0}, tokenizer)
    return base


def materials(config: RunConfig, folder: Path) -> tuple:
    """(model, tokenizer, rows of prompt and answer) that every arm starts from."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dynclip.training.problems import prompts
    from evals.benchmarks.loading import read_problems
    from evals.benchmarks.worlds import generate

    scale = config.scale
    if isinstance(scale.policy, WorldPolicy):
        base, problems = untrained(scale, folder), generate(scale.policy.world, PROBLEMS, 1, held_out=False)
    else:
        base = Path("results") / config.name / "base"
        problems = read_problems(base.parent / "data" / "train.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    return model, tokenizer, prompts(scale, problems, tokenizer, print)


def in_own_process(arm: str, scale: str, steps: int) -> dict:
    """`measure`, where a sampling engine's memory is gone afterwards."""
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, __file__, "1", str(steps), "--scale", scale, "--arm", arm],
        env=os.environ | ranks | {"MASTER_PORT": str(get_free_port())}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        sys.exit(f"{arm}: no measurement, exit status {done.returncode}; its last words are above")
    return json.loads(line.removeprefix(MARK))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("steps", type=int, nargs="?", default=5)
    parser.add_argument("--scale", default="facts")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated; the first is what ratios are to")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if words.arm:
            print(MARK + json.dumps(measure(words.arm, words.scale, words.steps, Path(folder))), flush=True)
            return

        def once(arm: str) -> dict:
            if isinstance(resolve(words.scale).scale.policy, WorldPolicy):
                return measure(arm, words.scale, words.steps, Path(folder))
            return in_own_process(arm, words.scale, words.steps)

        arms = words.arms.split(",")
        found: dict[str, list[dict]] = {arm: [] for arm in arms}
        for _ in range(words.rounds):
            for arm in arms:
                found[arm].append(once(arm))
    print(f"{processor()}, {words.scale}, {words.rounds} rounds x {words.steps} rollout steps")
    head = f"{'arm':<12} {'s/step':>8} {'min':>8} {'max':>8} {'sampling':>9} {'tokens/s':>9} {'GiB':>7} {'method':>7}"
    print(f"{head}  ratio to {arms[0]}")
    table = {}
    for arm, rows in found.items():
        middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        times = [row["seconds"] for row in rows]
        ratio = statistics.median(
            row["seconds"] / base["seconds"] for row, base in zip(rows, found[arms[0]], strict=True)
        )
        table[arm] = {**middle, "min": min(times), "max": max(times), "ratio": ratio}
        print(
            f"{arm:<12} {middle['seconds']:8.3f} {min(times):8.3f} {max(times):8.3f} {middle['sampling']:9.3f} "
            f"{middle['tokens_per_second']:9.0f} {middle['peak_gib']:7.2f} {middle['method_share']:7.2%}  {ratio:.3f}"
        )
    if words.json:
        head = {"scale": words.scale, "rounds": words.rounds, "steps": words.steps, "environment": environment()}
        write_json(words.json, {**head, "arms": table})


if __name__ == "__main__":
    main()
