"""The exception for bad user input: the CLI prints its message without a traceback."""

import shlex
from pathlib import Path


class UserError(ValueError):
    """Bad input or a damaged file: one line that says what, where, what was expected and what to run.

    The CLI exits with status 2.
    """


def rebuild_command(rule: str, path) -> str:
    """The shell command that runs `rule` again to rebuild the result file `path`, in the folder that holds results/.

    Snakemake knows files by their paths from there, so an absolute path is cut.
    """
    parts = Path(path).parts
    place = max((i for i, part in enumerate(parts[:-1]) if part == "results"), default=None)
    scale, target = "laptop", str(path)
    if place is not None:
        scale, target = parts[place + 1], str(Path(*parts[place:]))
    config = "" if scale == "laptop" else f"--config scale={shlex.quote(scale)} "
    return f"snakemake --cores all {config}--forcerun {rule} -- {shlex.quote(target)}"
