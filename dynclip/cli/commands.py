"""The command line for scripts and rules; users' main interface is snakemake.

dynclip plan | doctor | data | warmup | train | launch | evaluate | samples | tables | figures | report | study |
claims | track | follow | reference
"""

import argparse
import sys
from pathlib import Path

from dynclip.cli.evaluate import run_evaluate, run_samples
from dynclip.cli.options import study_of
from dynclip.cli.runbook import run_all
from dynclip.runtime.errors import UserError
from dynclip.runtime.gpu_locks import use
from dynclip.runtime.progress import Progress
from dynclip.studies.scales import HubPolicy
from dynclip.training.hub_policy import make_base
from dynclip.training.processes.recovery import REQUEUE, Preempted
from dynclip.training.tiny_policy import warm_start
from evals.benchmarks.registry import read_problems, write_data


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


def run_plan(options) -> int:
    from dynclip.plan.describe import print_plan
    from dynclip.studies.arms import STUDIES

    names = (options.studies or "").split(",") if options.studies != "all" else list(STUDIES)
    print_plan(study_of(options), options.results, [name.strip() for name in names if name.strip()])
    return 0


def run_doctor(options) -> int:
    from dynclip.plan.doctor import print_doctor

    return print_doctor()


def run_data(options) -> int:
    study = study_of(options)
    write_data(options.results / study.name / "data", study.name, study.scale.train_set, study.scale.benchmarks)
    return 0


def run_warmup(options) -> int:
    study = study_of(options)
    folder = options.results / study.name
    of_the_hub = isinstance(study.scale.policy, HubPolicy)
    make = make_base if of_the_hub else warm_start
    say = Progress("base policy", 0, options.log).say
    with use(min(1, study.scale.execution.gpus) if of_the_hub and study.scale.policy.supervised else 0):
        make(study.scale, read_problems(folder / "data" / "train.jsonl"), folder / "base", say)
    return 0


def run_train(options) -> int:
    from dynclip.training.lifecycle import train

    options.methods, options.seeds = options.methods or options.method, options.seeds or str(options.seed)
    study = study_of(options)
    folder = options.results / study.name
    out = options.out or folder / "runs" / options.method / f"seed{options.seed}"
    train(study, options.method, options.seed, folder / "base", folder / "data" / "train.jsonl", out, options.log)
    return 0


def run_launch(options) -> int:
    from dynclip.training.verl_scripts.settings import write_launch

    if options.nodes is not None and options.nodes < 1:
        raise UserError(f"launch: --nodes {options.nodes}: expected at least 1")
    study = study_of(options)
    for script in write_launch(study, options.results / study.name, options.nodes or study.scale.execution.nodes):
        print(script)
    return 0


def run_track(options) -> int:
    from dynclip.report.mlflow_import import track, track_study
    from dynclip.studies.arms import study_spec

    study = study_of(options)
    if options.study:
        spec = study_spec(options.study)
        track_study(options.results, study.name, spec.name, study.seeds[: spec.seeds])
    else:
        track(options.results, study.name, study.methods, study.seeds)
    return 0


def run_follow(options) -> int:
    from dynclip.cli.follow import follow

    study = study_of(options)
    run = options.results / study.name / "runs" / options.method / f"seed{options.seed}"
    follow(run, total=study.steps, mlflow=options.mlflow)
    return 0


def run_tables(options) -> int:
    from dynclip.report.tables import write_tables

    study = study_of(options)
    write_tables(options.results / study.name, study.methods, study.seeds)
    return 0


def run_figures(options) -> int:
    from dynclip.report.figures import write_figures

    study = study_of(options)
    write_figures(options.results / study.name, study.methods, study.seeds)
    return 0


def run_report(options) -> int:
    from dynclip.report.html import write_report

    study = study_of(options)
    write_report(options.results / study.name, study.methods, study.seeds)
    return 0


def run_one_study(options) -> int:
    from dynclip.report.study_page import write_study
    from dynclip.studies.arms import study_spec

    study, spec = study_of(options), study_spec(options.name)
    write_study(options.results / study.name, spec.name, study.seeds[: spec.seeds])
    return 0


def run_claims(options) -> int:
    from dynclip.report.claims.page import write_claims

    study = study_of(options)
    write_claims(options.results / study.name, study.seeds)
    return 0


def run_reference(options) -> int:
    from dynclip.report.reference import write_reference

    study = study_of(options)
    write_reference(options.results / study.name, options.out, study.methods, study.seeds)
    return 0


def run_runbook(options) -> int:
    run_all(study_of(options), options.hours, options.out, options.rounds, options.rollouts)
    return 0
