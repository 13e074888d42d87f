"""The exception for bad user input: the CLI prints its message without a traceback."""


class UserError(ValueError):
    """Bad input or a damaged file: one line that says what, where, what was expected and what to run.

    The CLI exits with status 2.
    """


def rebuild_command(rule: str, path) -> str:
    """The shell command that runs `rule` again to rebuild the result file `path`."""
    parts = str(path).split("/")
    scale = parts[parts.index("results") + 1] if "results" in parts[:-1] else "laptop"
    config = "" if scale == "laptop" else f"--config scale={scale} "
    return f"snakemake --cores all {config}--forcerun {rule} -- {path}"
