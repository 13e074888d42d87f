"""Errors that the user can mend: the CLI prints their message in one line, without a traceback."""

import errno
import json
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path


class UserError(ValueError):
    """Bad input or a damaged file: one line that says what, where, what was expected and what to run.

    The CLI exits with status 2.
    """


SPACE = "free space there (df -h, df -i), or use another folder"
RIGHTS = "change its permissions, or use another folder"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), RIGHTS),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "move it away, or use another path"),
    **dict.fromkeys((errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP), "use another path"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "check the disk"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    errno.ENOMEM: "free memory",
}


def file_problem(error: BaseException) -> str | None:
    """What files, rights or disk did to a program, as one line with a remedy; None for any other error."""
    # A subclass from elsewhere has numbers of its own: those of ssl.SSLError are OpenSSL's.
    if not isinstance(error, OSError) or type(error).__module__ != "builtins" or error.errno not in REMEDIES:
        return None
    return f"{error.filename or 'output'}: {os.strerror(error.errno)}; {REMEDIES[error.errno]}"


def one_line(text: object) -> str:
    """`text` with its line breaks and control characters escaped: paths and the hub's messages can hold any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text).strip())


# Folder of results/<scale> -> the rule whose outputs are in it.
RULES = {
    "data": "data", "base": "warmup", "runs": "train", "scores": "evaluate", "samples": "evaluate",
    "studies": "agreement",
}  # fmt: skip
# Rule that publishes tables, figures or pages -> the command that makes them without Snakemake, where there is one.
PUBLISHING = {
    "tables": "tables", "figures": "figures", "claims": "claims", "page": "report", "study": None, "front": None,
}  # fmt: skip
_called_with: dict[str, str] = {}
_results_folder: tuple[str, ...] = ()  # its parts


def remember_call(config: dict[str, object], results: Path | None = None) -> None:
    """Keep what this process was asked for beside the scale, as keys and values of `--config`, and its results folder.

    The commands in its messages repeat it: other steps or settings would make another study.
    """
    global _results_folder
    _results_folder = Path(os.path.abspath(results)).parts if results else ()
    _called_with.clear()
    _called_with.update({name: str(value) for name, value in config.items() if value is not None})


def call_options() -> str:
    """What `remember_call` keeps as options of `dynclip`, with a space before each."""
    return "".join(f" {word}" for word in map(shlex.quote, _options(_called_with)))


def _options(config: dict[str, str]) -> list[str]:
    words = []
    for name, value in config.items():
        if name == "force":
            words.append("--force")
        else:
            own = name in ("scale", "methods", "seeds", "steps", "updates", "options")
            words += [f"--{name}", value] if own else ["--set", f"{name}={value}"]
    return words


def rebuild_command(rule: str, path) -> str:
    """The shell command that makes the result file `path` again, wherever it is run; `rule` makes such files.

    It is Snakemake's where a Snakefile is beside results/, with what the process was called with. Elsewhere `dynclip`
    makes the file.
    """
    parts = Path(os.path.abspath(path)).parts
    if rule in PUBLISHING:
        return _publish_command(rule, Path(*parts))
    own = len(_results_folder) - 1 if parts[: len(_results_folder)] == _results_folder else None
    places = [i for i in range(len(parts) - 3) if parts[i + 2] in RULES and (parts[i] == "results" or i == own)]
    places.sort(key=lambda i: (i == own, i))
    if not places:
        return f"snakemake --cores all --forcerun {rule} -- {shlex.quote(str(path))}"
    results, scale, (kind, *names) = Path(*parts[: places[-1] + 1]), parts[places[-1] + 1], parts[places[-1] + 2 :]
    rule, folder, target = RULES[kind], results / scale, Path(kind, *names)
    run = names[:2] if kind in ("runs", "scores", "samples") and len(names) > 1 else ()
    if run and run[0] == "base" and (folder / "base" / run[1]).is_dir():
        rule = "evaluate_base"
    if kind in ("base", "runs") and not target.suffix:
        target /= "model.json"  # a policy is known by its manifest
    config = {"scale": scale, **_steps(folder, run), **_called_with}
    if match := re.fullmatch(r"seed(\d+)", run[1] if run else names[0]):
        config.setdefault("seeds", match[1])
    config = {name: value for name, value in config.items() if name not in ("methods", "options")}
    alone = results.name != "results" or not (results.parent / "Snakefile").is_file()
    if alone and kind != "studies":
        return _without_snakemake(rule, results, config, names)
    here = "" if results.parent.resolve() == Path.cwd() else f"cd {shlex.quote(str(results.parent))} && "
    given = " ".join(shlex.quote(f"{name}={value}") for name, value in config.items())
    target = shlex.quote(str(Path("results", scale, target)))
    return f"{here}snakemake --cores all --config {given} --forcerun {rule} -- {target}"


def _publish_command(rule: str, path: Path) -> str:
    """The command for a published file, given by its absolute path, in the last folder above it called results."""
    place = max((i for i, part in enumerate(path.parts[:-1]) if part == "results"), default=None)
    if place is None:
        return f"snakemake --cores all --forcerun {rule} -- {shlex.quote(str(path))}"
    parent, target = Path(*path.parts[:place]), str(Path(*path.parts[place:]))
    config = {"scale": path.parts[place + 1], **_called_with}
    if PUBLISHING[rule] and not (parent / "Snakefile").is_file():
        return shlex.join(["dynclip", PUBLISHING[rule], *_options(config), "--results", str(parent / "results")])
    here = "" if parent.resolve() == Path.cwd() else f"cd {shlex.quote(str(parent))} && "
    given = " ".join(shlex.quote(f"{name}={value}") for name, value in config.items())
    return f"{here}snakemake --cores all --config {given} --forcerun {rule} -- {shlex.quote(target)}"


def _steps(folder: Path, run) -> dict[str, str]:
    """The steps of a published run (method, seed<N>) under `folder`, results/<scale>, as a key of `--config`."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return {"steps": str(int(json.loads(folder.joinpath("runs", *run, "run.json").read_text())["steps"]))}
    return {}


def _without_snakemake(rule: str, results: Path, config: dict[str, str], names: list[str]) -> str:
    words = ["dynclip", rule.removesuffix("_base")]
    if rule not in ("data", "warmup"):
        config.pop("seeds", None)
        words += ["--method", names[0], "--seed", names[1].removeprefix("seed")]
    if rule.startswith("evaluate"):
        words += ["--checkpoint", names[2]]
    return shlex.join([*words, *_options(config), "--results", str(results)])
