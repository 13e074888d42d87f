"""`dynclip reproduce`: snakemake with one live block in the terminal, its own output in a file, and what was found.

Nothing here decides what runs: `snakemake --cores all` does the same work and can continue it.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dynclip.cli.options import resolve_all
from dynclip.plan.describe import duration, print_plan
from dynclip.report.evidence import load_evidence
from dynclip.report.html.answers import summary
from dynclip.runtime.errors import UserError
from dynclip.runtime.progress import clock

LOG = Path("results/logs/snakemake.log")
EVERY = 30.0  # seconds between two lines where the output is no terminal
LOOK = 0.5  # seconds between two looks at the log
TRUSTED = 0.03  # share of the rollout steps after which the pace says more than the plan
LAST = 12  # lines shown of a failed job's log

PROGRESS = re.compile(r"^\[(?P<name>[^\]]+)\] (?P<done>\d+)/(?P<all>\d+)  (?P<text>.*?)  [\d.]+/s  (?P<left>\S+) left$")
JOBS = re.compile(r"^(\d+) of (\d+) steps \(\d+%\) done$")
RUNS = re.compile(r"^runs\s.*?(\d+) of \d+ trainings left")
STEPS = re.compile(r"^steps\s+(\d+) rollout batches")
FAILED = re.compile(r"^Error in (?:rule|group) (\w+)")
FAILED_LOG = re.compile(r"^\s+log: (\S+?),? ")


@dataclass
class State:
    """What the lines of Snakemake's output have said so far. `work`, `worked`: rollout steps of all trainings."""

    jobs: int = 0
    jobs_done: int = 0
    work: int = 0
    running: dict[str, re.Match] = field(default_factory=dict)
    steps_done: dict[str, int] = field(default_factory=dict)  # of trainings that run
    finished: int = 0  # rollout steps of trainings that have ended
    failures: dict[str, str | None] = field(default_factory=dict)  # rule -> its log file
    last: list[str] = field(default_factory=list)
    _left: int = 0
    _failing: str | None = None

    @property
    def worked(self) -> int:
        return self.finished + sum(self.steps_done.values())

    def read(self, line: str) -> None:
        """Take in the next line."""
        line = line.rstrip("\n")
        if line.strip():
            self.last = [*self.last, line][-LAST:]
        if found := PROGRESS.match(line):
            self._progress(found)
        elif found := JOBS.match(line):
            self.jobs_done, self.jobs = int(found[1]), int(found[2])
        elif found := RUNS.match(line):
            self._left = int(found[1])
        elif found := STEPS.match(line):
            self.work += self._left * int(found[1])
        elif found := FAILED.match(line):
            self._failing = found[1]
            self.failures.setdefault(found[1], None)
        elif self._failing and (found := FAILED_LOG.match(line + " ")):
            self.failures[self._failing], self._failing = found[1], None

    def _progress(self, found: re.Match) -> None:
        name, done = found["name"], int(found["done"])
        if "reward" in found["text"]:  # a training; "grpo 6 seeds" are six
            seeds = re.search(r"(\d+) seeds?$", name)
            self.steps_done[name] = done * (int(seeds[1]) if seeds else 1)
            if done == int(found["all"]):  # the next scale has trainings of the same name
                self.finished += self.steps_done.pop(name)
        self.running.pop(name, None)
        if done < int(found["all"]):
            self.running[name] = found

    def lines(self, seconds: float, planned: float) -> list[str]:
        """The block after `seconds`: jobs, time left, a line for each running job. `planned`: the plan's seconds."""
        share = self.worked / self.work if self.work else 0.0
        if share >= 1:  # how long the rest takes is not known
            left = "trainings are done, evaluations and reports are left"
        elif share > TRUSTED:
            left = f"about {duration(seconds / share * (1 - share))} left"
        elif planned:
            left = f"about {duration(max(0.0, planned - seconds))} left by the plan"
        else:
            left = "time left unknown"
        jobs = f"{self.jobs_done} of {self.jobs} jobs done" if self.jobs else "jobs are being prepared"
        runs = f", {share:.0%} of all rollout steps" if self.work else ""
        head = f"{jobs}{runs}, {clock(seconds)} so far, {left}; log: {LOG}"
        width = max((len(name) for name in self.running), default=0)
        return [head] + [
            f"  {name:{width}}  {found['done']}/{found['all']}  {found['text']}  {found['left']} left"
            for name, found in self.running.items()
        ]


