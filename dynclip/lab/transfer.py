"""The prediction of `dynclip.lab.bands` on a language model: a trial of one rollout batch with each bound.

    python -m dynclip.lab.transfer --laptop results/laptop --out results/reference/lab

For the tabular policy a trial predicts best the sign of a looser bound's effect on entropy at equal steps: one rollout
batch is trained twice from GRPO's policy, with GRPO's bounds and with the looser ones. Here the laptop's policy gets
the same trial, at both of GRPO's checkpoints of every seed. The result is compared with the laptop's runs with those
bounds, of the study `thresholds`. Nothing is fitted.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dynclip.methods.registry import method
from dynclip.report.comparisons import training_differences
from dynclip.report.evidence import load_evidence
from dynclip.report.tables import markdown_rows
from dynclip.runtime.files import write_atomic, write_json
from dynclip.runtime.progress import Progress
from dynclip.runtime.provenance import environment
from dynclip.studies.arms import ARMS
from dynclip.studies.scales import LAPTOP, RunConfig
from dynclip.training.trl_run.config import trainer_config
from evals.benchmarks.registry import read_problems
from evals.grading import grade_many
from evals.sampling.settings import Sampling
from evals.sampling.transformers_engine import TransformersEngine
from evals.stats import Difference, difference

ARMS_TRIED = ("clip_higher", "upper_0.4", "dynamic_upper", "clip_lower", "lower_0.4", "dynamic_lower")
UPPER = ARMS_TRIED[:3]
BEFORE = 3  # rollout batches with GRPO's bounds that fill the optimizer's moments; all arms share them
PROBLEMS, RESPONSES = 100, 4  # held-out problems and responses to each, on which entropy is measured


def correct(completions, answer, **_) -> list[float]:
    """TRL's reward function: 1 for a correct answer, else 0."""
    return [float(v.correct) for v in grade_many(list(zip(completions, answer, strict=True)))]


def trial(checkpoint: Path, arm: str, seed: int, rows: Sequence[dict], reward: Callable, state: Path):
    """The policy after BEFORE rollout batches with GRPO's bounds and one with those of `arm`, from `checkpoint`.

    `rows` is the training set, each row with "prompt" and what `reward` takes. `state` is an empty folder, which stays
    empty.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import PrinterCallback
    from transformers.trainer_utils import SaveStrategy

    from dynclip.trl.trainer import DynClipTrainer

    scale = LAPTOP
    before, after = ARMS["grpo"], ARMS[arm]
    later = method(after.spec, BEFORE + 1, **after.options)

    class Switching(DynClipTrainer):
        @property
        def method(self):
            return later if self.rollout_step >= BEFORE else super().method

    torch.set_num_threads(scale.threads)
    config = trainer_config(RunConfig(scale, (arm,), (seed,), BEFORE + 1, {}), seed, state)
    config.save_strategy = SaveStrategy.NO
    trainer = Switching(
        model=AutoModelForCausalLM.from_pretrained(checkpoint, use_safetensors=True, local_files_only=True),
        processing_class=AutoTokenizer.from_pretrained(checkpoint, local_files_only=True),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        dynclip_method=before.spec,
        dynclip_options=before.options,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.model


def responses(checkpoint: Path, problems: Sequence, seed: int) -> list[tuple[str, str]]:
    """(prompt, response) pairs that `checkpoint` samples at temperature 1; entropies are compared on these tokens."""
    engine = TransformersEngine.load(checkpoint)
    rule = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=LAPTOP.max_completion)
    prompts = [problem.problem for problem in problems]
    samples = engine.generate(prompts, RESPONSES, rule, seed)
    return [(prompt, sample.text) for prompt, group in zip(prompts, samples, strict=True) for sample in group]


def mean_entropy(model, tokenizer, pairs: Sequence[tuple[str, str]]) -> float:
    """Entropy in nats of the next-token distribution, mean over the responses' tokens."""
    import torch

    total, count = 0.0, 0
    for start in range(0, len(pairs), 100):
        some = pairs[start : start + 100]
        texts = tokenizer([a + b for a, b in some], return_tensors="pt", padding=True, padding_side="right")
        begins = torch.tensor([len(tokenizer(a)["input_ids"]) for a, _ in some]).unsqueeze(1)
        with torch.no_grad():
            logprob = torch.log_softmax(model(**texts).logits.float(), -1)
        entropy = -(logprob.exp() * logprob).sum(-1)
        place = torch.arange(entropy.shape[1]).unsqueeze(0)
        # The distribution at place t decides token t + 1.
        counted = (place >= begins - 1) & (place + 1 < texts["attention_mask"].sum(1, keepdim=True))
        total += float((entropy * counted).sum())
        count += int(counted.sum())
    return total / count


