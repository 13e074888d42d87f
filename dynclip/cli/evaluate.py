"""`dynclip evaluate` and `dynclip samples`."""

from pathlib import Path

from dynclip.cli.options import study_of
from dynclip.runtime.errors import UserError
from dynclip.runtime.gpu_locks import use
from dynclip.runtime.progress import Progress
from evals.benchmarks.registry import BENCHMARKS
from evals.browse import STATUSES, Filter, blocks, find, show

MODEL_OPTIONS = ("k", "limit", "engine", "template", "temperature", "top_p", "top_k", "max_tokens", "out")


def run_evaluate(options) -> int:
    if (options.model is None) == (options.method is None):
        raise UserError("evaluate: give --model (a folder or a hub id) or --method (of a study), one of the two")
    if options.model is not None:
        return run_evaluate_model(options)
    for name in MODEL_OPTIONS:
        if getattr(options, name) is not None:
            raise UserError(f"evaluate: --{name.replace('_', '-')} goes with --model; a study's evaluation is fixed")
    return run_evaluate_checkpoint(options)


def run_evaluate_checkpoint(options) -> int:
    from evals.evaluation import evaluate

    study = study_of(options)
    names = options.benchmark or list(study.scale.benchmarks)
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"unknown benchmark {name!r}; the benchmarks are: {', '.join(BENCHMARKS)}")
    folder = options.results / study.name
    checkpoint, seed = options.checkpoint or "final", options.seed or 0
    if options.method == "base":
        model, step = folder / "base", 0
    else:
        step = study.checkpoints.get(checkpoint)
        if step is None:
            raise UserError(f"unknown checkpoint {checkpoint!r}; this study has: {', '.join(study.checkpoints)}")
        model = folder / "runs" / options.method / f"seed{seed}" / "checkpoints" / f"step{step}"
    place = Path(options.method) / f"seed{seed}" / checkpoint
    labels = {
        "scale": study.name,
        "method": options.method,
        "seed": seed,
        "checkpoint": checkpoint,
        "step": step,
    }
    say = Progress(f"evaluate {place}", len(names), options.log).say
    where = folder / "samples" / place, folder / "scores" / place
    with use(min(1, study.scale.execution.gpus)):
        evaluate(model, names, folder / "data", labels, *where, say, study.scale.evaluation, study.scale.template)
    return 0


def run_evaluate_model(options) -> int:
    from evals.evaluation import evaluate_model, summary

    if options.checkpoint is not None:
        raise UserError("evaluate: --checkpoint goes with --method; --model takes the checkpoint's folder")
    if not options.benchmark:
        raise UserError("evaluate: which benchmark? for example --benchmark gsm8k (repeatable)")
    for name, least in (("k", 1), ("limit", 1), ("max_tokens", 1), ("top_k", 0), ("temperature", 0), ("top_p", 0)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise UserError(f"evaluate: --{name.replace('_', '-')} {value}: expected at least {least}")
    if options.top_p is not None and not 0 < options.top_p <= 1:
        raise UserError(f"evaluate: --top-p {options.top_p}: expected more than 0 and at most 1")
    given = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "max_tokens")}
    records = evaluate_model(
        options.model,
        options.benchmark,
        options.k,
        options.limit,
        options.engine or "auto",
        options.template or "auto",
        options.out,
        {name: value for name, value in given.items() if value is not None},
        options.seed,
        options.log,
    )
    for record in records.values():
        print(summary(record))
        print(
            f"  samples: {record['samples']['path']}  (read them: dynclip samples {record['samples']['path']} --wrong)"
        )
    return 0


def run_samples(options) -> int:
    statuses = tuple(options.status or ())
    for status in statuses:
        if status not in STATUSES:
            raise UserError(f"unknown verdict {status!r}; the verdicts are: {', '.join(STATUSES)}")
    if sum((options.wrong, options.correct, bool(statuses))) > 1:
        raise UserError("samples: --wrong, --correct and --status exclude each other")
    if options.wrong:
        statuses = tuple(status for status in STATUSES if status != "correct")
    if options.correct:
        statuses = ("correct",)
    if options.limit is not None and options.limit < 1:
        raise UserError(f"samples: --limit {options.limit}: expected at least 1")
    files = find(options.selection, options.benchmark, options.results)
    chosen = Filter(statuses, options.problem, options.limit)
    show(text for file in files for text in blocks(file, chosen))
    return 0