def reproduce(options: Namespace) -> int:
    """Run snakemake for `options.words` (NAME=VALUE settings and targets) and show how it goes; its exit status."""
    settings = [word for word in options.words if "=" in word]
    targets = [word for word in options.words if "=" not in word]
    given = dict(word.split("=", 1) for word in settings)
    engine = given.pop("engine", "trl")
    configs = resolve_all(**given)
    if not Path("Snakefile").is_file():
        raise UserError(f"{Path.cwd()} has no Snakefile; run this in the project's folder")
    plans = print_plan(list(configs.values()), Path("results"), remote=engine == "verl") if not targets else []
    planned = sum(sum(made.seconds.values()) for made in plans)
    command = [sys.executable, "-m", "snakemake", "--cores", options.cores, *targets]
    command += ["--config", *settings] if settings else []
    LOG.parent.mkdir(parents=True, exist_ok=True)
    status, state = follow(command, planned)
    if status:
        print("\n".join(failure(state, options.words)), file=sys.stderr)
        return status
    print("\n".join(found(given.get("scale", "laptop"), configs) if not targets else [f"done; log: {LOG}"]))
    return 0


def follow(command: list[str], planned: float) -> tuple[int, State]:
    """Run `command` with its output in LOG, and show its state until it ends.

    Ctrl-C reaches the command too, which stops its jobs; they leave checkpoints. This waits for it.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, state, began, shown = Console(stderr=True), State(), time.monotonic(), 0.0
    if LOG.exists():  # of an earlier call, or of one that runs and goes on writing to it under this name
        LOG.replace(LOG.with_name("snakemake.previous.log"))
    with LOG.open("w") as out, LOG.open() as log:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # snakemake lets running jobs end
        live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        if live:
            live.start()
        try:
            while True:
                ended = process.poll() is not None  # looked at first, so that its last lines are read below
                for line in whole_lines(log):
                    state.read(line)
                seconds = time.monotonic() - began
                if live:
                    live.update(
                        Text("\n".join(state.lines(seconds, planned)), no_wrap=True, overflow="ellipsis"), refresh=True
                    )
                elif seconds - shown >= EVERY:
                    shown = seconds
                    print(*state.lines(seconds, planned), sep="\n", file=sys.stderr, flush=True)
                if ended:
                    return process.returncode, state
                time.sleep(LOOK)
        except KeyboardInterrupt:
            if live:
                live.stop()
            print("stopping: running jobs write a checkpoint first; the same command continues", file=sys.stderr)
            process.wait()
            raise
        finally:
            if live:
                live.stop()


def whole_lines(log) -> Iterable[str]:
    """The complete new lines of an open file; a line that is still being written is left for the next call."""
    while True:
        place = log.tell()
        line = log.readline()
        if not line.endswith("\n"):
            log.seek(place)
            return
        yield line


def failure(state: State, words: list[str]) -> list[str]:
    """The failed rule, the end of its log, and how to go on."""
    shown = []
    for rule, name in state.failures.items():
        shown.append(f"rule {rule} failed" + (f"; the end of {name}:" if name else ":"))
        if name and Path(name).is_file():
            shown += [f"  {line}" for line in Path(name).read_text(errors="replace").splitlines()[-LAST:]]
    if not shown:
        shown = ["snakemake failed before any job did; its last lines:", *(f"  {line}" for line in state.last)]
    retry = shlex.join(["dynclip", "reproduce", *words])
    return [*shown, f"all of snakemake's output: {LOG}", f"finished jobs are kept; to go on: {retry}"]


def found(name: str, configs: dict) -> list[str]:
    """What a finished study found, in three sentences a scale, where to look and how to open it."""
    lines = []
    for scale, config in configs.items():
        said = summary(load_evidence(Path("results") / scale, config.methods, config.seeds))
        lines += [f"{scale}:", *(f"  {sentence}" for sentence in said)]
    page = Path("results") / name / "report.html"
    return ["", *lines, "", f"report   {page}", "MLflow   dynclip ui", f"log      {LOG}"]
