"""One training run: from a base policy and a data file to metrics, checkpoints and a record.

During a run, everything is under <out>/state: fingerprint, metrics so far, resumable checkpoints, policies to publish.
Snakemake does not know that folder and never deletes it. A killed run resumes from its last checkpoint. A run whose
fingerprint has changed starts over and names the change.

The results are published at the end, policies as hard links, which take no space. Only checkpoints are removed. The
rest of the state stays, because Snakemake deletes the published files before it runs a job again, and those of a job
that was killed after its end. They are then published again from the state, without training.
"""

import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

from dynclip.runtime import checkpoints
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import is_sealed, seal, sha256, write_atomic, write_json
from dynclip.runtime.locks import hold
from dynclip.runtime.progress import Progress
from dynclip.runtime.provenance import changes, digest, environment
from dynclip.studies.arms import Arm, arm
from dynclip.studies.execution import in_workers, micro_batches, processes_of, sharding_of
from dynclip.studies.scales import Execution, RunConfig
from dynclip.training.fingerprint import fingerprint
from dynclip.training.problems import require_problems
from dynclip.training.processes.launch import Job, run_workers
from dynclip.training.processes.recovery import STOP_FILE, Preempted, with_recovery
from dynclip.training.trl_run.config import PROTOCOL_FILE
from dynclip.training.trl_run.session import run_trainer
from evals.benchmarks.loading import read_problems

METRICS, RECORD = "metrics.jsonl", "run.json"  # in a training's state, and where it is published


def arm_config(config: RunConfig, name: str) -> tuple[Arm, RunConfig]:
    """The arm `name`, and the study with the arm's own batch sizes."""
    chosen = arm(name)
    return chosen, replace(config, scale=chosen.scale(config.scale))


def train(config: RunConfig, name: str, seed: int, base: Path, data: Path, out: Path, log_file=None) -> dict:
    """Train the arm `name` (a method, or an arm of `dynclip.studies.arms`) from the policy `base` on the problems of
    `data`, publish to `out` and return the run record.

    Writes out/metrics.jsonl, out/checkpoints/step<N>/ and, last, out/run.json. Raises UserError for damaged inputs, and
    Preempted after a SIGTERM: the same call resumes from the checkpoint written then.
    """
    checkpoints.verify(base, rebuild_command("warmup", base / checkpoints.MANIFEST))
    chosen, config = arm_config(config, name)
    problems = read_problems(data)
    require_problems(config, len(problems), str(data))
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress(f"{chosen.name} seed {seed}", config.steps, log_file)
    # A training that outlived its killed workflow may still write here.
    with hold(out / ".training.lock", f"the training of {out}", progress.log):
        return train_locked(config, chosen, seed, base, problems, data, out, progress)


def train_locked(config: RunConfig, arm: Arm, seed: int, base, problems, data, out, progress: Progress) -> dict:
    """`train` after its checks, while this process holds the lock of `out`."""
    state = out / "state"
    parts = fingerprint(config, arm, seed, base, data)
    reset_if_changed(state, parts, progress.log)
    (state / STOP_FILE).unlink(missing_ok=True)
    exports = export_folders(config, state)
    started = time.perf_counter()
    restarts = {"micro_batch": None, "restarts": 0}
    if complete(config, state):
        progress.log("training is already complete; publishing")
    else:
        reopen(config, state)
        drop_late(state, exports, config.scale.updates_per_rollout)

        def attempt(micro_batch: int | None) -> None:
            resume, done = newest_checkpoint(state, config, progress.log)
            if resume:
                check_shards(resume, config.scale.execution)
            if in_workers(config.scale.execution):
                job = Job(config.given, arm.name, seed, base, data, state, progress.log_file, resume, done, micro_batch)
                run_workers(job, config.scale, progress.log)
            else:
                run_trainer(config, arm, seed, base, problems, state, exports, progress, resume, done, micro_batch)

        execution = config.scale.execution
        micro_batch, _ = micro_batches(config.scale, processes_of(execution), execution.micro_batch)
        restarts = with_recovery(attempt, micro_batch, progress.log)
        if not complete(config, state):
            raise Preempted(f"{out}: stopped by SIGTERM; a checkpoint is written, the same command resumes from it")
    seconds = time.perf_counter() - started
    return publish(config, arm, seed, parts, base, data, out, seconds, restarts)


def export_folders(config: RunConfig, state: Path) -> dict[int, Path]:
    """Number of finished rollout steps -> folder that holds the policy of that moment until the run is published."""
    return {step: state / "exports" / f"step{step}" for step in sorted(config.checkpoints.values())}


def complete(config: RunConfig, state: Path) -> bool:
    """Whether `state` holds a finished training: every policy, a row of metrics for each step, those of its record."""
    metrics, record = state / METRICS, waiting_record(state)
    if damaged(export_folders(config, state)):
        return False
    try:
        steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    return steps == list(range(config.steps)) and (not record or record.get("metrics_sha256") == sha256(metrics))


def waiting_record(state: Path) -> dict | None:
    """The record of a finished training in its state; None if there is none, or a damaged one."""
    try:
        record = checkpoints.read_state(state / RECORD)
    except UserError:
        return None
    return record if is_sealed(record) else None


def reopen(config: RunConfig, state: Path) -> None:
    """Remove the record of a training that is not complete, and its last policy, which is then exported again."""
    (state / RECORD).unlink(missing_ok=True)
    checkpoints.remove(state / "exports" / f"step{config.steps}")


