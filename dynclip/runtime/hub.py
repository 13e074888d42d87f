"""What the clients of the Hugging Face hub do not say: why nothing came, and which lock they wait for."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynclip.runtime.errors import file_problem, one_line
from dynclip.runtime.locks import REMINDER_S, holder

PATIENCE_S = 5.0  # before a line says which lock is waited for
REFUSED = "refuses ({}); HF_TOKEN or the login is not valid there: set another one, or none"
STATUSES = {
    401: REFUSED,
    403: REFUSED,
    404: "does not have it ({})",
    429: "asks for fewer requests ({}); wait some minutes, or set HF_TOKEN",
}


def hub_problem(error: BaseException) -> str:
    """Why the hub did not give what was asked for, to follow "the hub at X". Raises the OSError of a full disk or of
    missing rights."""
    chain = [error]
    while cause := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__):
        chain.append(cause)
    for each in chain:
        if file_problem(each) and not isinstance(each, FileNotFoundError):
            each.filename = each.filename or f"HF_HOME ({os.environ.get('HF_HOME', '~/.cache/huggingface')})"
            raise each from None
    statuses = [getattr(getattr(each, "response", None), "status_code", None) for each in chain]
    status = next(filter(None, statuses), None)
    if status:
        return STATUSES.get(status, "failed (status {}); try again later").format(status)
    return (
        f"did not answer as a hub does: {type(chain[-1]).__name__}: {one_line(' '.join(str(chain[-1]).split())[:300])}"
    )


@contextmanager
def telling_of_locks() -> Iterator[None]:
    """Print a line for each lock of another process that a client waits for: after PATIENCE_S, then every minute."""
    logger = logging.getLogger("filelock")
    handler, kept = _Waits(), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = kept


class _Waits(logging.Handler):
    def __init__(self):
        super().__init__()
        self.next: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Of filelock's messages, "not acquired, waiting" comes at each of its tries, with the file second."""
        if not str(record.msg).startswith("Lock %s not acquired"):
            return
        path, now = str(record.args[1]), time.monotonic()
        if now > self.next.setdefault(path, now + PATIENCE_S):
            self.next[path] = now + REMINDER_S
            print(f"waiting for the hub's cache: {holder(Path(path))}", file=sys.stderr, flush=True)
