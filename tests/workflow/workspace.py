"""A copy of the project in a folder of its own, run as a new user would run it."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCALE = "miniature"
RESULTS = f"results/{SCALE}"


@dataclass(frozen=True)
class Workspace:
    """`root` is the copy; its own .venv is used once it is built."""

    root: Path

    def environment(self) -> dict:
        own = os.pathsep.join([str(self.root / ".venv" / "bin"), str(Path(sys.executable).parent)])
        # What a surrounding `make test`, an active environment or an earlier test sets is not a new user's.
        inherited = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "HF_HUB_OFFLINE")
        clean = {name: value for name, value in os.environ.items() if name not in inherited}
        return clean | {"PATH": f"{own}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *words: str, timeout: float = 3600) -> subprocess.CompletedProcess:
        """Run a command in the copy; stdout and stderr together in `.stdout`."""
        return subprocess.run(
            words, cwd=self.root, env=self.environment(), text=True, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def snakemake(self, *words: str, config: tuple[str, ...] = (), timeout: float = 3600):
        """`snakemake --cores all` at miniature scale with more words and config overrides."""
        call = ["snakemake", "--cores", "all", *words, "--config", f"scale={SCALE}", *config]
        return self.run(*call, timeout=timeout)

    def planned(self, *words: str, config: tuple[str, ...] = (), scale: str = SCALE) -> dict[str, int]:
        """Jobs per rule that a dry run announces, without `all`; none where nothing is to be done."""
        done = self.run("snakemake", "--cores", "all", "-n", *words, "--config", f"scale={scale}", *config)
        assert done.returncode == 0, done.stdout[-2000:]
        if "Nothing to be done" in done.stdout:
            return {}
        lines = done.stdout.splitlines()
        start = next(i for i, line in enumerate(lines) if line.split() == ["job", "count"])
        table = itertools.takewhile(str.strip, lines[start + 2 :])
        jobs = {name: int(count) for name, count in map(str.split, table)}
        return {name: count for name, count in jobs.items() if name not in ("all", "total")}

    def kill_when(self, words: tuple[str, ...], ready, number: signal.Signals, timeout: float = 3600) -> int:
        """Start a command in a session of its own and send `number` to all of it once `ready()`; its exit status."""
        with (self.root / "killed.log").open("a") as log:
            process = subprocess.Popen(
                words, cwd=self.root, env=self.environment(), stdout=log, stderr=log, start_new_session=True,
                # A test run started in the background inherits an ignored SIGINT; a terminal's Ctrl-C is not ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
            deadline = time.monotonic() + timeout
            while not ready():
                assert process.poll() is None, (self.root / "killed.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "not ready in time"
                time.sleep(0.02)
            return self.stop(process, number)

    @staticmethod
    def stop(process: subprocess.Popen, number: signal.Signals) -> int:
        """Signal a process and all it started; its exit status, once none of them is left."""
        os.killpg(process.pid, number)
        status = process.wait(timeout=300)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return status
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        return status


def copy_project(target: Path) -> Workspace:
    """The files git would commit, as they are in the working tree."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        check=True,
    )  # fmt: skip
    for name in listing.stdout.splitlines():
        source = ROOT / name
        if source.is_file() and not name.startswith("results/reference/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return Workspace(target)


SLURM_COMMANDS = ("sbatch", "srun", "sacct", "squeue", "scontrol", "sinfo", "scancel", "sacctmgr", "sshare")


def slurm_commands(folder: Path) -> dict[str, str]:
    """Stand-ins for SLURM's commands, under `folder`; the environment that finds them."""
    commands = folder / "bin"
    for place in (commands, folder / "jobs"):
        place.mkdir(parents=True)
    program = (Path(__file__).parent / "slurm_commands.py").read_text().partition("\n")[2]
    for name in SLURM_COMMANDS:
        (commands / name).write_text(f"#!{sys.executable}\n{program}")
        (commands / name).chmod(0o755)
    return {"CLUSTER_TEST": str(folder), "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
