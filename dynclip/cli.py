"""The command line for scripts and rules; users' main interface is snakemake.

dynclip plan | doctor | data | warmup | train | launch | evaluate | samples | tables | figures | report | study |
claims | track | follow | reference
"""

import argparse
import sys
from pathlib import Path

from dynclip.errors import UserError
from dynclip.recovery import REQUEUE, Preempted


def main(arguments: list[str] | None = None) -> int:
    """Run one command. A UserError becomes one line on standard error and exit status 2; Ctrl-C exits with 130."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        return 2
    except Preempted as error:
        print(f"dynclip: {error}", file=sys.stderr)
        return REQUEUE
    except KeyboardInterrupt:
        print("dynclip: interrupted; the same command goes on from what is on disk", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dynclip", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="command")

    def command(name, run, text, study=True):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if study:
            sub.add_argument("--scale", default="laptop", help="default: laptop")
            sub.add_argument("--methods", help="comma-separated; default: the scale's")
            sub.add_argument("--seeds", help="comma-separated; default: the scale's")
            sub.add_argument("--steps", help="rollout steps of a training; default: the scale's")
            sub.add_argument("--updates", help="updates per rollout batch; default: the scale's")
            sub.add_argument("--set", action="append", metavar="NAME=VALUE", help="a setting of the scale; repeatable")
            sub.add_argument("--force", nargs="?", const="1", help="allow a comparison with one update per rollout")
            sub.add_argument("--results", type=Path, default=Path("results"), help="default: results")
            sub.add_argument("--log", type=Path, help="also write every progress line to this file")
        return sub

    plan = command("plan", run_plan, "What would run here: scale and why, runs, time, memory, disk. Starts nothing.")
    plan.add_argument("--studies", help="comma-separated names of studies, or all; default: the scale's methods")
    command("doctor", run_doctor, "What is installed and why, hardware, disk, hub.", study=False)
    command("data", run_data, "Generate and check the scale's training and held-out problems.")
    command("warmup", run_warmup, "Make the scale's base policy.")
    train = command("train", run_train, "Train one method with one seed.")
    train.add_argument("--method", required=True)
    train.add_argument("--seed", type=int, required=True)
    train.add_argument("--out", type=Path, help="default: results/<scale>/runs/<method>/seed<k>")
    launch = command("launch", run_launch, "Write what trains the study's runs in verl: launch scripts and data files.")
    launch.add_argument("--nodes", type=int, help="machines of one training; default: the scale's")
    evaluate = command("evaluate", run_evaluate, "Score a model, or one checkpoint of a run, on benchmarks.")
    evaluate.add_argument("--benchmark", action="append", help="repeatable; default with --method: all of the scale")
    evaluate.add_argument("--seed", type=int, help="with --method: the run's, default 0; with --model: the sampling's")
    run = evaluate.add_argument_group("a checkpoint of a study")
    run.add_argument("--method", help="a method, or 'base'")
    run.add_argument("--checkpoint", help="'final' or step<N>; default: final")
    model = evaluate.add_argument_group("any causal language model")
    model.add_argument("--model", help="a folder in Hugging Face format or a hub id, owner/name or owner/name@revision")
    model.add_argument("--k", type=int, help="samples of each problem; default: the benchmark's")
    model.add_argument("--limit", type=int, help="only the first so many problems")
    model.add_argument("--engine", help="auto, vllm or transformers; default: auto")
    model.add_argument("--template", help="auto, plain, chat, qwen-math or dapo; default: auto")
    model.add_argument("--temperature", type=float, help="0: always the likeliest token; default: the benchmark's")
    model.add_argument("--top-p", type=float, help="default: the benchmark's")
    model.add_argument("--top-k", type=int, help="0: no limit; default: the benchmark's")
    model.add_argument("--max-tokens", type=int, help="new tokens of a response; default: the benchmark's")
    model.add_argument("--out", type=Path, help="default: results/evaluations/<model>")
    samples = command("samples", run_samples, "Read samples: problem, gold, response, verdict.", study=False)
    samples.add_argument("selection", help="a file or folder of samples, a model's name, or scale/method/seed<k>/final")
    samples.add_argument("--benchmark", action="append", help="repeatable; default: all that are there")
    samples.add_argument("--wrong", action="store_true", help="only samples that are not correct")
    samples.add_argument("--correct", action="store_true", help="only correct ones")
    samples.add_argument("--status", action="append", help="only this verdict (repeatable), for example truncated")
    samples.add_argument("--problem", help="only this problem's id")
    samples.add_argument("--limit", type=int, help="at most so many of each benchmark")
    samples.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    tracked = command("track", run_track, "Import finished runs into results/mlflow.db; repeating it changes nothing.")
    tracked.add_argument("--study", help="the runs and the page of this study instead of the scale's methods")
    follow = command("follow", run_follow, "Show a live run, line by line; --mlflow sends it to MLflow too.")
    follow.add_argument("--method", required=True)
    follow.add_argument("--seed", type=int, required=True)
    follow.add_argument("--mlflow", action="store_true")
    command("tables", run_tables, "Write the tables of a study.")
    command("figures", run_figures, "Draw the figures of a study.")
    command("report", run_report, "Write results/<scale>/report.html.")
    one = command("study", run_one_study, "Write the page of one study: results/<scale>/studies/<name>/.")
    one.add_argument("--name", required=True, help="for example thresholds")
    command("claims", run_claims, "Decide the paper's claims from the runs there are: results/<scale>/claims.md.")
    reference = command("reference", run_reference, "Copy a finished study's small files, with cost and provenance.")
    reference.add_argument("--out", type=Path, required=True, help="for example results/reference/laptop-2core")
    runbook = command("runbook", run_runbook, "Run all evidence of a scale in one call, as many seeds as time allows.")
    runbook.add_argument("--hours", type=float, default=4.0, help="default: 4; the first seed runs whatever it takes")
    runbook.add_argument("--rounds", type=int, default=3, help="of the comparison with stock TRL; default: 3")
    runbook.add_argument("--rollouts", type=int, default=5, help="rollout steps of each of its rounds; default: 5")
    runbook.add_argument("--out", type=Path, required=True, help="for example results/reference/workstation-h200")
    return top


def study_of(options):
    """The checked study of a command's options."""
    from dynclip.scales import resolve

    settings = {}
    for item in options.set or ():
        name, given, value = item.partition("=")
        if not given:
            raise UserError(f"--set {item}: expected NAME=VALUE, for example --set dual_clip=10")
        settings[name.strip()] = value.strip()
    basic = (options.scale, options.methods, options.seeds, options.steps, options.updates, options.force)
    return resolve(*basic, **settings)


