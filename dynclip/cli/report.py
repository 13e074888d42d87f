"""The commands that read finished runs: tables, figures, pages, claims, MLflow.

They have a module of their own because scipy, which they import, makes every training start later.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from dynclip.cli import follow as live
from dynclip.cli.options import config_of, configs_of, run_of
from dynclip.cli.runbook import run_all
from dynclip.report.claims.page import write_claims
from dynclip.report.figures import write_figures
from dynclip.report.html import write_front, write_report
from dynclip.report.reference import write_reference
from dynclip.report.study_page import write_study
from dynclip.report.tables import write_tables
from dynclip.report.terminal.compare import compare as compare_runs
from dynclip.report.terminal.diagnose import diagnose as diagnose_log
from dynclip.report.terminal.verify import verify as verify_folder
from dynclip.report.tracking import track as import_runs
from dynclip.report.tracking import track_study
from dynclip.report.tracking.ui import serve
from dynclip.runtime.errors import UserError
from dynclip.studies.arms import find_study
from dynclip.studies.scales import SUITES


def track(options: Namespace) -> None:
    config = config_of(options)
    if options.study:
        spec = find_study(options.study)
        track_study(options.results, config.name, spec.name, config.seeds[: spec.seeds])
    else:
        import_runs(options.results, config.name, config.methods, config.seeds)


def ui(options: Namespace) -> None:
    serve(options.results, options.port, options.open)


def follow(options: Namespace) -> None:
    config = config_of(options)
    run = options.results / config.name / "runs" / run_of(options) / f"seed{options.seed}"
    live.follow(run, total=config.steps, mlflow=options.mlflow)


def writes(write: Callable[[Path, Sequence[str], Sequence[int]], object]) -> Callable[[Namespace], None]:
    """The command that calls `write(results/<scale>, methods, seeds)`."""

    def run(options: Namespace) -> None:
        config = config_of(options)
        write(options.results / config.name, config.methods, config.seeds)

    return run


tables, figures, report = writes(write_tables), writes(write_figures), writes(write_report)


def front(options: Namespace) -> None:
    if options.scale not in SUITES:
        raise UserError(f"front: --scale {options.scale} is no suite of scales; the suites are: {', '.join(SUITES)}")
    configs = configs_of(options)
    methods = {name: config.methods for name, config in configs.items()}
    seeds = {name: config.seeds for name, config in configs.items()}
    write_front(options.results, options.scale, list(configs), methods, seeds)


def page(options: Namespace) -> None:
    config, spec = config_of(options), find_study(options.name)
    write_study(options.results / config.name, spec.name, config.seeds[: spec.seeds])


def claims(options: Namespace) -> None:
    config = config_of(options)
    write_claims(options.results / config.name, config.seeds)


def reference(options: Namespace) -> None:
    configs = configs_of(options)
    for name, config in configs.items():  # a suite's scales have a folder each
        out = options.out / name if len(configs) > 1 else options.out
        write_reference(options.results / name, out, config.methods, config.seeds)


def compare(options: Namespace) -> None:
    compare_runs(options.runs, options.results, options.scale)


def diagnose(options: Namespace) -> None:
    for path in options.path:
        diagnose_log(path)


def verify(options: Namespace) -> int:
    found = [verify_folder(folder) for folder in options.folder]
    return int(any(checked.problems for checked in found))


def runbook(options: Namespace) -> None:
    run_all(config_of(options), options.hours, options.out, options.rounds, options.rollouts)
