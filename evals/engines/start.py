"""Load the engine of an evaluation: the fixed one of a study, or the one that finishes first on this machine."""

import heapq
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.runtime.text import say
from evals.engines.choice import Choice, Job, cache_bytes, choose_engine, fitting_batch
from evals.engines.engine import Engine, installed_engines, load_tokenizer
from evals.engines.process import Threads
from evals.engines.transformers_engine import TransformersEngine
from evals.engines.vllm_engine import VLLMEngine
from evals.sampling.forecast import TYPICAL_TOKENS
from evals.sampling.models import Model
from evals.sampling.prompts import render
from evals.sampling.task import Task

THREADS = 1  # the number of threads changes the order of float additions, and so the samples
# Below TINY parameters a second thread makes sampling slower. In batches of TINY_BATCH such a model's samples are the
# ones that the fixed engine of a study draws.
TINY, TINY_BATCH = 5e6, 512


def stop_tokens(tasks: Sequence[Task]) -> list[str]:
    """The tokens that end a response under any of the tasks' templates."""
    return sorted({stop for task in tasks for stop in task.template.stops})


def sequence_tokens(model: Model, tasks: Sequence[Task]) -> list[int]:
    """Tokens of the prompt and of the longest response that fits, for every sample of the tasks."""
    tokenizer = load_tokenizer(model.folder)
    lengths = []
    for task in tasks:
        prompts = [render(problem.problem, tokenizer, task.template) for problem in task.problems]
        for ids in tokenizer(prompts)["input_ids"] if prompts else ():
            lengths += [min(len(ids) + task.sampling.max_tokens, model.context or sys.maxsize)] * task.k
    return lengths


def fixed_engine(model: Model, tasks: Sequence[Task]) -> Engine:
    """The engine of `Evaluation(engine="fixed")`."""
    import torch

    torch.set_num_threads(THREADS)
    return TransformersEngine.load(model.folder, stops=stop_tokens(tasks))


def fastest_engine(samples_missing: int, model: Model, tasks: Sequence[Task], wanted: str = "auto", log=say) -> Engine:
    """Load the engine that finishes first on this machine, or the `wanted` one, and log the reason."""
    import torch

    machine = hardware.detect()
    most = THREADS if model.parameters < TINY else int(os.environ.get("OMP_NUM_THREADS", 0)) or machine.cores
    threads = Threads(most, machine.cores, log) if most > 1 else None
    if not threads:
        torch.set_num_threads(most)
    if not torch.cuda.is_available():  # a CPU build beside a GPU
        machine = replace(machine, gpus=())
    limit = max(task.sampling.max_tokens for task in tasks)
    job = Job(samples_missing, min(limit, TYPICAL_TOKENS), model.parameters, limit)
    free = replace(machine, cores=threads.count if threads else machine.cores)
    choice = choose_engine(job, free, installed_engines(), wanted, model.stored_float32)
    log(f"engine {choice.engine}: {choice.why}")
    engine = start_engine(choice, model, tasks, machine, samples_missing, fall_back=wanted == "auto", log=log)
    if threads and choice.device == "cpu":
        engine.threads = threads
        threads.apply()  # loading may have changed their number
    return engine


def start_engine(
    choice: Choice, model: Model, tasks: Sequence[Task], machine, samples: int, fall_back: bool, log=say
) -> Engine:
    """Load the chosen engine. With `fall_back`, transformers runs what vLLM cannot run, and says so."""
    tiny = model.parameters < TINY
    stops = stop_tokens(tasks)
    memory = min(gpu.memory_gib for gpu in machine.gpus) if machine.gpus else machine.memory_gib
    longest = max(task.sampling.max_tokens for task in tasks)
    if choice.engine == "vllm":
        size = model.cache_bytes_per_token * (2 if choice.dtype == "float32" else 1)
        lengths = heapq.nlargest(samples, sequence_tokens(model, tasks))
        cache = cache_bytes(memory * hardware.GIB, size, lengths, model.context)
        try:
            return VLLMEngine.load(
                model.folder, choice.dtype, choice.device, stops, cache_gib=cache / 2**30, compiled=choice.compiled
            )
        except UserError as error:
            if not fall_back:
                raise
            log(f"{error}; going on with transformers")
    most = TINY_BATCH if tiny else 64
    batch = fitting_batch(memory * hardware.GIB, model.cache_bytes_per_token, longest, most)
    return TransformersEngine.load(model.folder, batch, choice.dtype, choice.device, stops)