def trials(laptop: Path, seeds: Sequence[int]) -> dict[str, dict[int, float]]:
    """arm -> seed -> entropy after a batch with its bounds minus that with GRPO's, nats, mean over both checkpoints."""
    from transformers import AutoTokenizer

    rows = [{"prompt": p.problem, "answer": p.answer} for p in read_problems(laptop / "data" / "train.jsonl")]
    held = read_problems(laptop / "data" / f"{LAPTOP.benchmarks[0]}.jsonl")[:PROBLEMS]
    found: dict[str, dict[int, float]] = {arm: {} for arm in ARMS_TRIED}
    progress = Progress("transfer", len(seeds) * (len(ARMS_TRIED) + 1) * 2)
    progress.start(0)
    done = 0
    for seed in seeds:
        gaps: dict[str, list[float]] = {arm: [] for arm in ARMS_TRIED}
        for checkpoint in sorted((laptop / "runs" / "grpo" / f"seed{seed}" / "checkpoints").iterdir()):
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
            pairs = responses(checkpoint, held, seed)
            entropy = {}
            for arm in ("grpo", *ARMS_TRIED):
                with tempfile.TemporaryDirectory() as state:
                    model = trial(checkpoint, arm, 5000 + seed, rows, correct, Path(state)).eval()
                entropy[arm] = mean_entropy(model, tokenizer, pairs)
                done += 1
                progress.step(done, f"seed {seed}, {checkpoint.name}, {arm}")
            for arm in ARMS_TRIED:
                gaps[arm].append(entropy[arm] - entropy["grpo"])
        for arm, values in gaps.items():
            found[arm][seed] = sum(values) / len(values)
    return found


def held_against(found: Mapping[str, Mapping[int, float]], gaps: Sequence[Difference]) -> list[dict]:
    """A row per arm and place: the trial's and the runs' difference, and whether they agree if both are decided."""
    rows = []
    for arm, values in found.items():
        said = difference(values, dict.fromkeys(values, 0.0), (arm, "grpo"), "one batch", unit="nats")
        for gap in (gap for gap in gaps if gap.a == arm and gap.where.startswith("entropy")):
            both = said.claim and gap.claim
            rows.append(
                {
                    "arm": arm,
                    "where": gap.where,
                    "trial": said.effect,
                    "trial_low": said.low,
                    "trial_high": said.high,
                    "run": gap.effect,
                    "run_low": gap.low,
                    "run_high": gap.high,
                    "n": gap.n,
                    "trial_verdict": said.verdict,
                    "run_verdict": gap.verdict,
                    "paper": 1 if arm in UPPER else -1,
                    "same_sign": bool(said.effect * gap.effect > 0),
                    "agrees": bool(said.effect * gap.effect > 0) if both else None,
                }
            )
    return rows


def page(rows: Sequence[dict]) -> str:
    """The rows as a Markdown table, with counts below."""

    def number(row: dict, name: str) -> str:
        return f"{row[name]:+.4f} [{row[f'{name}_low']:+.4f}, {row[f'{name}_high']:+.4f}]"

    cells = [
        [row["arm"], row["where"], number(row, "trial"), number(row, "run"), row["run_verdict"],
         "–" if row["agrees"] is None else "yes" if row["agrees"] else "no"]
        for row in rows
    ]  # fmt: skip
    head = ["arm − grpo", "place", "one batch tried out, nats", "the runs, nats", "verdict of the runs", "agree"]
    same = sum(row["same_sign"] for row in rows)
    paper = sum(row["paper"] * row["run"] > 0 for row in rows)
    decided = [row for row in rows if row["agrees"] is not None]
    counts = (
        f"Signs of the means: the trial has the run's in {same} of {len(rows)} rows, the paper's direction in {paper}, "
        f'"always lower" in {sum(row["run"] < 0 for row in rows)}. Both decided: {len(decided)} rows, '
        f"the same sign in {sum(row['agrees'] for row in decided)}."
    )
    return f"{markdown_rows(head, cells)}\n\n{counts}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laptop", type=Path, default=Path("results/laptop"), help="default: results/laptop")
    parser.add_argument("--out", type=Path, default=Path("results/lab"), help="default: results/lab")
    arguments = parser.parse_args()
    evidence = load_evidence(arguments.laptop, ("grpo", *ARMS_TRIED), LAPTOP.seeds)
    rows = held_against(trials(arguments.laptop, LAPTOP.seeds), training_differences(evidence))
    write_json(arguments.out / "transfer.json", {"rows": rows, "environment": environment()})
    write_atomic(arguments.out / "transfer.md", page(rows))
    print(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
