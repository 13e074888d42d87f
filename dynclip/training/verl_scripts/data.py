"""A study's problems as the parquet files that verl 0.9.1 reads.

verl renders a row's chat messages itself, with the tokenizer's chat template or with one from the run's configuration.
The messages and templates here make the prompts of `evals.sampling.prompts`. `check_prompts` compares the two.
"""

import io
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_atomic
from dynclip.studies.scales import RunConfig
from dynclip.training.problems import within_level
from evals.benchmarks.loading import read_problems
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS
from evals.sampling.prompts import BOXED, DAPO_HEAD, DAPO_TAIL, TEMPLATES, render

# Chat templates for those templates of evals.sampling.prompts that do not use the tokenizer's own.
CHAT_TEMPLATES = {
    "qwen-math": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "plain": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
}


def messages(problem: str, template: str) -> list[dict[str, str]]:
    """The chat messages that verl renders to the prompt of `evals.sampling.prompts.render`."""
    user = {"chat": f"{problem}\n\n{BOXED}", "dapo": f"{DAPO_HEAD}\n\n{problem}\n\n{DAPO_TAIL}"}.get(template, problem)
    system = [{"role": "system", "content": BOXED}] if template == "qwen-math" else []
    return [*system, {"role": "user", "content": user}]


def rows(problems: list[Problem], source: str, template: str, k: int | None = None) -> list[dict]:
    """verl's rows of a problem set, with `k` samples per problem in validation."""
    return [
        {
            "data_source": source,
            "prompt": messages(problem.problem, template),
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {
                "index": index,
                "id": problem.id,
                "problem": problem.problem,
                "tolerance": problem.tolerance,
            },
            **({} if k is None else {"__rollout_n__": k}),
        }
        for index, problem in enumerate(problems)
    ]


def write_data(config: RunConfig, data: Path, folder: Path) -> dict[str, dict]:
    """Write train.parquet and <benchmark>.parquet from the jsonl files of `data`.

    Returns {file name: {"rows", "sha256"}}. Raises UserError for missing or damaged files, and for fewer problems than
    a run without repeats needs.
    """
    import pyarrow
    from pyarrow import parquet

    scale = config.scale
    problems = within_level(scale, read_problems(data / "train.jsonl"))
    needed = scale.prompts_per_step if scale.repeats else config.steps * scale.prompts_per_step
    if needed > len(problems):
        raise UserError(
            f"{data / 'train.jsonl'}: {len(problems)} problems, but {config.steps} steps x {scale.prompts_per_step} "
            f"prompts need {needed}; use steps={len(problems) // scale.prompts_per_step} or fewer"
        )
    sets = {"train": rows(problems, scale.train_set, scale.template)}
    for name in scale.benchmarks:
        k = scale.evaluation.k or BENCHMARKS[name].k
        sets[name] = rows(read_problems(data / f"{name}.jsonl"), name, scale.template, k)
    files = {}
    for name, content in sets.items():
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(content), buffer)
        path = write_atomic(folder / f"{name}.parquet", buffer.getvalue())
        files[path.name] = {"rows": len(content), "sha256": sha256(path)}
    return files


def check_prompts(problems: list[Problem], template: str, tokenizer) -> None:
    """Raise UserError unless verl's prompts have, with this tokenizer, the tokens of dynclip's own prompts."""
    if template not in CHAT_TEMPLATES and not tokenizer.chat_template:
        raise UserError(f"template {template!r}: the model's tokenizer has no chat template, which verl needs for it")
    for problem in problems:
        text = tokenizer.apply_chat_template(
            messages(problem.problem, template),
            chat_template=CHAT_TEMPLATES.get(template),
            tokenize=False,
            add_generation_prompt=True,
        )
        ours = render(problem.problem, tokenizer, template)
        special = TEMPLATES[template].adds_special_tokens(tokenizer)
        if tokenizer(text, add_special_tokens=False) != tokenizer(ours, add_special_tokens=special):
            raise UserError(
                f"template {template!r}: verl would write the prompt {text!r}, dynclip writes {ours!r}; choose another "
                "template"
            )
