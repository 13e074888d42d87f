"""The prompts that a training samples from: filtered by level and length, rendered by the scale's template."""

from dynclip.studies.scales import Scale
from evals.sampling.prompts import TEMPLATES, render


def within_level(scale: Scale, problems: list) -> list:
    """The training problems that are not too hard for the scale."""
    return [problem for problem in problems if scale.max_level is None or problem.level <= scale.max_level]


def prompts(scale: Scale, problems: list, tokenizer, say) -> list[dict]:
    """The training problems as the trainer reads them: without those that are too hard, or whose prompt is too long,
    for the scale."""
    kept = within_level(scale, problems)
    if len(kept) < len(problems):
        say(f"{len(problems) - len(kept)} of {len(problems)} problems left out: above level {scale.max_level}")
    problems = kept
    template = TEMPLATES[scale.template]
    asked = [{"prompt": render(p.problem, tokenizer, template), "answer": p.answer} for p in problems]
    if scale.max_prompt is None:
        return asked
    ids = tokenizer([row["prompt"] for row in asked], add_special_tokens=template.special_tokens)["input_ids"]
    kept = [row for row, tokens in zip(asked, ids, strict=True) if len(tokens) <= scale.max_prompt]
    if len(kept) < len(asked):
        say(f"{len(asked) - len(kept)} of {len(asked)} problems left out: prompts over {scale.max_prompt} tokens")
    return kept