def run_plan(options) -> int:
    from dynclip.plan import print_plan
    from dynclip.studies import STUDIES

    names = (options.studies or "").split(",") if options.studies != "all" else list(STUDIES)
    print_plan(study_of(options), options.results, [name.strip() for name in names if name.strip()])
    return 0


def run_doctor(options) -> int:
    from dynclip.doctor import print_doctor

    return print_doctor()


def run_data(options) -> int:
    from evals.benchmarks import write_data

    study = study_of(options)
    write_data(options.results / study.name / "data", study.name, study.scale.train_set, study.scale.benchmarks)
    return 0


def run_warmup(options) -> int:
    from dynclip.base import make_base
    from dynclip.gpus import use
    from dynclip.policies import warm_start
    from dynclip.progress import Progress
    from dynclip.scales import HubPolicy
    from evals.benchmarks import read_problems

    study = study_of(options)
    folder = options.results / study.name
    of_the_hub = isinstance(study.scale.policy, HubPolicy)
    make = make_base if of_the_hub else warm_start
    say = Progress("base policy", 0, options.log).say
    with use(min(1, study.scale.execution.gpus) if of_the_hub and study.scale.policy.supervised else 0):
        make(study.scale, read_problems(folder / "data" / "train.jsonl"), folder / "base", say)
    return 0


def run_train(options) -> int:
    from dynclip.training import train

    options.methods, options.seeds = options.methods or options.method, options.seeds or str(options.seed)
    study = study_of(options)
    folder = options.results / study.name
    out = options.out or folder / "runs" / options.method / f"seed{options.seed}"
    train(study, options.method, options.seed, folder / "base", folder / "data" / "train.jsonl", out, options.log)
    return 0


def run_launch(options) -> int:
    from dynclip.verl_launch import write_launch

    if options.nodes is not None and options.nodes < 1:
        raise UserError(f"launch: --nodes {options.nodes}: expected at least 1")
    study = study_of(options)
    for script in write_launch(study, options.results / study.name, options.nodes or study.scale.execution.nodes):
        print(script)
    return 0


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
    from dynclip.gpus import use
    from dynclip.progress import Progress
    from evals.benchmarks import BENCHMARKS
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
    from evals.browse import STATUSES, Filter, blocks, find, show

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


def run_track(options) -> int:
    from dynclip.studies import study_spec
    from dynclip.tracking import track, track_study

    study = study_of(options)
    if options.study:
        spec = study_spec(options.study)
        track_study(options.results, study.name, spec.name, study.seeds[: spec.seeds])
    else:
        track(options.results, study.name, study.methods, study.seeds)
    return 0


def run_follow(options) -> int:
    from dynclip.tracking import follow

    study = study_of(options)
    run = options.results / study.name / "runs" / options.method / f"seed{options.seed}"
    follow(run, total=study.steps, mlflow=options.mlflow)
    return 0


def run_tables(options) -> int:
    from dynclip.tables import write_tables

    study = study_of(options)
    write_tables(options.results / study.name, study.methods, study.seeds)
    return 0


def run_figures(options) -> int:
    from dynclip.figures import write_figures

    study = study_of(options)
    write_figures(options.results / study.name, study.methods, study.seeds)
    return 0


def run_report(options) -> int:
    from dynclip.report import write_report

    study = study_of(options)
    write_report(options.results / study.name, study.methods, study.seeds)
    return 0


def run_one_study(options) -> int:
    from dynclip.studies import study_spec
    from dynclip.study_page import write_study

    study, spec = study_of(options), study_spec(options.name)
    write_study(options.results / study.name, spec.name, study.seeds[: spec.seeds])
    return 0


def run_claims(options) -> int:
    from dynclip.claims_page import write_claims

    study = study_of(options)
    write_claims(options.results / study.name, study.seeds)
    return 0


def run_reference(options) -> int:
    from dynclip.reference import write_reference

    study = study_of(options)
    write_reference(options.results / study.name, options.out, study.methods, study.seeds)
    return 0


def run_runbook(options) -> int:
    from dynclip.runbook import run_all

    run_all(study_of(options), options.hours, options.out, options.rounds, options.rollouts)
    return 0
