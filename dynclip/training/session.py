"""One training inside its process, or inside each of its processes: TRL's configuration, the trainer, its callbacks.

`training` claims the state, starts this here or in worker processes (`processes`), and publishes what it leaves.
"""

import signal
import threading
from pathlib import Path

from dynclip.runtime import fast_imports
from dynclip.runtime.errors import UserError
from dynclip.studies.arms import Arm
from dynclip.studies.scales import Study
from dynclip.training.problems import prompts
from dynclip.training.processes.workers import STOP_FILE
from dynclip.training.trl_config import trainer_config
from evals.grading import rewards


def run_trainer(
    study: Study,
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
    """Build the trainer, resume it from checkpoint `resume` (of `done` rollout steps), train to the last step or until
    it is told to stop (SIGTERM, or a file named STOP_FILE in `state`): it then ends with a checkpoint.

    `micro_batch` replaces the execution's own. Runs on every process of a training alike.
    """
    execution = study.scale.execution
    fast_imports.prepare(keep=("vllm",) if execution.sampler == "vllm" else ())
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import PrinterCallback

    from dynclip.training.recorder import Preemption, Recorder
    from dynclip.trl.trainer import DynClipTrainer

    def reward(completions, answer, **_):
        return rewards(study.scale.reward, completions, answer)

    torch.set_num_threads(study.scale.threads)
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    asked = prompts(study.scale, problems, tokenizer, progress.say)
    needed = study.steps * study.scale.prompts_per_step
    if needed > len(asked) and not study.scale.repeats:
        raise UserError(
            f"{len(asked)} training problems, but {study.steps} steps x {study.scale.prompts_per_step} prompts need "
            f"{needed}; use steps={len(asked) // study.scale.prompts_per_step} or fewer"
        )
    config = trainer_config(study, seed, state, micro_batch)
    if config.deepspeed:  # it shares the weights as they are loaded, for which the processes have to have met
        import deepspeed

        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    trainer = DynClipTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, local_files_only=True
        ),
        processing_class=tokenizer,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(asked),
        dynclip_method=arm.spec,
        dynclip_options=arm.options,
        allow_on_policy=True,  # `resolve` has refused or forced it for the whole study
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Recorder(trainer, state, exports, progress))
    trainer.add_callback(Preemption(trainer, lambda: stop.is_set() or (state / STOP_FILE).exists()))
    progress.start(done)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