def damaged(exports: dict[int, Path]) -> list[int]:
    """The steps whose policy is missing or damaged."""
    return [step for step, path in exports.items() if checkpoints.find_corruption(path)]


def drop_late(state: Path, exports: dict[int, Path], numbers_per_step: int) -> None:
    """Delete the checkpoints from which a missing or damaged policy of `exports` would not be written again.

    checkpoint-<n> is that of rollout step n / `numbers_per_step`.
    """
    first = min(damaged(exports), default=math.inf)
    for number, path in checkpoints.numbered(state).items():
        if number >= first * numbers_per_step:
            shutil.rmtree(path)


def newest_checkpoint(state: Path, config: RunConfig, log) -> tuple[Path | None, int]:
    """(newest intact checkpoint or None, its number of rollout steps). Cuts the metrics back to that step."""
    resume = checkpoints.latest(state)
    done = checkpoints.read_state(resume / "dynclip.json")["rollout_step"] if resume else 0
    rewind(state / "metrics.jsonl", done)
    if done:
        log(f"resuming at step {done} of {config.steps} from {resume}")
    return resume, done


def check_shards(resume: Path, execution: Execution) -> None:
    """Raise UserError unless `execution` has the sharding that checkpoint `resume` was written with.

    FSDP2 and unsharded checkpoints can be resumed by any number of processes, ZeRO-3 ones by the same number only.
    """
    # With another sharding the optimizer state would be skipped without an error, or not be found.
    written, wanted = "none", sharding_of(execution)
    if (resume / "pytorch_model_fsdp_0").is_dir():
        written = "fsdp2"
    elif any(resume.glob("global_step*")):
        written = f"zero3 in {len(list(resume.glob('rng_state_*.pth')))} processes"
        wanted += f" in {processes_of(execution)} processes" if wanted == "zero3" else ""
    if written != wanted:
        raise UserError(
            f"{resume}: written with sharding={written}, this training has {wanted}; resume as it was written, or "
            f"remove {resume.parent} to start over"
        )


def reset_if_changed(state: Path, parts: dict, log) -> None:
    """Keep the training state if its fingerprint is `parts`. Otherwise delete it, start a new one and say why.

    What killed processes left of files and folders, in the state and beside it, is deleted in any case.
    """
    checkpoints.sweep(state.parent, state.parent / "checkpoints", state, state / "exports")
    record = state / "fingerprint.json"
    if record.exists():
        old = checkpoints.read_state(record)
        if old == parts:
            return
        log(f"starting over: {changes(old, parts)} changed since {state} was written")
    checkpoints.remove(state)
    write_json(record, parts)


def rewind(metrics: Path, done: int) -> None:
    """Drop the rows of steps that will be trained again, and an incomplete last line.

    Raises UserError if a row of an earlier step is damaged: that step is not trained again.
    """
    kept = []
    for line in metrics.read_text(errors="replace").splitlines() if metrics.exists() else ():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            step = None
        if step != len(kept) or step >= done:
            break
        kept.append(line)
    if len(kept) < done:
        raise UserError(
            f"{metrics}:{len(kept) + 1}: missing or damaged, expected the row of step {len(kept)}, which is not "
            f"trained again; to train from the start, remove {metrics.parent}"
        )
    if metrics.exists():
        write_atomic(metrics, "".join(line + "\n" for line in kept))


def publish(config: RunConfig, arm: Arm, seed: int, parts, base, data, out, seconds, restarts) -> dict:
    """Publish the results of a finished run from its state to `out`, the record last; then remove its checkpoints.

    Returns the record. It is kept in the state as well, so that a later call publishes the same one.
    """
    state = out / "state"
    exports, record = export_folders(config, state), waiting_record(state)
    if not record:
        record = record_of(config, arm, seed, parts, base, data, state, exports, seconds, restarts)
        write_json(state / RECORD, record)
        (out / RECORD).unlink(missing_ok=True)  # an older one, which does not describe what is published now
    for step, path in exports.items():
        checkpoints.publish_links(path, out / "checkpoints" / f"step{step}")
    for name in (METRICS, RECORD):
        write_atomic(out / name, (state / name).read_bytes())
    checkpoints.prune(state, keep=0)
    return record


def record_of(config: RunConfig, arm: Arm, seed: int, parts, base, data, state, exports, seconds, restarts) -> dict:
    """The content of run.json of a finished run."""
    return seal({
        "scale": config.name,
        "method": arm.name,
        "entry": arm.spec.name,
        "options": {name: str(value) for name, value in arm.all_options.items()},
        "seed": seed,
        "steps": config.steps,
        "updates_per_rollout": config.scale.updates_per_rollout,
        "protocol": checkpoints.read_state(state / PROTOCOL_FILE),
        "state": "finished",
        "fingerprint": digest(parts),
        "fingerprint_parts": parts,
        "base_model_sha256": checkpoints.weights_sha256(base),
        "data_sha256": sha256(data),
        "metrics_sha256": sha256(state / "metrics.jsonl"),
        "checkpoints": sorted(exports),
        "seconds": round(seconds, 2),
        "execution": {**vars(config.scale.execution), **restarts, "processes": processes_of(config.scale.execution)},
        "environment": environment(),
    })  # fmt: skip
