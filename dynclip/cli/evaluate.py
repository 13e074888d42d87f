"""`dynclip evaluate`: a checkpoint of a study with --method, any causal language model with --model."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from dynclip.cli.options import config_of, run_of
from dynclip.runtime.errors import UserError
from dynclip.runtime.gpu_locks import use
from evals import evaluation
from evals.sampling.models import published, resolve
from evals.sampling.settings import Evaluation

SETTINGS = ("k", "limit", "temperature", "top_p", "top_k", "max_tokens")


def evaluate(options: Namespace) -> None:
    if (options.model is None) == (options.method is None):
        raise UserError("evaluate: give --model (a folder or a hub id) or --method (of a study), one of the two")
    evaluation.check_benchmarks(options.benchmark or ())
    if options.model is None:
        of_checkpoint(options)
    else:
        of_model(options)


def of_checkpoint(options: Namespace) -> None:
    for name in (*SETTINGS, "engine", "template", "out"):
        if getattr(options, name) is not None:
            raise UserError(f"evaluate: --{name.replace('_', '-')} goes with --model; a study's evaluation is fixed")
    config, method = config_of(options), run_of(options)
    checkpoint, seed, folder = options.checkpoint or "final", options.seed or 0, options.results / config.name
    if method == "base":
        model, step = folder / "base", 0
    elif checkpoint in config.checkpoints:
        step = config.checkpoints[checkpoint]
        model = folder / "runs" / method / f"seed{seed}" / "checkpoints" / f"step{step}"
    else:
        raise UserError(f"unknown checkpoint {checkpoint!r}; this study has: {', '.join(config.checkpoints)}")
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
    how = Evaluation(**given, engine=options.engine or "auto", template=options.template or "auto")
    model = resolve(options.model)
    out = options.out or evaluation.default_out(model.name)
    request = evaluation.Request(model, tuple(options.benchmark), how, samples=out, scores=out)
    for record in evaluation.evaluate(request, options.log).values():
        path = record["samples"]["path"]
        print(evaluation.summary(record))
        print(f"  samples: {path}  (read them: dynclip samples {path} --wrong)")
