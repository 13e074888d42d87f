"""`dynclip evaluate`, a checkpoint of a study or any causal language model, and `dynclip samples`."""

import shlex
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from dynclip.cli.options import config_of, run_of
from dynclip.plan.outputs import is_world
from dynclip.report.records import checkpoint_folder
from dynclip.runtime.errors import UserError
from dynclip.runtime.locks import use
from dynclip.runtime.text import say
from dynclip.studies.scales import RunConfig
from dynclip.training.worlds.scoring import score_company
from evals import evaluation
from evals.browse import STATUSES, Filter, blocks, find, show
from evals.engines.endpoint import served_model
from evals.sampling.models import published, resolve
from evals.sampling.settings import Evaluation
from evals.scoring import summary

SETTINGS = ("k", "limit", "until", "temperature", "top_p", "top_k", "max_tokens", "thinking_budget", "stop_repetition")


def evaluate(options: Namespace) -> None:
    if (options.model is None) == (options.method is None):
        raise UserError("evaluate: give --model (a folder or a hub id) or --method (of a study), one of the two")
    evaluation.check_benchmarks(options.benchmark or ())
    if options.model is None:
        of_checkpoint(options)
    else:
        of_model(options)


def of_checkpoint(options: Namespace) -> None:
    for name in (*SETTINGS, "engine", "template", "shots", "out", "endpoint", "concurrency"):
        if getattr(options, name) is not None:
            raise UserError(f"evaluate: --{name.replace('_', '-')} goes with --model; a study's evaluation is fixed")
    method = run_of(options)
    if options.seed is not None:
        options.seeds = str(options.seed)
    config = config_of(options)
    if options.checkpoint not in (None, *config.checkpoints):
        raise UserError(f"unknown checkpoint {options.checkpoint!r}; this study has: {', '.join(config.checkpoints)}")
    if is_world(config):
        of_company(config, method, options)
    else:
        of_run(config, method, options.seed or 0, options)


def of_company(config: RunConfig, method: str, options: Namespace) -> None:
    """Score the checkpoints of all seeds of an arm of a synthetic world in one process."""
    chosen = {options.checkpoint: config.checkpoints[options.checkpoint]} if options.checkpoint else config.checkpoints
    checkpoints = {"final": 0} if method == "base" else chosen
    benchmarks = tuple(options.benchmark or config.scale.benchmarks)
    folder = options.results / config.name
    score_company(config, method, config.seeds, checkpoints, folder, options.log, benchmarks)


def of_run(config: RunConfig, method: str, seed: int, options: Namespace) -> None:
    """Score one checkpoint of a run of a language model."""
    checkpoint, folder = options.checkpoint or "final", options.results / config.name
    step = 0 if method == "base" else config.checkpoints[checkpoint]
    model = checkpoint_folder(folder, method, seed, step)
    place = Path(method) / f"seed{seed}" / checkpoint
    request = evaluation.Request(
        model=published(model),
        benchmarks=tuple(options.benchmark or config.scale.benchmarks),
        how=replace(config.scale.evaluation, template=config.scale.template),
        samples=folder / "samples" / place,
        scores=folder / "scores" / place,
        data=folder / "data",
        labels={"scale": config.name, "method": method, "seed": seed, "checkpoint": checkpoint, "step": step},
    )
    with use(min(1, config.scale.execution.gpus)):
        evaluation.evaluate(request, options.log)


def of_model(options: Namespace) -> None:
    if options.checkpoint is not None or options.option:
        name = "option" if options.option else "checkpoint"
        raise UserError(f"evaluate: --{name} goes with --method; --model takes the checkpoint's folder")
    if not options.benchmark:
        raise UserError("evaluate: which benchmark? for example --benchmark gsm8k (repeatable)")
    given = {name: getattr(options, name) for name in (*SETTINGS, "seed")}
    template = options.template or "auto"
    how = Evaluation(
        **given,
        engine=options.engine or "auto",
        template=template,
        shots=options.shots,
        concurrency=options.concurrency,
    )
    if options.endpoint is not None and options.thinking_budget is not None:
        raise UserError("evaluate: --thinking-budget goes with a local model; a server draws a response in one piece")
    if options.shots is not None and options.template is not None:
        raise UserError("evaluate: --shots writes the prompt itself, for base models; leave --template out")
    if options.endpoint is None and options.concurrency is not None:
        raise UserError("evaluate: --concurrency goes with --endpoint")
    if options.endpoint is not None and options.engine is not None:
        raise UserError("evaluate: --engine goes with a local model; with --endpoint the server samples")
    model = served_model(options.endpoint, options.model) if options.endpoint else resolve(options.model)
    out = options.out or evaluation.default_out(model.name)
    request = evaluation.Request(model, tuple(options.benchmark), how, samples=out, scores=out)
    for record in evaluation.evaluate(request, options.log).values():
        path = record["samples"]["path"]
        say(summary(record))
        say(f"  samples: {path}  (read them: dynclip samples {shlex.quote(path)} --wrong)")


def samples(options: Namespace) -> None:
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
    files = find(options.selection, options.benchmark, options.results)
    chosen = Filter(statuses, options.problem, options.limit)
    show(text for file in files for text in blocks(file, chosen))
