"""One training run: from a base policy and a data file to metrics, checkpoints and a record, resumable at any moment.

While a run lasts, everything is under <out>/state, which the workflow does not declare and therefore never deletes:
its fingerprint, its metrics so far, its resumable checkpoints and the policies to be published. A killed run goes on
from its last checkpoint; a run whose fingerprint has changed starts over and says why. Published files appear at the
end, and only then is the state removed.
"""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from dynclip import checkpoints, lean
from dynclip.errors import UserError, rebuild_command
from dynclip.files import sha256, write_atomic, write_json
from dynclip.methods import find
from dynclip.progress import Progress
from dynclip.provenance import changes, code_digest, digest, environment, method_digest
from dynclip.scales import Scale, Study
from dynclip.studies import Arm, arm, with_thresholds


def fingerprint(study: Study, method: str, seed: int, base: Path, data: Path) -> dict[str, str]:
    """The parts that decide a run's result, each digested, so that a change can be named. `study` is the arm's own."""
    scale = study.scale
    return {
        "method": method_digest(method, study.options),
        "seed": str(seed),
        "steps": str(study.steps),
        "settings": digest({name: getattr(scale, name) for name in SETTINGS}),
        "base model": checkpoints.weights_sha256(base),
        "data": sha256(data),
        "code": code_digest(*SHARED_CODE),
    }


SETTINGS = (
    "prompts_per_step", "group_size", "minibatches", "epochs", "learning_rate", "max_completion", "early_fraction",
    "thresholds", "threads",
)  # fmt: skip


# The code that every training shares: the loop, the trainer, the loss, the reward.
SHARED_CODE = (
    "dynclip.training:run_trainer",
    "dynclip.training:trainer_config",
    "dynclip.trl:DynClipTrainer",
    "dynclip.objective:Method",
    "evals.grading:grade_many",
)


def train(study: Study, name: str, seed: int, base: Path, data: Path, out: Path, log=None) -> dict:
    """Train the arm `name` (a method's name, or one of `dynclip.studies`) with `seed` from `base` on the problems of
    `data`; publish to `out`; return the run record.

    Writes out/metrics.jsonl, out/checkpoints/step<N>/ and, last, out/run.json. Raises UserError for damaged inputs.
    """
    from evals.benchmarks import read_problems

    checkpoints.verify(base, rebuild_command("warmup", base / checkpoints.MANIFEST))
    chosen = arm(name)
    options = with_thresholds(chosen.method, {**chosen.options, **study.options}, study.scale.thresholds)
    study = replace(study, scale=chosen.scale(study.scale), options=options)
    problems = read_problems(data)
    needed = study.steps * study.scale.prompts_per_step
    if needed > len(problems):
        raise UserError(
            f"{data}: {len(problems)} problems, but {study.steps} steps x {study.scale.prompts_per_step} prompts "
            f"need {needed}; use steps={len(problems) // study.scale.prompts_per_step} or fewer"
        )
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".training.lock"):  # an orphan of a killed workflow may still be writing here: wait for its end
        return train_alone(study, chosen, seed, base, problems, data, out, log)


def train_alone(study: Study, arm: Arm, seed: int, base, problems, data, out, log) -> dict:
    """`train`, once its inputs are checked and no other process works in `out`."""
    state = out / "state"
    parts = fingerprint(study, arm.method, seed, base, data)
    progress = Progress(f"{arm.name} seed {seed}", study.steps, log)
    claim_state(state, parts, progress.say)
    steps = sorted(study.checkpoints.values())
    exports = {step: state / "exports" / f"step{step}" for step in steps}
    started = time.perf_counter()
    if all((path / checkpoints.MANIFEST).exists() for path in exports.values()):
        progress.say("training was already complete; publishing")
    else:
        run_trainer(study, arm.method, seed, base, problems, state, exports, progress)
    seconds = time.perf_counter() - started
    return publish(study, arm, seed, parts, base, data, out, exports, seconds)


def claim_state(state: Path, parts: dict, say) -> None:
    """Keep a training state that belongs to this fingerprint; delete any other, saying what changed."""
    record = state / "fingerprint.json"
    if record.exists():
        old = json.loads(record.read_text())
        if old == parts:
            return
        say(f"starting over: {changes(old, parts)} changed since {state} was written")
    if state.exists():
        shutil.rmtree(state)
    write_json(record, parts)


