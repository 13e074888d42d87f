r"""Problem sets of the Hugging Face hub: fetched by id and cleaned. The project keeps no text of theirs.

`datasets` downloads and caches (HF_HOME), from a mirror (HF_ENDPOINT) or offline (HF_HUB_OFFLINE). DYNCLIP_HUB names a
folder of local copies that is read instead. Only Parquet and JSON files are read; no code of a repository runs.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.hub import hub_problem, telling_of_locks
from dynclip.runtime.text import visible
from evals.benchmarks.problem import Problem

LOCAL_COPY = "DYNCLIP_HUB"
FORMATS = ("parquet", "json", "cache")  # builders of `datasets`; "cache" reads what another builder prepared
HUB_TIMEOUT_S = 10  # for the hub's first answer
NUMBER = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?")
DAPO_INSTRUCTIONS = re.compile(
    r"^Solve the following math problem step by step\..*\n\n|\n\nRemember to put your answer on its own line.*$"
)


@dataclass(frozen=True)
class HubSet:
    """A problem set on the hub: its place, the meaning of its columns, and the contents that were pinned.

    Columns are named as in the files: "a.b" is field b of column a, "" is a column that the set lacks. `count` and
    `content`, the SHA-256 of the cleaned (problem, answer) rows in order, pin the contents whatever the hub serves.
    Where `content` is "", the first load pins them, and `count` is the documented number of problems, 0 if unknown.
    `revision` is the requested commit or branch.
    """

    name: str
    title: str
    id: str
    config: str
    split: str
    problem: str
    answer: str
    count: int
    content: str
    problem_rule: str = "text"  # of PROBLEM_RULES
    answer_rule: str = "text"  # of ANSWER_RULES
    key: str = ""  # identifies a problem and becomes part of its id
    distinct: bool = False  # rows repeat: the first row of each key is kept, in the order of the keys
    level: str = ""
    level_rule: str = "number"  # of LEVEL_RULES
    subject: str = ""
    pools: tuple[tuple[str, int], ...] = ()  # subjects where no column has them: (name, number of consecutive rows)
    tolerance: str = ""
    solution: str = ""
    solution_rule: str = "text"  # of SOLUTION_RULES
    revision: str = "main"
    kind: str = "hub"

    @property
    def place(self) -> str:
        """The data set's place, for messages."""
        return f"{self.id} (config {self.config}, split {self.split}, revision {self.revision})"


def fetch(entry: HubSet) -> tuple[list[Problem], str]:
    """The cleaned problems of an entry, not yet compared with its pins, and their revision: a commit, or "local copy".

    Raises UserError if neither hub nor cache nor local copy has them, or if columns are missing.
    """
    dataset, revision = _dataset(entry)
    table = dataset.with_format("arrow")[:]
    try:
        if entry.distinct:
            table = _distinct(table, entry.key)
        return [problem_of(entry, row, number) for number, row in enumerate(table.to_pylist())], revision
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{entry.name}: {entry.place} has the columns {', '.join(table.column_names)}, which are not those that "
            f"evals/benchmarks/registry.py names ({error}); the data set has changed: pin its older revision there"
        ) from None


def problem_of(entry: HubSet, row: dict, number: int) -> Problem:
    """Row `number` (from 0) as a problem. Raises KeyError for a missing column."""
    key = str(field(row, entry.key)) if entry.key else f"{number + 1:04d}"
    return Problem(
        id=f"{entry.name}-{key}",
        problem=PROBLEM_RULES[entry.problem_rule](field(row, entry.problem)).strip(),
        answer=ANSWER_RULES[entry.answer_rule](field(row, entry.answer), row),
        level=LEVEL_RULES[entry.level_rule](field(row, entry.level)) if entry.level else 0,
        subject=(subject(field(row, entry.subject)) if entry.subject else pool(entry.pools, number)) or entry.title,
        tolerance=str(field(row, entry.tolerance) or "").strip() if entry.tolerance else "",
        solution=SOLUTION_RULES[entry.solution_rule](field(row, entry.solution)) if entry.solution else "",
    )


def field(row: dict, path: str):
    """The value of column "a", or of field "a.b", of a row."""
    for name in path.split("."):
        row = row[name]
    return row


def subject(value: str | list[str] | None) -> str:
    """The field of a problem. Several fields, in a list, become `a, b`."""
    return ", ".join(part.strip() for part in value) if isinstance(value, list) else value or ""


def pool(pools: tuple[tuple[str, int], ...], number: int) -> str:
    """The name of row `number`'s pool; "" after the last pool."""
    for name, size in pools:
        if number < size:
            return name
        number -= size
    return ""


def dapo_problem(messages: list[dict]) -> str:
    """The problem of a DAPO prompt, without the instructions that every row repeats."""
    return DAPO_INSTRUCTIONS.sub("", messages[-1]["content"])


def number_answer(value, _row: dict | None = None) -> str:
    """`025` → 25, 27.0 → 27, `1,234` → 1234, at any size. Text that is no decimal number stays as it is."""
    text = str(value).strip().replace(",", "")
    parts = NUMBER.fullmatch(text)
    if not parts:
        return text
    sign, whole, decimals = parts[1], parts[2].lstrip("0") or "0", (parts[3] or "").rstrip("0")
    number = f"{whole}.{decimals}" if decimals else whole
    return number if number == "0" or sign != "-" else f"-{number}"


