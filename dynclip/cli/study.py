"""The commands that plan a study and make its runs. Each takes the parsed options of `dynclip.cli.commands`."""

from argparse import Namespace

from dynclip.cli.options import config_of, run_of
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
    print_plan(config_of(options), options.results, [name.strip() for name in names if name.strip()])


def doctor(options: Namespace) -> int:
    return print_doctor()


def data(options: Namespace) -> None:
    config = config_of(options)
    write_data(options.results / config.name / "data", config.name, config.scale.train_set, config.scale.benchmarks)


def warmup(options: Namespace) -> None:
    config = config_of(options)
    folder = options.results / config.name
    hub = isinstance(config.scale.policy, HubPolicy)
    log = Progress("base policy", 0, options.log).log
    with use(min(1, config.scale.execution.gpus) if hub and config.scale.policy.supervised else 0):
        make = make_base if hub else warm_start
        make(config.scale, read_problems(folder / "data" / "train.jsonl"), folder / "base", log)


def train(options: Namespace) -> None:
    name = run_of(options)
    options.methods, options.seeds = options.methods or name, options.seeds or str(options.seed)
    config = config_of(options)
    folder = options.results / config.name
    out = options.out or folder / "runs" / name / f"seed{options.seed}"
    lifecycle.train(config, name, options.seed, folder / "base", folder / "data" / "train.jsonl", out, options.log)


def launch(options: Namespace) -> None:
    config = config_of(options)
    nodes = options.nodes or config.scale.execution.nodes
    print(*write_launch(config, options.results / config.name, nodes), sep="\n")
