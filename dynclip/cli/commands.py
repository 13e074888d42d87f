"""The command line: for scripts, for the rules of the workflow, and for one-off work. A study runs with snakemake."""

import argparse
import locale
import math
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

from dynclip.runtime import fast_imports
from dynclip.runtime.errors import UserError, file_problem, one_line, remember_call
from dynclip.runtime.files import naming
from dynclip.training.processes.recovery import REQUEUE, Preempted

PROGRESS = ("warmup", "train", "evaluate")  # these write their progress lines to --log, and the terminal shows them too
PLANNING = ("plan", "reproduce")  # these use torch at most to ask for the memory of a GPU
LAST = 12  # lines of a log that are shown when its command fails


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    A UserError, and what files, rights or a full disk cause, is one line on standard error and status 2. Ctrl-C is
    status 130, output that nobody reads any more 141, and a training that has to be started again has the status of its
    `Preempted`.
    """
    if arguments is None:
        use_utf8()
    return caught(start, arguments)


def use_utf8() -> None:
    """Start the program again in Python's UTF-8 mode where the locale has another encoding.

    The files of this project and of the hub are UTF-8; the libraries and the processes that they start read them too.
    """
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})


def start(arguments: list[str] | None) -> int:
    with naming(Path(".")):
        os.getcwd()  # which another program may have removed
    options = parser().parse_args(arguments)
    log = getattr(options, "log", None)
    return run(options) if log is None or options.command in PROGRESS else run_into(log, options)


def run(options: argparse.Namespace) -> int:
    """Run the command of the parsed arguments."""
    remember_call(config_of_call(vars(options)), getattr(options, "results", None))
    # Imported only now: `--help` and a usage error need none of torch, transformers and MLflow.
    module, name = options.run.split(":")
    with fast_imports.torch_later() if options.command in PLANNING else nullcontext():
        function = getattr(import_module(module), name)
    status = function(options) or 0
    print(end="", flush=True)
    return status


def config_of_call(options: dict) -> dict:
    """What a command's options say beside the scale, as keys and values of Snakemake's `--config`."""
    names = ("methods", "seeds", "steps", "updates", "options", "force") if "scale" in options else ()
    config = {name: options[name] for name in names if options.get(name) is not None}
    if options.get("seed") is not None and options.get("method"):
        config["seeds"] = options["seed"]
    return config | dict(item.split("=", 1) for item in options.get("set") or () if "=" in item)


def caught(call: Callable, *given) -> int:
    """The exit status of `call(*given)`, whose errors are printed. Raises what only a mistake in the code can cause."""
    try:
        return call(*given)
    except (UserError, Preempted) as error:
        say(error)
        return REQUEUE if isinstance(error, Preempted) else 2
    except KeyboardInterrupt:
        say("interrupted; the same command continues from what is on disk")
        return 130
    except BrokenPipeError:
        drop_output()
        return 141
    except OSError as error:
        problem = file_problem(error)
        if not problem:
            raise
        say(problem)
        drop_output()
        return 2


def say(message: object) -> None:
    print(f"dynclip: {one_line(message)}", file=sys.stderr)


def drop_output() -> None:
    """Write what is still buffered for standard output to nowhere: Python reports a failure again at exit."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def run_into(log: Path, options: argparse.Namespace) -> int:
    """Run the command with its output in the file `log`. If it fails, name the file and show its end.

    Snakemake that is quiet about rules does not say which one failed; this is in its words.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    try:
        with log.open("w") as out:
            sys.stdout.flush()
            for stream in (1, 2):
                os.dup2(out.fileno(), stream)
            try:
                status = caught(run, options)
            except Exception:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
    finally:
        for stream, former in zip((1, 2), kept, strict=True):
            os.dup2(former, stream)
            os.close(former)
    if status:
        end = log.read_text(errors="replace").splitlines()[-LAST:]
        print(f"Error in rule {options.command}:", f"    log: {log}", *end, sep="\n", file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    """Reports wrong usage as a UserError, in one line."""

    def error(self, message: str):
        name = self.prog.partition(" ")[2]
        raise UserError(f"{f'{name}: ' if name else ''}{message.removeprefix('argument ')}; see {self.prog} --help")


def number(kind: type, least: float, most: float = math.inf, above: float = -math.inf) -> Callable[[str], float]:
    """An argparse type: a number from `least` to `most` and above `above`."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if least <= value <= most and value > above:
            return value
        limits = f"more than {above}" if above >= least else f"at least {least}"
        limits += f" and at most {most}" if most < math.inf else ""
        name = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"expected {name}, {limits}, given {text!r}")

    return parse


