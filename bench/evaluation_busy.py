"""Sampling beside processes that compute: python bench/evaluation_busy.py MODEL [--write FILE]

MODEL: a folder or a hub id. Tokens a second of 16 responses of 64 tokens (24 where it crawls), beside 0, 1 and 2
processes that keep a core busy each: as `dynclip evaluate` samples, with a thread for every core, and with transformers
in one thread; also as ratios to the first one alone. Each has a process of its own. Run it alone on the machine.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from dynclip.runtime import hardware
from dynclip.runtime.files import write_json
from dynclip.runtime.provenance import environment
from evals.engines.process import Threads
from evals.engines.transformers_engine import TransformersEngine
from evals.engines.vllm_engine import VLLMEngine
from evals.sampling.models import resolve
from evals.sampling.prompts import TEMPLATES, render
from evals.sampling.settings import Sampling

WAYS = ("vllm, threads follow the load", "vllm, a thread for every core", "transformers, one thread")
BUSY = (0, 1, 2)
PROBLEMS = [f"Tom has {i} apples and buys {i + 3} bags of {i + 5}. How many are there? Explain." for i in range(8)]


def main(options: argparse.Namespace) -> None:
    if options.way is not None:
        print(json.dumps(measure(WAYS[options.way], options.model)))
        return
    found = {}
    for number, way in enumerate(WAYS):
        command = [sys.executable, __file__, options.model, "--way", str(number)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    alone = found[WAYS[0]][0]
    print(f"{'tokens/s beside so many busy processes':42}" + "".join(f"{n:>14}" for n in BUSY))
    for way, rates in found.items():
        print(f"{way:42}" + "".join(f"{rate:8.0f} {rate / alone:5.2f}" for rate in rates))
    if options.write:
        write_json(options.write, {"model": options.model, "busy": BUSY, "rates": found, "environment": environment()})


def measure(way: str, model: str) -> list[float]:
    """Tokens a second of one way, beside each number of BUSY processes."""
    folder, cores = resolve(model).folder, hardware.detect().cores
    torch.set_num_threads(1 if way.endswith("one thread") else cores)
    if way.startswith("vllm"):
        engine = VLLMEngine.load(folder, "bfloat16", cache_gib=1.0)
    else:
        engine = TransformersEngine.load(folder, 64, "bfloat16")
    # As `evaluate` asks: a bare question ends a chat model's response after a few tokens.
    template = TEMPLATES["chat" if engine.tokenizer.chat_template else "dapo"]
    prompts = [render(problem, engine.tokenizer, template) for problem in PROBLEMS]
    engine.generate(prompts, 1, Sampling(1.0, 1.0, 0, 8), 0)  # loads and warms up
    rates = []
    for number in BUSY:
        with computing(number):
            if "follow" in way:
                engine.threads = Threads(cores, cores, log=lambda line: print(line, file=sys.stderr))
            tokens = 24 if "every core" in way and number else 64
            since = time.perf_counter()
            found = engine.generate(prompts, 2, Sampling(1.0, 1.0, 0, tokens), 1)
            made = sum(sample.tokens for group in found for sample in group)
            rates.append(made / (time.perf_counter() - since))
    engine.close()
    return rates


@contextlib.contextmanager
def computing(number: int):
    """So many processes that keep a core busy each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    time.sleep(1.0)
    try:
        yield
    finally:
        for each in processes:
            each.kill()
            each.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--way", type=int)
    main(parser.parse_args())
