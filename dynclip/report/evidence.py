"""The runs and scores of a study. Tables, figures, report and MLflow read them here.

Every file is checked before it is used (`dynclip.report.records`), and compared runs have the same data, base policy,
length and protocol. In a synthetic world each seed has a base policy of its own. An error names the file and the
command that rebuilds it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dynclip.report.records import BASE, base_folder, read_run, read_score, retrain_run, seed_of
from dynclip.runtime.errors import UserError, rebuild_command

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "grpo"

Run = tuple[str, int]  # method, seed


@dataclass(frozen=True)
class Evidence:
    """The verified files of a study.

    results: results/<scale>. methods: in the order of the tables, without the base policy. seeds: all expected seeds.
    runs: (method, seed) -> run.json. rows: (method, seed) -> the rows of metrics.jsonl. scores: the content of the
    score files, each with its path under "file".
    """

    results: Path
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: dict[Run, dict]
    rows: dict[Run, list[dict]]
    scores: list[dict]
    against: str | None = None

    @property
    def scale(self) -> str:
        return self.results.name

    @property
    def baseline(self) -> str:
        """The method that the others are compared with: `against`, or grpo, or the first method without grpo."""
        return self.against or (BASELINE if BASELINE in self.methods else self.methods[0])

    @property
    def steps(self) -> int:
        """Rollout steps of every run."""
        return max((len(rows) for rows in self.rows.values()), default=0)

    @property
    def missing(self) -> list[Run]:
        """Expected runs that are not finished."""
        return [(m, s) for m in self.methods for s in self.seeds if (m, s) not in self.runs]

    def subset(self, methods: Sequence[str], seeds: Sequence[int]) -> "Evidence":
        """The runs of some methods and seeds, with their scores and those of the base policy."""
        keys = {(method, seed) for method in methods for seed in seeds}
        return replace(
            self,
            methods=tuple(methods),
            seeds=tuple(seeds),
            runs={key: run for key, run in self.runs.items() if key in keys},
            rows={key: rows for key, rows in self.rows.items() if key in keys},
            scores=[s for s in base_of(self.scores, seeds) if s["method"] == BASE or (s["method"], s["seed"]) in keys],
        )

    @cached_property
    def benchmarks(self) -> tuple[str, ...]:
        """Names of the benchmarks that have a score."""
        return tuple(dict.fromkeys(score["benchmark"] for score in self.scores))

    @cached_property
    def checkpoints(self) -> tuple[str, ...]:
        """Labels of the evaluated checkpoints in the order of training. "final" comes last."""
        steps = {s["checkpoint"]: s["step"] for s in self.scores if s["method"] != BASE}
        return tuple(sorted(steps, key=lambda label: (label == "final", steps[label])))

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """One row per rollout step: method, seed, step and a column per metric key (NaN where absent)."""
        import pandas as pd

        frames = [pd.DataFrame(rows).assign(method=method, seed=seed) for (method, seed), rows in self.rows.items()]
        if not frames:
            return pd.DataFrame(columns=["method", "seed", "step"])
        frame = pd.concat(frames, ignore_index=True)
        keys = sorted(column for column in frame if "/" in column)
        frame[keys] = frame[keys].apply(pd.to_numeric, errors="coerce")
        return frame[["method", "seed", "step", *keys]]

    def curves(self, key: str, method: str) -> dict[int, list[float]]:
        """seed -> the values of a metric by rollout step. Seeds without any value are left out."""
        found = {}
        for (name, seed), rows in self.rows.items():
            values = [_number(row.get(key)) for row in rows]
            if name == method and not all(map(math.isnan, values)):
                found[seed] = values
        return dict(sorted(found.items()))

    def select(self, benchmark: str, method: str, checkpoint: str = "final") -> dict[int, dict]:
        """seed -> the score of a method's checkpoint on a benchmark."""
        found = {
            score["seed"]: score
            for score in self.scores
            if (score["benchmark"], score["method"], score["checkpoint"]) == (benchmark, method, checkpoint)
        }
        return dict(sorted(found.items()))

    @cached_property
    def score_frame(self) -> "pd.DataFrame":
        """Scores in long form: method seed checkpoint step benchmark k n_problems metric value stderr."""
        import pandas as pd

        columns = ["method", "seed", "checkpoint", "step", "benchmark", "k", "n_problems"]
        records = []
        for score in self.scores:
            shared = {name: score[name] for name in columns}
            average = score["avg_at_k"]
            values = {
                "avg_at_k": (average["value"], average["stderr"]),
                **{f"pass_at_{k}": (value, math.nan) for k, value in score["pass_at"].items()},
            }
            if not is_exact(score):
                flexible = score["flexible"]["avg_at_k"]
                values |= {
                    "maj_at_k": (score["maj_at_k"], math.nan),
                    "flexible_avg_at_k": (flexible["value"], flexible["stderr"]),
                    **{f"share_{name}": (n / samples(score), math.nan) for name, n in score["verdicts"].items()},
                    "completion_tokens_mean": (score["completion_tokens_mean"], math.nan),
                }
            records += [
                shared | {"metric": name, "value": _number(value), "stderr": _number(stderr)}
                for name, (value, stderr) in values.items()
            ]
        return pd.DataFrame(records, columns=[*columns, "metric", "value", "stderr"])