def gsm8k_answer(solution: str, _row: dict | None = None) -> str:
    """The number after the last `####` of a worked solution."""
    return number_answer(solution.rpartition("####")[2])


def gsm8k_solution(text: str) -> str:
    """A worked solution as a response: without its `<<…>>` calculator marks, and with a boxed answer."""
    steps, _, answer = re.sub(r"<<.*?>>", "", text).rpartition("####")
    return f"{steps.strip()}\nThe answer is \\boxed{{{number_answer(answer)}}}."


def olympiad_answer(answers: list[str], row: dict) -> str:
    r"""The answer without `$`, outer spacing commands and a final full stop; several answers become `a, b`.

    The space keeps `12,345` two numbers. The unit has a column of its own and is not part of the answer.
    """
    text = ", ".join(answers).replace("$", "")
    text = re.sub(r"^(\s|\\quad)+|[\s.]+$", "", text)
    return ", ".join(part.strip() for part in split_list(text)) if row["is_multiple_answer"] else text


def list_answer(value, _row: dict | None = None) -> str:
    """An answer in which a comma outside all brackets separates two answers: `1,2` becomes `1, 2`."""
    return ", ".join(part.strip() for part in split_list(str(value)))


def split_list(text: str) -> list[str]:
    """Parts of a text between the commas outside all brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


PROBLEM_RULES: dict[str, Callable] = {"text": str, "dapo": dapo_problem}
ANSWER_RULES: dict[str, Callable] = {
    "text": lambda value, _row: value.strip(),
    "number": number_answer,
    "gsm8k": gsm8k_answer,
    "list": list_answer,
    "olympiad": olympiad_answer,
}
# Of GSM8K: the number of calculations that a worked solution writes out.
LEVEL_RULES: dict[str, Callable] = {"number": int, "calculations": lambda solution: solution.count("<<")}
SOLUTION_RULES: dict[str, Callable] = {"text": str.strip, "gsm8k": gsm8k_solution}


def _dataset(entry: HubSet):
    """The split of an entry as `datasets` has it, and its revision."""
    from datasets import config
    from huggingface_hub import HfApi, constants

    if folder := os.environ.get(LOCAL_COPY):
        path = Path(folder).expanduser() / entry.id
        if not path.is_dir():
            raise UserError(
                f"{entry.name}: {LOCAL_COPY} is set and {path} is no folder; copy the data set there: "
                f"hf download --repo-type dataset {entry.id} --local-dir {path}"
            )
        log(entry, f"from the local copy {path}")
        try:
            return _open(entry, str(path))[0], "local copy"
        except Exception as error:  # whatever the library makes of the files
            raise UserError(f"{entry.name}: cannot read the local copy {path}: {_first_line(error)}") from None
    # One short request first: without a hub, `datasets` retries for 25 seconds per set before it reads its cache.
    commit, reason = None, "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    if not reason:
        try:
            commit = HfApi().dataset_info(entry.id, revision=entry.revision, timeout=HUB_TIMEOUT_S).sha
            log(entry, f"from {constants.ENDPOINT}, commit {commit[:12]}")
        except Exception as error:  # whatever the client makes of a hub, a proxy or a network
            reason = f"it {hub_problem(error)}"
    config.HF_HUB_OFFLINE = bool(reason)  # the cache alone
    try:
        with telling_of_locks():
            found = _open(entry, f"hf://datasets/{entry.id}", commit)
    except Exception as error:
        reason = reason or (_first_line(error) if isinstance(error, ValueError) else f"it {hub_problem(error)}")
        raise UserError(
            f"{entry.name}: cannot load {entry.place} from {constants.ENDPOINT}: {reason}; nor "
            f"is it in the cache ({constants.HF_HOME}). Set HF_ENDPOINT to a mirror of the hub; or HF_HOME to a cache "
            f"that has it, with HF_HUB_OFFLINE=1; or {LOCAL_COPY}=FOLDER with a copy in FOLDER/{entry.id}"
        ) from None
    if reason:
        log(entry, f"from the cache {constants.HF_HOME}, commit {found[1][:12]} ({reason})")
    return found


def _open(entry: HubSet, path: str, revision: str | None = None):
    """(split, revision) by the first half of `load_dataset`. Raises ValueError for other formats before a download."""
    from datasets import load_dataset_builder

    builder = load_dataset_builder(path, entry.config, revision=revision)
    form = type(builder).__module__.rpartition(".")[2]
    if form not in FORMATS:
        raise ValueError(f"its files are of the format {form}; read are {' and '.join(FORMATS[:2])} alone")
    builder.download_and_prepare()
    return builder.as_dataset(split=entry.split), builder.hash


def _distinct(table, key: str):
    """The first row of each value of `key`, in the order of the values."""
    # By column, without a Python object per row: DAPO's file repeats each row about 100 times.
    import pyarrow.compute as pc

    column, *fields = key.split(".")
    values = table[column]
    for name in fields:
        values = pc.struct_field(values, name)
    first: dict = {}
    for number, value in enumerate(values.to_pylist()):
        first.setdefault(value, number)
    return table.take([first[value] for value in sorted(first)])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def log(entry: HubSet, text: str) -> None:
    print(visible(f"[{entry.name}] {entry.id} ({entry.config}/{entry.split}) {text}"), file=sys.stderr, flush=True)
