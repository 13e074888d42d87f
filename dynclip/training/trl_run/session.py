"""Build and run the trainer of one training, in this process or in each of its worker processes.

`lifecycle` prepares the state folder, calls this here or through `processes.launch`, and publishes the results.
"""

import signal
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from dynclip.runtime import fast_imports
from dynclip.runtime.files import write_json
from dynclip.studies.arms import Arm
from dynclip.studies.scales import RunConfig
from dynclip.training.problems import prompts, require_problems
from dynclip.training.processes.recovery import STOP_FILE
from dynclip.training.trl_run.config import PROTOCOL_FILE, protocol, trainer_config
from evals.engines.process import fix_threads
from evals.grading import rewards


def earned(
    reward: str,
    completions: Sequence[str],
    ids: Sequence[Sequence[int]],
    ends: Collection[int],
    golds: Sequence[str],
    problems: Sequence[str],
) -> list[float]:
    """The reward of each completion, whose tokens are `ids`. `ends`: the tokens that end one.

    `Scale.truncated`: what is cut off, without an end token, counts as no answer.
    """
    whole = [text if tokens[-1] in ends else "" for text, tokens in zip(completions, ids, strict=True)]
    return rewards(reward, whole, golds, problems)


def run_trainer(
    config: RunConfig,
    arm: Arm,
    seed: int,
    base: Path,
    problems: list,
    state: Path,
    exports: dict[int, Path],
    progress,
    resume: Path | None = None,
    done: int = 0,
    micro_batch: int | None = None,
) -> None:
    """Train from `base`, or from checkpoint `resume` after its `done` rollout steps, to the last step.

    On SIGTERM, or if the file STOP_FILE is in `state`, the training ends earlier: after a rollout step, with a
    checkpoint. `exports`: number of finished rollout steps -> folder for the policy of that moment. `micro_batch`
    replaces the execution's own. Every process of a training calls this with the same arguments.

    Raises UserError for too few problems, and for what the libraries' settings forbid.
    """
    execution = config.scale.execution
    fast_imports.skip_unused(except_for=("vllm",) if execution.sampler == "vllm" else ())
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import PrinterCallback

    from dynclip.training.trl_run.recorder import Preemption, Recorder
    from dynclip.trl.trainer import DynClipTrainer

    def reward(completions, completion_ids, problem, answer, **_):
        return earned(config.scale.reward, completions, completion_ids, trainer.eos_token_ids, answer, problem)

    fix_threads(config.scale.threads, progress.log)
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    rows = prompts(config.scale, problems, tokenizer, progress.log)
    require_problems(config, len(rows), "training problems within max_level and max_prompt")
    grpo_config = trainer_config(config, seed, state, micro_batch)
    settings = protocol(config, grpo_config)
    if grpo_config.deepspeed:  # shards the weights while they are loaded, so its process group must exist before
        import deepspeed

        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    trainer = DynClipTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, local_files_only=True
        ),
        processing_class=tokenizer,
        reward_funcs=reward,
        args=grpo_config,
        train_dataset=Dataset.from_list(rows),
        dynclip_method=arm.spec,
        dynclip_options=arm.options,
        allow_on_policy=True,  # `resolve` has refused or forced it for the whole study
    )
    if trainer.accelerator.is_main_process:
        write_json(state / PROTOCOL_FILE, settings)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Recorder(trainer, state, exports, progress))
    trainer.add_callback(Preemption(trainer, lambda: stop.is_set() or (state / STOP_FILE).exists()))
    progress.start(done)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