def is_exact(score: dict) -> bool:
    """Whether a score was computed, not sampled: each problem has n = 1, and c is its probability of success."""
    return score.get("headline") == "exact"


def samples(score: dict) -> int:
    """Number of graded samples of a score; of an exact one, number of its problems."""
    return sum(problem["n"] for problem in score["per_problem"])


def counts(score: dict) -> dict[str, tuple[int, float]]:
    """problem id -> (samples, correct); for an exact score (1, probability of success)."""
    return {problem["id"]: (problem["n"], problem["c"]) for problem in score["per_problem"]}


def base_of(scores: list[dict], seeds: Sequence[int]) -> list[dict]:
    """`scores` without those of base policies of other seeds; an only base policy is that of every seed."""
    own = {score["seed"] for score in scores if score["method"] == BASE}
    return [score for score in scores if score["method"] != BASE or len(own) == 1 or score["seed"] in seeds]


def load_evidence(results: Path | str, methods=None, seeds=None, comparable: bool = True) -> Evidence:
    """Read and verify results/<scale>.

    methods, seeds: those of the study. Missing runs are listed in `Evidence.missing`; other runs in the folder are
    ignored. None: all that are there. comparable: also check that the runs may be compared. Raises UserError for the
    first damaged file, and for runs that may not be compared.
    """
    results = Path(results)
    found: dict[Run, Path] = {}
    for path in sorted(results.glob("runs/*/seed*/run.json")):
        found[path.parent.parent.name, seed_of(path.parent)] = path
    score_files = sorted(results.glob("scores/*/seed*/*/*.json"))
    present = {method for method, _ in found} | {f.parts[-4] for f in score_files}
    if methods is None:
        methods = sorted(present - {BASE}, key=lambda name: (name != BASELINE, name))
    methods = tuple(methods)
    if not methods or not (found or score_files):
        raise UserError(f"{results}: no finished run and no score here; make them with: snakemake --cores all")
    if seeds is None:
        seeds = sorted(
            {s for m, s in found if m in methods}
            | {seed_of(f.parents[1]) for f in score_files if f.parts[-4] in methods}
        )
    wanted = [(m, s) for m in methods for s in seeds if (m, s) in found]
    runs, rows = {}, {}
    for key in wanted:
        runs[key], rows[key] = read_run(found[key])
    scores = [
        read_score(path, results)
        for path in score_files
        if (seed_of(path.parents[1]) in seeds and path.parts[-4] in methods) or is_base_of(path, seeds, results)
    ]
    order = {name: place for place, name in enumerate((BASE, *methods))}
    scores.sort(key=lambda s: (s["benchmark"], order[s["method"]], s["seed"], s["step"]))
    evidence = Evidence(results, methods, tuple(seeds), runs, rows, scores)
    if comparable:
        check_comparable(evidence)
    return evidence


def is_base_of(score_file: Path, seeds: Sequence[int], results: Path) -> bool:
    """Whether a score file is that of the base policy of one of `seeds`."""
    seed = seed_of(score_file.parents[1])
    return score_file.parts[-4] == BASE and (seed in seeds or base_folder(results, seed) == results / BASE)


def check_comparable(evidence: Evidence) -> None:
    """Raise UserError unless runs of a seed have one base policy, and all runs one data set, length and protocol, and
    scores one sampling."""
    _check_same_protocol(evidence.runs, evidence.results)
    _check_same_sampling(evidence.scores)


def _check_same_protocol(runs: dict[Run, dict], results: Path) -> None:
    # Pairing by seed needs runs that differ in their method alone (`protocol` in dynclip.training.trl_run.config).
    shared = {"steps": "steps", "data_sha256": "training data (SHA-256)"}
    facts = {key: {title: run[field] for field, title in shared.items()} | run["protocol"] for key, run in runs.items()}
    _check_equal(runs, facts)
    sharing: dict[Path, list[Run]] = {}
    for method, seed in runs:
        sharing.setdefault(base_folder(results, seed), []).append((method, seed))
    for keys in sharing.values():
        _check_equal(runs, {key: {"base policy (SHA-256)": runs[key]["base_model_sha256"]} for key in keys})


def _check_equal(runs: dict[Run, dict], facts: dict[Run, dict]) -> None:
    """Raise UserError for the first run with another fact than the most frequent one."""
    for name in dict.fromkeys(name for fact in facts.values() for name in fact):
        values = [fact.get(name) for fact in facts.values()]
        usual = max(values, key=values.count)
        for (method, seed), fact in facts.items():
            if fact.get(name) != usual:
                raise UserError(
                    f"run {method}/seed{seed} has another {name}, {fact.get(name)}, than the others, {usual}: they "
                    "cannot be compared; leave it out, or rebuild it with: "
                    f"{retrain_run(Path('results') / runs[method, seed]['scale'], method, seed)}"
                )


def _check_same_sampling(scores: list[dict]) -> None:
    for benchmark in {score["benchmark"] for score in scores}:
        these = [score for score in scores if score["benchmark"] == benchmark]
        rules = [(s["k"], {k: v for k, v in s["sampling"].items() if k != "seed"}) for s in these]
        usual = max(rules, key=rules.count)
        for score, rule in zip(these, rules, strict=True):
            if rule != usual:
                raise UserError(
                    f"{score['file']}: sampled with k, settings = {rule}, the others with {usual}; "
                    f"rebuild it with: {rebuild_command('evaluate', score['file'])}"
                )


def _number(value) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
