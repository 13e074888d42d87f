"""`dynclip evaluate` against lm-evaluation-harness and EvalScope, end to end: python bench/evaluation.py [--write FILE]

The harnesses run one after another, each as its users start it, with the same model, problems of GSM8K, prompt,
sampling, response limit and precision. The whole command counts: imports, loading, sampling, grading, writing.
lm-evaluation-harness and EvalScope run with each batch size of `--batch`. dynclip reads its problems from the hub's
cache, which an uncounted command fills first, and the others read the same ones from a file. Responses are counted in
tokens, from each harness's own files.
Memory is the largest sum of resident sizes over the command's processes.

Run it alone on the machine. The first call builds the other harnesses' environment, .venv-harnesses.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from transformers import AutoTokenizer

from dynclip.runtime.files import write_json
from dynclip.runtime.provenance import environment
from evals.benchmarks.loading import load_problems
from evals.benchmarks.registry import BENCHMARKS
from evals.benchmarks.subset import drawn
from evals.sampling.models import Model, resolve
from evals.sampling.prompts import BOXED
from evals.sampling.settings import Sampling

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-harnesses"
LM_EVAL_TASK = {
    "task": "gsm8k_boxed",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "num_fewshot": 0,
    "doc_to_text": "{{question}}\n\n" + BOXED,
    "doc_to_target": "{{answer.split('####')[-1].strip()}}",
    "filter_list": [
        {
            "name": "boxed",
            "filter": [
                {"function": "regex", "regex_pattern": r"\\boxed\{([^}]*)\}", "group_select": -1},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@dataclass(frozen=True)
class Job:
    """What every harness is asked for; `dtype` is what `dynclip evaluate` chooses on this machine."""

    model: Model
    problems: int
    sampling: Sampling
    batches: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Result:
    """One harness: its command's seconds and peak memory, what it generated, and the accuracy that it reports."""

    harness: str
    seconds: float
    memory_gib: float
    responses: int
    tokens: int
    accuracy: float


def dynclip(job: Job, out: Path, engine: str) -> list[str]:
    rule = job.sampling
    return [
        str(Path(sys.executable).with_name("dynclip")), "evaluate", "--model", job.model.name, "--benchmark", "gsm8k",
        "--k", "1", "--limit", str(job.problems), "--engine", engine, "--out", str(out), "--max-tokens",
        str(rule.max_tokens), "--temperature", str(rule.temperature), "--top-p", str(rule.top_p), "--top-k",
        str(rule.top_k),
    ]  # fmt: skip


def lm_eval(job: Job, out: Path, batch: int) -> list[str]:
    drawing = {"do_sample": False}
    if job.sampling.temperature > 0:
        drawing = {"do_sample": True, **job.sampling.rule}
    task = {
        **LM_EVAL_TASK,
        "dataset_kwargs": {"data_files": {"test": str(problems_file(job, out))}},
        "generation_kwargs": {"until": ["<|im_end|>"], "max_gen_toks": job.sampling.max_tokens, **drawing},
    }
    (out / "task.yaml").write_text(json.dumps(task))  # JSON is YAML
    return [
        str(PEERS / "bin" / "python"), "-m", "lm_eval", "run", "--model", "hf", "--model_args",
        f"pretrained={job.model.folder},dtype={job.dtype}", "--device", "cpu", "--tasks", task["task"],
        "--include_path", str(out), "--apply_chat_template", "--limit", str(job.problems), "--batch_size", str(batch),
        "--output_path", str(out), "--log_samples",
    ]  # fmt: skip


def evalscope(job: Job, out: Path, batch: int) -> list[str]:
    drawing = {"do_sample": False}
    if job.sampling.temperature > 0:
        drawing = {"do_sample": True, **job.sampling.rule}
    # The cache of data sets goes by the folder's name alone.
    problems = problems_file(job, out / f"gsm8k-{job.problems}").parent
    prompt = "{question}\n\n" + BOXED.replace("{", "{{").replace("}", "}}")
    return [
        str(PEERS / "bin" / "evalscope"), "eval", "--model", str(job.model.folder), "--eval-type", "llm_ckpt",
        "--model-args", f"precision={job.dtype}", "--datasets", "gsm8k",
        "--dataset-args",
        json.dumps({"gsm8k": {"few_shot_num": 0, "prompt_template": prompt, "local_path": str(problems)}}),
        "--generation-config", json.dumps({"max_tokens": job.sampling.max_tokens, **drawing}),
        "--limit", str(job.problems), "--eval-batch-size", str(batch), "--work-dir", str(out),
    ]  # fmt: skip


