"""`dynclip follow`: the progress of a live run in the terminal and, on request, in MLflow."""

import json
import math
import time
from contextlib import suppress
from pathlib import Path

from dynclip.report.tracking.database import experiment_id, open_client
from dynclip.report.tracking.runs import known_runs, labels, log_points, title, training_points
from dynclip.runtime.progress import clock
from dynclip.runtime.text import say


def follow(run: Path | str, total: int | None = None, mlflow: bool = False, poll: float = 1.0, log=say) -> None:
    """Print a line per rollout step of a run until the run is finished. Ctrl-C ends it.

    run: results/<scale>/runs/<method>/seed<k>. total: its rollout steps, to show the time left. mlflow: also send new
    rows to an MLflow run, which the final import replaces.
    """
    run = Path(run)
    shown, name = 0, f"{run.parent.name}/{run.name}"
    live = _LiveRun(run) if mlflow else None
    with suppress(KeyboardInterrupt):
        while True:
            # Checked before reading, so that rows written in between are still shown.
            finished = (run / "run.json").is_file()
            rows = _rows_so_far(run, finished)
            if len(rows) < shown:
                log(f"[{name}] was resumed from step {len(rows)}")
                shown = 0
                live = _LiveRun(run) if mlflow else None
            for row in rows[shown:]:
                log(progress_line(name, row, total, rows[: row["step"] + 1]))
            if live and rows[shown:] and not finished:  # the import sends the rows of finished runs
                live.send(rows[shown:])
            shown = len(rows)
            if finished:
                log(f"[{name}] finished")
                return
            time.sleep(poll)


def progress_line(name: str, row: dict, total: int | None, rows: list[dict]) -> str:
    """`[grpo/seed0] 12/100  reward 0.51  entropy 0.412 nats  clipped 0.62 %  1.92 steps/s  0:46 left`"""
    done = row["step"] + 1
    recent = [r["time/step"] for r in rows[-20:] if r.get("time/step")]
    rate = len(recent) / sum(recent) if recent else math.nan
    clipped = row.get("clip/low_fraction", math.nan) + row.get("clip/high_fraction", math.nan)
    left = f"  {clock((total - done) / rate)} left" if total and rate == rate else ""
    return (
        f"[{name}] {done}{f'/{total}' if total else ''}  reward {row.get('train/reward', math.nan):.2f}  "
        f"entropy {row.get('policy/entropy', math.nan):.3f} nats  clipped {100 * clipped:.2f} %  "
        f"{rate:.2f} steps/s{left}"
    )


def _rows_so_far(run: Path, finished: bool) -> list[dict]:
    """The complete rows that are written; an incomplete last line is left for the next call."""
    for path in (run / "metrics.jsonl", run / "state" / "metrics.jsonl")[:: 1 if finished else -1]:
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return []


class _LiveRun:
    """Sends rows of a running training to MLflow. It holds the database lock only while it sends."""

    def __init__(self, run: Path):
        self.results, self.scale = run.resolve().parents[3], run.resolve().parents[2].name
        self.name, self.run_id = f"{run.parent.name}/{run.name}", None

    def send(self, rows: list[dict]) -> None:
        with open_client(self.results, self.scale) as client:
            experiment = experiment_id(client, self.results, self.scale)
            known = known_runs(client, experiment).get(self.name, [])
            if self.run_id is None:
                for old in known:
                    client.delete_run(old.info.run_id)
                method, seed = self.name.split("/seed")
                tags = labels(self.scale, method, int(seed)) | {"dynclip.live": "true"}
                made = client.create_run(experiment, run_name=title(method, int(seed)), tags=tags)
                self.run_id = made.info.run_id
            elif self.run_id not in {run.info.run_id for run in known}:
                return  # the final import came first and replaced this run
            log_points(client, self.run_id, training_points(rows, int(1000 * time.time())), {})