def option(*names: str, **settings) -> tuple[tuple[str, ...], dict]:
    """The arguments of one `add_argument`."""
    return names, settings


def command(run: str, text: str, *options) -> tuple[str, str, tuple]:
    """A command: its function below `dynclip.cli`, its help, its options. A string is a title for those after it."""
    return run, text, options


COUNT, WHOLE = number(int, 1), number(int, 0)
RESULTS = option("--results", type=Path, default=Path("results"), help="default: results")
STUDY = (
    option("--scale", default="laptop", help="default: laptop, the suite of paths, facts and worded"),
    option("--methods", help="comma-separated; default: the scale's"),
    option("--seeds", help="comma-separated; default: the scale's"),
    option("--steps", help="rollout steps of a training; default: the scale's"),
    option("--updates", help="updates per rollout batch; default: the scale's"),
    option("--options", help="options of methods, such as id:switch=0.35,od:eps=0.1"),
    option("--set", action="append", metavar="NAME=VALUE", help="a setting of the scale; repeatable"),
    option("--force", nargs="?", const="1", help="allow a comparison with one update per rollout"),
    RESULTS,
    option("--log", type=Path, help="write the output, or the progress lines of a long command, to this file"),
)
OPTION = option("--option", action="append", metavar="NAME=VALUE", help="an option of the method; repeatable")
RUN = (
    *STUDY,
    option("--method", required=True, help="a method or an arm of a study, such as id or id@switch=0.35"),
    OPTION,
)
COMMANDS = {
    "plan": command(
        "study:plan",
        "What would run here: scale and why, runs, time, memory, disk. Starts nothing.",
        *STUDY,
        option("--studies", help="comma-separated names of studies, or all; default: the scale's methods"),
    ),
    "reproduce": command(
        "reproduce:reproduce",
        "Run snakemake with one live block in the terminal; its own output goes to results/logs/snakemake.log.",
        option(
            "words", nargs="*", metavar="NAME=VALUE", help="settings as after --config, and targets of the workflow"
        ),
        option("--cores", default="all", help="default: all"),
    ),
    "doctor": command("study:doctor", "What is installed and why, hardware, disk, hub."),
    "data": command("study:data", "Generate and check the scale's training and held-out problems.", *STUDY),
    "warmup": command("training:warmup", "Make the scale's base policies, one of each seed or one for all.", *STUDY),
    "train": command(
        "training:train",
        "Train one method: all --seeds side by side in a synthetic world, one --seed otherwise.",
        *RUN,
        option("--seed", type=WHOLE, help="one seed"),
        option("--out", type=Path, help="default: results/<scale>/runs/<method>/seed<k>"),
    ),
    "launch": command(
        "study:launch",
        "Write the launch scripts and data files that train the study's runs in verl.",
        *STUDY,
        option("--nodes", type=COUNT, help="machines of one training; default: the scale's"),
    ),
    "evaluate": command(
        "evaluate:evaluate",
        "Score a model, or one checkpoint of a run, on benchmarks.",
        *STUDY,
        option("--benchmark", action="append", help="repeatable; default with --method: all of the scale"),
        option("--seed", type=WHOLE, help="with --method: the run's; with --model: the sampling's"),
        "a checkpoint of a study",
        option("--method", help="a method, or 'base'"),
        OPTION,
        option("--checkpoint", help="'final' or step<N>; default: final, in a synthetic world all"),
        "any causal language model",
        option("--model", help="a folder in Hugging Face format or a hub id, owner/name or owner/name@revision"),
        option("--endpoint", help="the address of a server, such as http://127.0.0.1:8000/v1, that serves --model"),
        option("--concurrency", type=COUNT, help="requests to --endpoint at the same time; default: 16"),
        option("--k", type=COUNT, help="samples of each problem; default: the benchmark's"),
        option("--limit", type=COUNT, help="so many problems, drawn with the benchmark's shares of every difficulty"),
        option(
            "--until", type=number(float, 0, above=0), help="draw problems until the standard error is so many points"
        ),
        option("--engine", help="auto, vllm or transformers; default: auto"),
        option("--template", help="auto, plain, chat, qwen-math or dapo; default: auto"),
        option(
            "--shots", type=number(int, 1, most=8), help="worked examples before each problem, instead of --template"
        ),
        option("--temperature", type=number(float, 0), help="0: the likeliest token; default: the benchmark's"),
        option("--top-p", type=number(float, 0, most=1, above=0), help="default: the benchmark's"),
        option("--top-k", type=WHOLE, help="0: no limit; default: the benchmark's"),
        option("--max-tokens", type=COUNT, help="new tokens of a response; default: the benchmark's"),
        option("--stop-repetition", action="store_true", default=None, help="end a response that repeats itself"),
        option("--thinking-budget", type=COUNT, help="close thinking after so many tokens; default: no limit"),
        option("--out", type=Path, help="default: results/evaluations/<model>"),
    ),
    "samples": command(
        "evaluate:samples",
        "Read samples: problem, gold answer, response, verdict.",
        option("selection", help="a file or folder of samples, a model's name, or scale/method/seed<k>/final"),
        option("--benchmark", action="append", help="repeatable; default: all that are there"),
        option("--wrong", action="store_true", help="only samples that are not correct"),
        option("--correct", action="store_true", help="only correct ones"),
        option("--status", action="append", help="only this verdict (repeatable), for example truncated"),
        option("--problem", help="only this problem's id"),
        option("--limit", type=COUNT, help="at most so many of each benchmark"),
        RESULTS,
    ),
    "track": command(
        "report:track",
        "Import finished runs into results/mlflow.db; repeating it changes nothing.",
        *STUDY,
        option("--study", help="the runs and the page of this study instead of the scale's methods"),
    ),
    "ui": command(
        "report:ui",
        "Open MLflow's interface on the imported runs, on this machine alone, and print where the charts are.",
        RESULTS,
        option("--port", type=number(int, 1, most=65535), default=5000, help="default: 5000"),
        option("--open", action="store_true", help="open the charts in a browser"),
    ),
    "follow": command(
        "report:follow",
        "Show a live run, line by line; --mlflow sends it to MLflow too.",
        *RUN,
        option("--seed", type=WHOLE, required=True),
        option("--mlflow", action="store_true"),
    ),
    "tables": command("report:tables", "Write the tables of a study.", *STUDY),
    "figures": command("report:figures", "Draw the figures of a study.", *STUDY),
    "report": command("report:report", "Write results/<scale>/report.html.", *STUDY),
    "front": command("report:front", "Write the front page of a suite of scales: results/<suite>/report.html.", *STUDY),
    "study": command(
        "report:page",
        "Write the page of one study: results/<scale>/studies/<name>/.",
        *STUDY,
        option("--name", required=True, help="for example thresholds"),
    ),
    "claims": command("report:claims", "Decide the paper's claims from the runs: results/<scale>/claims.md.", *STUDY),
    "reference": command(
        "report:reference",
        "Copy a finished study's small files, with cost and provenance.",
        *STUDY,
        option("--out", type=Path, required=True, help="for example results/reference/laptop-2core"),
    ),
    "compare": command(
        "report:compare",
        "Show runs side by side: curves, levels, paired differences with intervals.",
        option("runs", nargs="+", metavar="RUN", help="METHOD, METHOD/seed<k>, a run's folder, or an id of MLflow"),
        option("--scale", default="paths", help="of runs that are given by method; default: paths"),
        RESULTS,
    ),
    "diagnose": command(
        "report:diagnose",
        "Say what clipping does in a training log of TRL, verl, a CSV or a W&B export, or of dynclip.",
        option("path", type=Path, nargs="+", help="a log file, or the folder of a run"),
    ),
    "verify": command(
        "report:verify",
        "Derive every number of a results folder again, from samples and metrics; exit 1 and name what differs.",
        option("folder", type=Path, nargs="+", help="results/<scale>, or a folder that `dynclip reference` wrote"),
    ),
    "runbook": command(
        "report:runbook",
        "Run all evidence of a scale in one call, with as many seeds as time allows.",
        *STUDY,
        option("--hours", type=float, default=4.0, help="default: 4; the first seed runs whatever it takes"),
        option("--rounds", type=COUNT, default=3, help="of the comparison with stock TRL; default: 3"),
        option("--rollouts", type=COUNT, default=5, help="rollout steps of each of its rounds; default: 5"),
        option("--out", type=Path, required=True, help="for example results/reference/workstation-h200"),
    ),
}


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="dynclip", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command")
    for name, (function, text, options) in COMMANDS.items():
        place = sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=f"dynclip.cli.{function}", command=name)
        for item in options:
            if isinstance(item, str):
                place = sub.add_argument_group(item)
            else:
                place.add_argument(*item[0], **item[1])
    return top
