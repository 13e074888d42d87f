"""The harness side of bench/agreement.py: a harness scores texts with its own tasks. Run in the harness's environment.

    python bench/agreement_peers.py lm-eval|evalscope|lighteval < questions.json > scores.json

In: {"rows": {set: [row of the hub, …]}, "questions": [[set, position of the gold row, text], …]}.
Out: {"versions": …, "scores": [{rule: [score, answer], …}, …]}, one entry per question. A score is true, false or null
(not scored); the answer is what the harness says it took from the text, "" where it does not say.
Each harness builds its document from the hub's row and scores the text with the metric of its task.
"""

import json
import logging
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "lm-eval",
    "evalscope",
    "lighteval",
    "math-verify",
    "latex2sympy2-extended",
    "antlr4-python3-runtime",
    "sympy",
)
Scores = dict[str, tuple[bool | None, str]]
Score = Callable[[str, int, str], Scores]


def lm_eval(rows: dict[str, list[dict]]) -> Score:
    """gsm8k (both filters), minerva_math500 and hendrycks_math500 for MATH-500, aime24 for AIME 2024."""
    import datasets
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

    names = {"gsm8k": ["gsm8k"], "math500": ["minerva_math500", "hendrycks_math500"], "aime24": ["aime24"]}
    members = []
    for part in rows.keys() & names:
        table = datasets.Dataset.from_list(rows[part])
        if part == "aime24":  # the task's copy of the set writes its columns so
            table = table.rename_columns({"problem": "Problem", "answer": "Answer"})
        splits = datasets.DatasetDict(train=table, test=table)
        members += [{"task": name, "custom_dataset": lambda splits=splits, **_: splits} for name in names[part]]
    tasks = TaskManager().load({"group": "agreement", "task": members})["tasks"]
    docs = {name: list(task.test_docs()) for name, task in tasks.items()}

    def score(part: str, position: int, text: str) -> Scores:
        found = {}
        for name in names.get(part, []):
            task, doc = tasks[name], docs[name][position]
            instance = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0)
            instance.resps = [text]
            task._instances = [instance]
            task.apply_filters()
            for chosen, response in instance.filtered_resps.items():
                for metric, value in task.process_results(doc, [response]).items():
                    rule = name if chosen == "none" else f"{name} {chosen}"
                    answer = "" if chosen == "none" else response
                    found[rule if metric == "exact_match" else f"{rule} {metric}"] = bool(value), answer
        return found

    return score


def evalscope(rows: dict[str, list[dict]]) -> Score:
    """gsm8k, math_500 and aime24, by the adapters' `calculate_metrics`."""
    import evalscope.benchmarks  # noqa: F401  (registers the adapters)
    from evalscope.api.evaluator import TaskState
    from evalscope.api.model import ModelOutput
    from evalscope.api.registry import get_benchmark
    from evalscope.config import TaskConfig

    names = {"gsm8k": "gsm8k", "math500": "math_500", "aime24": "aime24"}
    adapters = {part: get_benchmark(names[part], TaskConfig(datasets=[names[part]])) for part in rows}
    samples = {part: [adapters[part].record_to_sample(dict(row)) for row in rows[part]] for part in rows}

    def score(part: str, position: int, text: str) -> Scores:
        output = ModelOutput.from_content(model="stored", content=text)
        sample = samples[part][position]
        sample.id = sample.group_id = 0
        state = TaskState(model="stored", sample=sample, output=output, completed=True)
        result = adapters[part].calculate_metrics(state).score
        value = bool(result.main_value) if result.status.is_usable else None
        return {names[part]: (value, result.extracted_prediction or "")}

    return score


def lighteval(rows: dict[str, list[dict]]) -> Score:
    """gsm8k, math_500 and aime24, by the first metric of the task."""
    from lighteval.metrics.metrics import Metrics
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.tasks.aime import aime24
    from lighteval.tasks.tasks.gsm8k import gsm8k
    from lighteval.tasks.tasks.math_500 import math_500

    tasks = {"gsm8k": gsm8k, "math500": math_500, "aime24": aime24}

    def score(part: str, position: int, text: str) -> Scores:
        metric = tasks[part].metrics[0]
        metric = metric.value if isinstance(metric, Metrics) else metric
        doc = tasks[part].prompt_function(rows[part][position], tasks[part].name)
        found = metric.compute_sample(doc=doc, model_response=ModelResponse(text=[text]))
        read = (doc.specific or {}).get("extracted_predictions") or [""]
        return {tasks[part].name: (bool(found[metric.metric_name]), read[0])}

    return score


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    logging.disable(logging.ERROR)
    asked = json.load(sys.stdin)
    output, sys.stdout = sys.stdout, sys.stderr  # what a harness prints is not part of the answer
    score = {"lm-eval": lm_eval, "evalscope": evalscope, "lighteval": lighteval}[sys.argv[1]](asked["rows"])
    scores = []
    for number, question in enumerate(asked["questions"], start=1):
        scores.append(score(*question))
        if number % 500 == 0:
            print(f"{sys.argv[1]}: {number} of {len(asked['questions'])}", file=sys.stderr, flush=True)
    json.dump({"versions": versions(), "scores": scores}, output)


if __name__ == "__main__":
    main()
