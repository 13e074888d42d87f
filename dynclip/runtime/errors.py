"""Errors that the user can mend: the CLI prints their message in one line, without a traceback."""

import errno
import os
import shlex
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
