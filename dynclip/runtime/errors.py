"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Bad input or a damaged file: the message is one line that says what, where, what was expected and what to run.

    The command line prints it without a traceback and exits with status 2.
    """


def rebuild_command(rule: str, path) -> str:
    """The shell command that makes the result file `path` again by running `rule` anew."""
    parts = str(path).split("/")
    scale = parts[parts.index("results") + 1] if "results" in parts[:-1] else "laptop"
    config = "" if scale == "laptop" else f"--config scale={scale} "
    return f"snakemake --cores all {config}--forcerun {rule} -- {path}"
