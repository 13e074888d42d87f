"""`dynclip samples`."""

from argparse import Namespace

from dynclip.runtime.errors import UserError
from evals.browse import STATUSES, Filter, blocks, find, show


def samples(options: Namespace) -> None:
    statuses = tuple(options.status or ())
    for status in statuses:
        if status not in STATUSES:
            raise UserError(f"unknown verdict {status!r}; the verdicts are: {', '.join(STATUSES)}")
    if sum((options.wrong, options.correct, bool(statuses))) > 1:
        raise UserError("samples: --wrong, --correct and --status exclude each other")
    if options.wrong:
        statuses = tuple(status for status in STATUSES if status != "correct")
    if options.correct:
        statuses = ("correct",)
    files = find(options.selection, options.benchmark, options.results)
    chosen = Filter(statuses, options.problem, options.limit)
    show(text for file in files for text in blocks(file, chosen))
