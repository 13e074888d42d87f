"""The region rule's sign on the tokens of a method's checkpoints, as JSON for the study page. A rule of the workflow.

python -m dynclip.lab.agreement.checkpoints --scale facts --method grpo --seeds 0,1 --out signs.json
"""

import argparse
import sys
from pathlib import Path

from dynclip.lab.agreement.counts import summarise
from dynclip.lab.agreement.measure import load_policy, policy_tokens
from dynclip.report.evidence import Evidence, load_evidence
from dynclip.report.records import checkpoint_folder
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import seal, write_json
from dynclip.studies.scales import SCALES, Scale
from evals.benchmarks.loading import read_problems

PROMPTS, SAMPLES = 32, 8  # training problems, and completions of each, per checkpoint


def language_scale(name: str) -> Scale:
    """The scale `name`, whose policies are language models. UserError for an unknown one and for a scale without."""
    if name not in SCALES:
        raise UserError(f"unknown scale {name!r}; the scales are: {', '.join(SCALES)}")
    scale = SCALES[name]
    if not scale.has_language_policy:
        raise UserError(f"scale {name}: expected a language policy, but its policy reads nodes of a graph; use facts")
    return scale


def measure_checkpoints(evidence: Evidence, method: str) -> dict:
    """{"prompts", "samples", "checkpoints": [{"step", "seed", and what `summarise` counts}]} of a method's runs.

    Every seed is measured on the same first training problems of the scale's data file.
    """
    scale = language_scale(evidence.scale)
    problems = read_problems(evidence.results / "data" / "train.jsonl")[:PROMPTS]
    found = []
    for (name, seed), run in evidence.runs.items():
        for step in run["checkpoints"] if name == method else ():
            engine = load_policy(checkpoint_folder(evidence.results, method, seed, step))
            tokens = policy_tokens(engine, problems, SAMPLES, scale.max_completion, seed)
            found.append({"step": step, "seed": seed, **summarise(tokens)})
    return {"method": method, "prompts": PROMPTS, "samples": SAMPLES, "checkpoints": found}


def main(arguments: list[str] | None = None) -> int:
    """Measure and write one file; a UserError becomes one line and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m dynclip.lab.agreement.checkpoints", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--scale", default="facts", help="default: facts")
    parser.add_argument("--method", default="grpo", help="default: grpo")
    parser.add_argument("--seeds", required=True, help="comma-separated")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        language_scale(options.scale)
        seeds = [int(seed) for seed in options.seeds.split(",")]
        evidence = load_evidence(options.results / options.scale, [options.method], seeds)
        write_json(options.out, seal(measure_checkpoints(evidence, options.method)))
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
