"""Progress lines with step, measurements, speed and time left. The log file gets all, the terminal some of them."""

import sys
import time
from pathlib import Path

from dynclip.runtime.files import naming
from dynclip.runtime.text import visible


class Progress:
    """Writes each step to `log_file` if given, and to standard error the last step and one per `every` seconds."""

    def __init__(self, name: str, total: int, log_file: Path | None = None, every: float = 15.0):
        self.name, self.total, self.log_file, self.every = name, total, Path(log_file) if log_file else None, every
        if self.log_file:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self.first, self.started, self.shown = 0, time.monotonic(), 0.0

    def start(self, done: int = 0) -> None:
        """Start the clock; an earlier attempt already finished `done` steps."""
        self.first, self.started = done, time.monotonic()

    def step(self, done: int, text: str, left: str = "") -> None:
        """Report that `done` of `total` steps are finished. left: the time left, if the pace so far does not say it."""
        now = time.monotonic()
        rate = (done - self.first) / max(now - self.started, 1e-9)
        left = left or clock((self.total - done) / rate if rate else 0.0)
        line = f"[{visible(self.name)}] {done}/{self.total}  {text}  {rate:.2f}/s  {left} left"
        self._write(line)
        if done == self.total or now - self.shown >= self.every:
            self.shown = now
            print(line, file=sys.stderr, flush=True)

    def log(self, text: str) -> None:
        """Write one line to the log and to standard error."""
        line = visible(f"[{self.name}] {text}")
        self._write(line)
        print(line, file=sys.stderr, flush=True)

    def _write(self, line: str) -> None:
        if self.log_file:
            with naming(self.log_file), self.log_file.open("a") as file:
                file.write(line + "\n")


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
