"""The prompts that a training samples from: filtered by level and length, rendered by the scale's template."""

from dynclip.runtime.errors import UserError
from dynclip.studies.scales import RunConfig, Scale
from evals.sampling.prompts import TEMPLATES, render


def within_level(scale: Scale, problems: list) -> list:
    """The training problems that are not too hard for the scale."""
    return [problem for problem in problems if scale.max_level is None or problem.level <= scale.max_level]


def require_problems(config: RunConfig, available: int, source: str) -> None:
    """Raise UserError if a training without repeats needs more problems than the `available` ones of `source`."""
    per_step = config.scale.prompts_per_step
    needed = config.steps * per_step
    if needed > available and not config.scale.repeats:
        raise UserError(
            f"{source}: {available} problems, but {config.steps} steps x {per_step} prompts need {needed}; "
            f"use steps={available // per_step} or fewer"
        )


def prompts(scale: Scale, problems: list, tokenizer, log) -> list[dict]:
    """The training problems as rows of prompt, problem and answer, without those too hard or too long for the scale."""
    kept = within_level(scale, problems)
    if len(kept) < len(problems):
        log(f"{len(problems) - len(kept)} of {len(problems)} problems left out: above level {scale.max_level}")
    problems = kept
    template = TEMPLATES[scale.template]
    rows = [
        {"prompt": render(p.problem, tokenizer, template), "problem": p.problem, "answer": p.answer} for p in problems
    ]
    if scale.max_prompt is None:
        return rows
    ids = tokenizer([row["prompt"] for row in rows], add_special_tokens=template.adds_special_tokens(tokenizer))[
        "input_ids"
    ]
    kept = [row for row, tokens in zip(rows, ids, strict=True) if len(tokens) <= scale.max_prompt]
    if len(kept) < len(rows):
        log(f"{len(rows) - len(kept)} of {len(rows)} problems left out: prompts over {scale.max_prompt} tokens")
    return kept
