"""The commands that plan a study and make its runs. Each takes the parsed options of `dynclip.cli.commands`."""

from argparse import Namespace

from dynclip.cli.options import run_of, study_of
from dynclip.plan.describe import print_plan
from dynclip.plan.doctor import print_doctor
from dynclip.runtime.gpu_locks import use
from dynclip.runtime.progress import Progress
from dynclip.studies.arms import STUDIES
from dynclip.studies.scales import HubPolicy
from dynclip.training import lifecycle
from dynclip.training.hub_policy import make_base
from dynclip.training.tiny_policy import warm_start
from dynclip.training.verl_scripts.settings import write_launch
from evals.benchmarks.registry import read_problems, write_data


def plan(options: Namespace) -> None:
    names = STUDIES if options.studies == "all" else (options.studies or "").split(",")
    print_plan(study_of(options), options.results, [name.strip() for name in names if name.strip()])


def doctor(options: Namespace) -> int:
    return print_doctor()


def data(options: Namespace) -> None:
    study = study_of(options)
    write_data(options.results / study.name / "data", study.name, study.scale.train_set, study.scale.benchmarks)


def warmup(options: Namespace) -> None:
    study = study_of(options)
    folder = options.results / study.name
    hub = isinstance(study.scale.policy, HubPolicy)
    say = Progress("base policy", 0, options.log).say
    with use(min(1, study.scale.execution.gpus) if hub and study.scale.policy.supervised else 0):
        make = make_base if hub else warm_start
        make(study.scale, read_problems(folder / "data" / "train.jsonl"), folder / "base", say)


def train(options: Namespace) -> None:
    name = run_of(options)
    options.methods, options.seeds = options.methods or name, options.seeds or str(options.seed)
    study = study_of(options)
    folder = options.results / study.name
    out = options.out or folder / "runs" / name / f"seed{options.seed}"
    lifecycle.train(study, name, options.seed, folder / "base", folder / "data" / "train.jsonl", out, options.log)


def launch(options: Namespace) -> None:
    study = study_of(options)
    nodes = options.nodes or study.scale.execution.nodes
    print(*write_launch(study, options.results / study.name, nodes), sep="\n")
