"""The commands that plan a study and prepare it. Each takes the parsed options of `dynclip.cli.commands`."""

from argparse import Namespace

from dynclip.cli.options import config_of, configs_of
from dynclip.plan.describe import print_plan
from dynclip.plan.doctor import print_doctor
from dynclip.runtime.text import say
from dynclip.studies.arms import STUDIES, trainable
from dynclip.training.verl_scripts.settings import write_launch
from evals.benchmarks.loading import write_data


def plan(options: Namespace) -> None:
    configs = list(configs_of(options).values())
    chosen = [name.strip() for name in (options.studies or "").split(",") if name.strip()]
    if options.studies == "all":
        chosen = [name for name in STUDIES if trainable(configs[0].scale, name)]
    print_plan(configs, options.results, chosen)


def doctor(options: Namespace) -> int:
    return print_doctor()


def data(options: Namespace) -> None:
    config = config_of(options)
    write_data(options.results / config.name / "data", config.name, config.scale.train_set, config.scale.benchmarks)


def launch(options: Namespace) -> None:
    config = config_of(options)
    nodes = options.nodes or config.scale.execution.nodes
    say("\n".join(map(str, write_launch(config, options.results / config.name, nodes))))
