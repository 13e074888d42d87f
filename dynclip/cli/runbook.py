"""All evidence of a scale in one call, for a machine that is available for a few hours.

    dynclip runbook --scale workstation --hours 4 --out results/reference/workstation-h200

The steps, each resumed where an earlier call stopped: `dynclip doctor`; the study with one seed; DynClipTrainer against
stock TRL on the same work; the study with more seeds while the time suffices; the small files to commit. It needs the
hub or its cache (HF_HOME with HF_HUB_OFFLINE=1).
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_atomic, write_json
from dynclip.runtime.progress import Progress, clock
from dynclip.runtime.provenance import environment
from dynclip.studies.scales import RunConfig

ROOT = Path(__file__).resolve().parents[2]
MARGIN = 1.2  # of the last seed's time, for the next one
REPORT = "runbook.json"
COMPARED = ("TRL", "grpo", "id", "od")


@dataclass(frozen=True)
class Budget:
    """Available seconds, and the time at which they start."""

    seconds: float
    began: float

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)


def run_all(config: RunConfig, hours: float, out: Path, rounds: int = 3, steps: int = 5) -> dict:
    """Run the steps above within about `hours`, write `out` and return the seconds of each step.

    rounds, steps: of the comparison with stock TRL. The first seed runs whatever its duration. Raises UserError with
    the log of a step that fails.
    """
    budget = Budget(3600 * hours, time.monotonic())
    logs = Path("results") / config.name / "logs" / "runbook"
    logs.mkdir(parents=True, exist_ok=True)
    progress = Progress("runbook", 0, logs / "progress.log")
    spent: dict[str, float] = {}

    def step(name: str, command: list[str], allowed: tuple[int, ...] = (0,)) -> None:
        progress.log(f"{name}: {' '.join(command[-4:])}  ({clock(max(0, budget.left))} left)")
        began, log = time.monotonic(), logs / f"{name}.log"
        with log.open("w") as file:
            status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        spent[name] = round(time.monotonic() - began, 1)
        if status not in allowed:
            raise UserError(f"runbook: {name} ended with status {status}; see {log}, then run the same command again")

    dynclip = [sys.executable, "-m", "dynclip.cli"]
    step("doctor", [*dynclip, "doctor"], allowed=(0, 1))  # 1: a version differs from the lock, which is recorded
    done: list[int] = []
    stock = logs / "stock_trl.json"
    for seed in config.seeds:
        last = max((value for name, value in spent.items() if name.startswith("seed")), default=0.0)
        if done and budget.left < MARGIN * last:
            progress.log(f"no time for seed {seed}: the last one took {clock(last)}, {clock(budget.left)} are left")
            break
        step(f"seed{seed}", snakemake(config, [*done, seed]))
        done.append(seed)
        if not stock.exists():
            words = [str(rounds), str(steps), "--scale", config.name, "--arms", ",".join(COMPARED)]
            step("stock_trl", [sys.executable, str(ROOT / "bench" / "trainer_step.py"), *words, "--json", str(stock)])
    numbers = ",".join(map(str, done))
    words = [*config.overrides.split(), "--methods", ",".join(config.methods), "--seeds", numbers, "--out", str(out)]
    step("reference", [*dynclip, "reference", *words])
    record = {"scale": config.name, "seeds": done, "seconds": spent, "environment": environment()}
    write_json(out / REPORT, record)
    for file in (stock, logs / "doctor.log", logs / "stock_trl.log"):
        write_atomic(out / file.name, file.read_bytes())
    progress.log(f"done: seeds {numbers} in {out}; commit that folder")
    return record


def snakemake(config: RunConfig, seeds: list[int]) -> list[str]:
    """The command that runs the study with these seeds; what is finished is not run again."""
    given = [f"{name}={value}" for name, value in config.given.items()]
    listed = [f"methods={','.join(config.methods)}", f"seeds={','.join(map(str, seeds))}"]
    call = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "all"]
    return [*call, "--profile", str(ROOT / "profiles" / "default"), "--config", *given, *listed]