def problems_file(job: Job, folder: Path) -> Path:
    """The problems that `dynclip evaluate --limit` draws, in a new folder that EvalScope loads as a data set."""
    chosen = drawn(load_problems(BENCHMARKS["gsm8k"]), job.problems)
    folder.mkdir(parents=True)
    path = folder / "main_test.jsonl"
    parts = "{config_name: main, data_files: [{split: test, path: main_test.jsonl}]}"
    (folder / "README.md").write_text(f"---\nconfigs: [{parts}]\n---\n")
    rows = ({"question": problem.problem, "answer": f"#### {problem.answer}"} for problem in chosen)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def dynclip_responses(out: Path) -> tuple[list[str], float]:
    import pandas as pd

    accuracy = json.loads((out / "gsm8k.json").read_text())["avg_at_k"]["value"]
    return pd.read_parquet(out / "gsm8k.parquet")["text"].tolist(), accuracy


def lm_eval_responses(out: Path) -> tuple[list[str], float]:
    rows = [json.loads(line) for path in out.rglob("samples_*.jsonl") for line in path.read_text().splitlines()]
    (results,) = (json.loads(path.read_text()) for path in out.rglob("results_*.json"))
    return [row["resps"][0][0] for row in rows], results["results"][LM_EVAL_TASK["task"]]["exact_match,boxed"]


def evalscope_responses(out: Path) -> tuple[list[str], float]:
    rows = [json.loads(line) for path in out.rglob("predictions/**/*.jsonl") for line in path.read_text().splitlines()]
    (report,) = (json.loads(path.read_text()) for path in out.rglob("reports/**/gsm8k.json"))
    texts = [row["model_output"]["choices"][0]["message"]["content"] for row in rows]
    return texts, report["metrics"][0]["score"]


def harnesses(job: Job) -> Iterator[tuple]:
    """(name, command maker, response reader) of each way to do the job."""
    for engine in ("vllm", "transformers"):
        yield f"dynclip, {engine}", lambda out, engine=engine: dynclip(job, out, engine), dynclip_responses
    for batch in job.batches:
        yield f"lm-eval (hf), batch {batch}", lambda out, b=batch: lm_eval(job, out, b), lm_eval_responses
        yield f"EvalScope, batch {batch}", lambda out, b=batch: evalscope(job, out, b), evalscope_responses


def measured(command: list[str], log: Path) -> tuple[float, float]:
    """(seconds, peak GiB) of a command. Ends the program, with the end of its output, where the command fails."""
    began, peak = time.perf_counter(), 0
    with log.open("w") as output:
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):  # one of them has just ended
                peak = max(peak, sum(each.memory_info().rss for each in [process, *process.children(recursive=True)]))
            time.sleep(0.2)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nfailed with exit status {process.returncode}:\n{log.read_text()[-3000:]}")
    return seconds, peak / 2**30


def run(job: Job, chosen: str) -> Iterator[Result]:
    """Every harness whose name contains `chosen`, one after the other."""
    tokenizer = AutoTokenizer.from_pretrained(job.model.folder)
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, make, read) in enumerate(harnesses(job)):
            if chosen not in name:
                continue
            out = Path(folder, str(i))
            command = make(out)
            seconds, memory = measured(command, Path(folder, f"{i}.log"))
            texts, accuracy = read(out)
            if len(texts) != job.problems:
                sys.exit(f"{name}: {len(texts)} responses to {job.problems} problems")
            tokens = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
            yield Result(name, round(seconds, 1), round(memory, 2), len(texts), tokens, accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=1)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="of the peers, whose own default is 1")
    parser.add_argument("--greedy", action="store_true", help="temperature 0 instead of the benchmark's sampling")
    parser.add_argument("--only", default="", help="the harnesses whose name contains this")
    parser.add_argument("--write", type=Path, help="add the results to this JSON file")
    arguments = parser.parse_args()
    subprocess.run((sys.executable, ROOT / "requirements" / "install.py", "harnesses"), check=True)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    rule = BENCHMARKS["gsm8k"].sampling
    rule = Sampling(0.0 if arguments.greedy else rule.temperature, rule.top_p, rule.top_k, arguments.max_tokens)
    job = Job(resolve(arguments.model), arguments.problems, rule, tuple(arguments.batch), "bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        first = Job(job.model, 1, Sampling(0.0, 1.0, 0, 1), (), job.dtype)
        subprocess.run(dynclip(first, Path(folder), "transformers"), check=True, capture_output=True)
    rounds = []
    for number in range(arguments.rounds):
        results = []
        for result in run(job, arguments.only):
            results.append(result)
            slower = result.seconds / results[0].seconds
            print(
                f"{result.harness:24} {result.seconds:7.1f} s  {slower:5.2f} x  {result.memory_gib:5.2f} GiB  "
                f"{result.responses} responses, {result.tokens} tokens  accuracy {result.accuracy:.3f}",
                flush=True,
            )
        rounds.append([asdict(result) for result in results])
        print(f"round {number + 1} of {arguments.rounds} done", flush=True)
    if arguments.write:
        known = json.loads(arguments.write.read_text()) if arguments.write.exists() else []
        setting = {"model": job.model.name, "problems": job.problems, **rule.record, "dtype": job.dtype}
        write_json(arguments.write, [*known, {**setting, "rounds": rounds, "environment": environment()}])


if __name__ == "__main__":
    main()
