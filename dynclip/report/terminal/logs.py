"""Training logs of other trainers, as one set of names: TRL, verl, a CSV or a W&B export, and the project's own."""

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dynclip.runtime.errors import UserError

# Our name -> those of the logs, the first that is there counts. verl's `entropy_loss` is the entropy; its `pg_clipfrac`
# counts both bounds, its `pg_clipfrac_lower` the dual clip. Shares are of tokens, entropies in nats.
NAMES = {
    "entropy": ("policy/entropy", "entropy", "actor/entropy", "actor/entropy_loss"),
    "reward": ("train/reward", "reward", "critic/rewards/mean", "critic/score/mean"),
    "clip_low": ("clip/low_fraction", "clip_ratio/low_mean"),
    "clip_high": ("clip/high_fraction", "clip_ratio/high_mean"),
    "clip": ("clip_ratio/region_mean", "actor/pg_clipfrac", "clip_ratio"),
    "dual_clip": ("actor/pg_clipfrac_lower",),
    "kl_old": ("policy/kl_old", "actor/ppo_kl"),
    "ratio_max": ("policy/ratio_max",),
    "dead_groups": ("frac_reward_zero_std",),
    "truncated": ("train/truncated", "completions/clipped_ratio", "response_length/clip_ratio"),
    "mismatch": (
        "sampler/logprob_difference_mean", "sampling/sampling_logp_difference/mean", "training/rollout_probs_diff_mean",
    ),
    "grad_norm": ("train/grad_norm", "grad_norm", "actor/grad_norm"),
    "learning_rate": ("train/lr", "learning_rate", "actor/lr"),
}  # fmt: skip
ALL = {name for names in NAMES.values() for name in names}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
VERL_STEP = re.compile(r"\bstep:(\d+) - ")
NUMBER = re.compile(r"^(?:np\.\w+\()?(-?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))\)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Log:
    """kind: whose log it is. series: our name -> its values, in the order of the steps; others are left out."""

    path: Path
    kind: str
    steps: int
    series: dict[str, list[float]]
    names: dict[str, str]  # our name -> that of the log


def read_log(path: Path | str) -> Log:
    """Read a log file, or the file that a run's folder has. Raises UserError if it holds no known metric."""
    path = found = Path(path)
    if path.is_dir():
        states = sorted(path.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name.split("-")[1]))
        files = [path / "metrics.jsonl", path / "state" / "metrics.jsonl", path / "trainer_state.json", *states[-1:]]
        found = next((file for file in files if file.is_file()), path)
    try:
        text = found.read_text(errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); give a log file or a run's folder") from None
    kind, rows = parse(text)
    there = {bare(given): given for row in rows for given in row}
    names = {}
    for ours, known in NAMES.items():
        given = next((there[name] for name in known if name in there), None)
        if given:
            names[ours] = given
    if not names:
        raise UserError(
            f"{found}: no known metric in it; expected TRL's trainer_state.json, verl's console or file log, "
            "metrics.jsonl, or a CSV with columns such as entropy, reward, clip_ratio/high_mean"
        )
    series = {ours: [row[given] for row in rows if given in row] for ours, given in names.items()}
    return Log(path, kind, max(map(len, series.values())), series, names)


def parse(text: str) -> tuple[str, list[dict[str, float]]]:
    """(whose log it is, its rows): a dictionary of numbers for each logged step."""
    first = text.lstrip()[:1]
    if first in ("{", "["):
        try:
            whole = json.loads(text)
        except ValueError:
            whole = None
        if isinstance(whole, dict) and isinstance(whole.get("log_history"), list):
            return "TRL", numbers(whole["log_history"])
        if isinstance(whole, list):
            return "TRL", numbers(whole)
        lines = [line for line in text.splitlines() if line.strip()]
        rows = [row for row in map(json_row, lines) if row]
        # verl's file logger writes {"step": 1, "data": {...}}.
        nested = any(isinstance(row.get("data"), dict) for row in rows)
        return ("verl", numbers(row.get("data") for row in rows)) if nested else ("dynclip", numbers(rows))
    if steps := [line for line in COLOUR.sub("", text).splitlines() if VERL_STEP.search(line)]:
        return "verl", numbers(map(verl_row, steps))
    return "CSV", numbers(csv.DictReader(text.splitlines()))


def json_row(line: str) -> dict | None:
    """The object of a line, None for a line that is something else, such as the last one of a killed run."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def verl_row(line: str) -> dict[str, str]:
    """`step:1 - actor/entropy:0.4 - …` as a dictionary; what is before it, a process's name, is left out."""
    pairs = (part.rpartition(":") for part in line[VERL_STEP.search(line).start() :].split(" - "))
    return {name.strip(): value.strip() for name, _, value in pairs}


def numbers(rows: Iterable) -> list[dict[str, float]]:
    """The rows with what can be read as a finite number or as NaN; `np.float64(0.5)` is a number of older verl logs."""
    found = []
    for row in rows:
        kept = {}
        for name, value in row.items() if isinstance(row, dict) else ():
            if name and isinstance(value, int | float) and not isinstance(value, bool):
                kept[name] = float(value)
            elif name and isinstance(value, str) and (number := NUMBER.match(value.strip())):
                kept[name] = float(number[1])
        found.append(kept)
    return found


def bare(name: str) -> str:
    """A column's name without what exports put before it: the run of a W&B chart (`run - `), TRL's `train/`."""
    name = name.rpartition(" - ")[2]
    short = name.removeprefix("train/")
    return name if name in ALL or short not in ALL else short