def run_trainer(study, method, seed, base, problems, state, exports, progress) -> None:
    """Build the trainer, resume it from the newest whole checkpoint if there is one, and train to the last step."""
    lean.prepare()
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import PrinterCallback

    from dynclip.recorder import Recorder
    from dynclip.trl import DynClipTrainer
    from evals.grading import grade_many

    def reward(completions, answer, **_):
        return [float(v.correct) for v in grade_many(list(zip(completions, answer, strict=True)))]

    torch.set_num_threads(study.scale.threads)
    trainer = DynClipTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, use_safetensors=True, local_files_only=True),
        processing_class=AutoTokenizer.from_pretrained(base, local_files_only=True),
        reward_funcs=reward,
        args=trainer_config(study, seed, state),
        train_dataset=Dataset.from_list([{"prompt": p.problem, "answer": p.answer} for p in problems]),
        dynclip_method=method,
        dynclip_options=study.options,
        allow_on_policy=True,  # `resolve` has refused or forced it for the whole study
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Recorder(trainer, state, exports, progress))
    resume = checkpoints.latest(state)
    done = json.loads((resume / "dynclip.json").read_text())["rollout_step"] if resume else 0
    rewind(state / "metrics.jsonl", done)
    if done:
        progress.say(f"resuming at step {done} of {study.steps} from {resume}")
    progress.start(done)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def trainer_config(study: Study, seed: int, state: Path):
    """TRL's configuration of a run: no KL, token-mean loss, constant rate, several updates per rollout batch."""
    from trl import GRPOConfig

    scale: Scale = study.scale
    return GRPOConfig(
        output_dir=str(state),
        seed=seed,
        data_seed=seed,
        max_steps=study.steps * scale.updates_per_rollout,
        per_device_train_batch_size=scale.prompts_per_step * scale.group_size // scale.minibatches,
        steps_per_generation=scale.minibatches,
        num_iterations=scale.epochs,
        gradient_accumulation_steps=1,
        num_generations=scale.group_size,
        max_completion_length=scale.max_completion,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        learning_rate=scale.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        loss_type="dapo",
        scale_rewards="group",
        save_strategy="steps",
        save_steps=scale.checkpoint_every * scale.updates_per_rollout,
        save_total_limit=None,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )


# What runs that are compared must share, beside data, start and length: the words of an error -> TRL's field.
PROTOCOL = {
    "loss aggregation": "loss_type",
    "dual clip": "delta",
    "mini-batches per rollout batch": "steps_per_generation",
    "epochs per rollout batch": "num_iterations",
    "completions per mini-batch": "per_device_train_batch_size",
    "samples per prompt": "num_generations",
    "completion length": "max_completion_length",
    "sampling temperature": "temperature",
    "advantage scaling": "scale_rewards",
    "KL coefficient": "beta",
    "optimizer": "optim",
    "learning rate": "learning_rate",
    "learning-rate schedule": "lr_scheduler_type",
    "weight decay": "weight_decay",
    "gradient clip": "max_grad_norm",
}


def protocol(study: Study, seed: int, state: Path) -> dict[str, str]:
    """The settings of a run that are not its method's, in words: runs that differ in one cannot be compared."""
    from dynclip.trl import ENTROPY

    config = trainer_config(study, seed, state)
    found = {name: str(getattr(config, field)) for name, field in PROTOCOL.items()}
    order = "TRL's sampler, seeded by the run's seed" if config.data_seed == seed else f"data_seed {config.data_seed}"
    factor = f"{study.scale.thresholds:g}"
    return found | {"factor on thresholds": factor, "data order": order, "entropy definition": ENTROPY}


def rewind(metrics: Path, done: int) -> None:
    """Drop the metrics rows of steps that will be trained again, and any half-written last line."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] >= done:
            break
        kept.append(line)
    write_atomic(metrics, "".join(line + "\n" for line in kept))


def publish(study: Study, arm: Arm, seed: int, parts, base, data, out, exports, seconds) -> dict:
    """Copy the finished run out of its state, write its record last, then remove the state."""
    for step, path in exports.items():
        target = out / "checkpoints" / f"step{step}"
        aside = target.with_name(f".{target.name}.writing")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(path, aside)
        checkpoints.seal(aside, target)
    write_atomic(out / "metrics.jsonl", (out / "state" / "metrics.jsonl").read_bytes())
    record = {
        "scale": study.name,
        "method": arm.name,
        "entry": arm.method,
        "options": {name: str(value) for name, value in method_options(arm.method, study.options).items()},
        "seed": seed,
        "steps": study.steps,
        "updates_per_rollout": study.scale.updates_per_rollout,
        "protocol": protocol(study, seed, out / "state"),
        "state": "finished",
        "fingerprint": digest(parts),
        "fingerprint_parts": parts,
        "base_model_sha256": checkpoints.weights_sha256(base),
        "data_sha256": sha256(data),
        "checkpoints": sorted(exports),
        "seconds": round(seconds, 2),
        "environment": environment(),
    }
    write_json(out / "run.json", record)
    shutil.rmtree(out / "state")
    return record


def method_options(method: str, options: dict) -> dict:
    """A method's options with its defaults filled in."""
    return {**find(method).defaults, **options}
