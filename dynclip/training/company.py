"""All seeds of an arm trained in one process, side by side in stacked tensors (`dynclip.training.loop`).

Every seed keeps its own folder <scale>/runs/<arm>/seed<N>: state, fingerprint, metrics, checkpoints, record. A finished
seed is not trained again, and a missing one trains beside whatever seeds are missing with it, or alone: the company
does not change its draws, and on the machines it was tested on not a bit of its weights.

Seeds end as every training does, see `dynclip.training.lifecycle`.
"""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from dynclip.methods.objective import Method
from dynclip.runtime import checkpoints
from dynclip.runtime.errors import rebuild_command
from dynclip.runtime.files import write_json
from dynclip.runtime.locks import hold
from dynclip.runtime.progress import Progress
from dynclip.studies.arms import Arm
from dynclip.studies.scales import RunConfig
from dynclip.training.fingerprint import fingerprint
from dynclip.training.lifecycle import (
    arm_config,
    complete,
    drop_late,
    export_folders,
    publish,
    reopen,
    reset_if_changed,
    rewind,
)
from dynclip.training.loop import MAX_NORM, Loop
from dynclip.training.problems import require_problems
from dynclip.training.processes.recovery import Preempted
from dynclip.training.trl_run.config import PROTOCOL_FILE
from dynclip.training.worlds import folders, sampler
from dynclip.training.worlds.checkpoint import newest_common, restore, write_checkpoint
from dynclip.training.worlds.draws import placed_for
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.tasks import task_of
from evals.benchmarks.loading import read_problems


def train_company(config: RunConfig, name: str, seeds: Sequence[int], folder: Path, log_file: Path | None = None):
    """Train or resume every seed of the arm `name` that is not finished, and publish each; `folder` is results/<scale>.

    Raises UserError for damaged inputs, and Preempted after a SIGTERM: the same call goes on from the checkpoint
    written then.
    """
    arm, config = arm_config(config, name)
    data = folder / "data" / "train.jsonl"
    problems = read_problems(data)
    require_problems(config, len(problems), str(data))
    bases = {seed: folder / "base" / f"seed{seed}" for seed in seeds}
    runs = {seed: folder / "runs" / name / f"seed{seed}" for seed in seeds}
    runs[seeds[0]].parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(f"{name} {len(seeds)} seeds", config.steps, log_file)
    with hold(runs[seeds[0]].parent / ".training.lock", f"the training of {name}", progress.log):
        began = time.perf_counter()
        parts = {}
        for seed in seeds:
            checkpoints.verify(bases[seed], rebuild_command("warmup", bases[seed] / checkpoints.MANIFEST))
            parts[seed] = fingerprint(config, arm, seed, bases[seed], data)
            reset_if_changed(runs[seed] / "state", parts[seed], progress.log)
        left = [seed for seed in seeds if not complete(config, runs[seed] / "state")]
        for seed in left:
            reopen(config, runs[seed] / "state")
        if left:
            with placed_for(config.scale):
                train(config, arm, left, problems, bases, runs, progress)
        else:
            progress.log("all seeds are trained; publishing")
        seconds = (time.perf_counter() - began) / max(1, len(left))
        for seed in seeds:
            publish(config, arm, seed, parts[seed], bases[seed], data, runs[seed], seconds, {})


def train(config: RunConfig, arm: Arm, seeds, problems, bases: dict, runs: dict, progress: Progress) -> None:
    """Train `seeds` from their newest common checkpoint to the last step."""
    torch.set_num_threads(config.scale.threads)
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    states = {seed: runs[seed] / "state" for seed in seeds}
    exports = {seed: export_folders(config, states[seed]) for seed in seeds}
    task = task_of(config.scale, tuple(seeds), bases, problems)
    weights = stack([folders.load(bases[seed], task.network) for seed in seeds])
    methods = [Method(arm.spec, config.steps, arm.options) for _ in seeds]
    loop = Loop(config.scale, methods, seeds, task, weights)
    for seed, state in states.items():
        drop_late(state, exports[seed], 1)
    done = newest_common(states.values())
    if done:
        restore(loop, [state / f"checkpoint-{done}" for state in states.values()])
        progress.log(f"resuming at step {done} of {config.steps}")
    for state in states.values():
        write_json(state / PROTOCOL_FILE, protocol(config))
        rewind(state / "metrics.jsonl", done)
    progress.start(done)
    while loop.done < config.steps:
        rows = loop.step()
        for seed, row in zip(seeds, rows, strict=True):
            with (states[seed] / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        for r, seed in enumerate(seeds):
            if target := exports[seed].get(loop.done):
                weights = {name: value.detach()[r].cpu() for name, value in loop.weights.items()}
                folders.copy_with(bases[seed], target, weights)
        last = loop.done == config.steps
        if (loop.done % config.scale.checkpoint_every == 0 or stop.is_set()) and not last:
            for r, seed in enumerate(seeds):
                with (states[seed] / "metrics.jsonl").open("rb") as file:
                    os.fsync(file.fileno())  # after a power cut no checkpoint may be newer than the rows
                write_checkpoint(loop, r, states[seed])
        progress.step(loop.done, summary(rows))
        if stop.is_set() and not last:
            raise Preempted(
                f"{arm.name}: stopped by SIGTERM; checkpoints are written, the same command resumes from them"
            )
    for state in states.values():
        for checkpoint in state.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def summary(rows: Sequence[dict]) -> str:
    """The means over seeds that a progress line shows."""

    def mean(*names: str) -> float:
        return sum(row[name] for row in rows for name in names) / len(rows)

    return (
        f"reward {mean('train/reward'):.2f}  entropy {mean('policy/entropy'):.3f} nats  "
        f"clipped {mean('clip/low_fraction', 'clip/high_fraction'):.2%}"
    )


def protocol(config: RunConfig) -> dict[str, str]:
    """Setting -> value for all settings of a run that are not its method's. Runs that differ cannot be compared."""
    scale = config.scale
    return {
        "trainer": "loop",
        "loss aggregation": scale.aggregation,
        "dual clip": str(scale.dual_clip),
        "mini-batches per rollout batch": str(scale.minibatches),
        "epochs per rollout batch": str(scale.epochs),
        "completions per mini-batch": str(scale.completions // scale.minibatches),
        "samples per prompt": str(scale.group_size),
        "completion length": str(scale.max_completion),
        "truncated completions": scale.truncated,
        "sampling temperature": "1.0",
        "sampler": sampler.described(scale),
        "advantage scaling": "group",
        "optimizer": "AdamW",
        "learning rate": str(scale.learning_rate),
        "learning-rate warm-up, rollout steps": str(scale.rate_warmup),
        "weight decay": str(scale.weight_decay),
        "gradient clip": str(MAX_NORM),
        "data order": "a permutation for each pass, by seed and pass",
        "entropy definition": "full vocabulary, temperature 1, of the sampling policy, mean over the batch's tokens",
        "reward": scale.reward,
        "precision": "float32",
    }
