"""The same texts scored by dynclip and three harnesses.

    python bench/agreement.py SAMPLES… --work FOLDER [--write FOLDER]

Texts, each source counted apart:
  model         sample files of `dynclip evaluate`, named <benchmark>.parquet, with the problem's gold answer
  solution      the worked solutions of the hub's sets with their gold answer: right by construction
  next gold     the worked solutions with the next problem's gold answer: wrong unless the two are equal
  own formula   each formula of a MATH-500 problem's text, boxed: nothing is worked out, though the value may be right

lm-evaluation-harness, EvalScope and lighteval score them with their own tasks (bench/agreement_peers.py), each in an
environment of its own that the first call builds. What they answer is kept in `--work`, so that a second call only
sorts. Every difference is sorted into a kind (bench/agreement_kinds.py). `--write` makes the folder of the reference:
the responses without verdicts, a table of verdicts, the differences, and a page made from these files
(bench/agreement_page.py). No text of a data set is written.

`--page FOLDER` alone writes the page of a folder again.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from agreement_kinds import Case, kind_of
from agreement_page import COLUMNS, mode_of, page

from dynclip.runtime.files import write_atomic, write_json
from evals.benchmarks import BENCHMARKS, hub
from evals.benchmarks.problem import Problem
from evals.grading import GRADER_VERSION, extract, grade_many
from evals.grading.answers import FORMULA, fall_back
from evals.grading.grader import copied
from evals.sampling.store import PART_COLUMNS

ROOT = Path(__file__).resolve().parent.parent
# The environments: .venv-graders/<harness> from one package with what it asks for, .venv-harnesses from its lock.
PEERS = {"lm-eval": "lm-eval[math]==0.4.13", "evalscope": "harnesses", "lighteval": "lighteval==0.13.0"}
SETS = ("gsm8k", "math500", "aime24")


@dataclass(frozen=True)
class Question:
    """A text of a set, and the position of the row in `Texts.rows[part]` that holds its gold answer."""

    source: str
    part: str
    position: int
    text: str
    index: int = 0  # of the sample
    cut: bool = False  # at the limit on tokens


class Texts:
    """The hub's rows, as the harnesses read them, with the problems made from them, and the questions."""

    def __init__(self, samples: list[Path]):
        self.rows = {name: [dict(row) for row in hub._dataset(BENCHMARKS[name])[0]] for name in SETS}
        self.problems: dict[str, list[Problem]] = {
            name: [hub.problem_of(BENCHMARKS[name], row, i) for i, row in enumerate(rows)]
            for name, rows in self.rows.items()
        }
        self.questions: list[Question] = []
        for path in samples:
            self.add_samples(path)
        for name in SETS:
            self.add_solutions(name)
        for i, problem in enumerate(self.problems["math500"]):
            formulas = {next(filter(None, found.groups())).strip() for found in FORMULA.finditer(problem.problem)}
            self.questions += [
                Question("own formula", "math500", i, f"$\\boxed{{{each}}}$") for each in sorted(formulas)
            ]

    def add_samples(self, path: Path) -> None:
        places = {problem.id: i for i, problem in enumerate(self.problems[path.stem])}
        for row in pd.read_parquet(path).to_dict("records"):
            place, cut = places[row["problem_id"]], row["finish"] != "stop"
            self.questions.append(Question("model", path.stem, place, row["text"], row["index"], cut))

    def add_solutions(self, part: str) -> None:
        rows, problems = self.rows[part], self.problems[part]
        for i, row in enumerate(rows):
            text = row["answer"] if part == "gsm8k" else row["solution"]
            self.questions.append(Question("solution", part, i, text))
            after = (i + 1) % len(problems)
            if problems[i].answer != problems[after].answer:
                self.questions.append(Question("next gold", part, after, text))

    def gold(self, question: Question) -> Problem:
        return self.problems[question.part][question.position]


def python_of(peer: str) -> Path:
    """The interpreter of the harness's environment, which is built where it is missing."""
    if peer == "evalscope":
        subprocess.run((sys.executable, ROOT / "requirements" / "install.py", PEERS[peer]), check=True)
        return ROOT / ".venv-harnesses" / "bin" / "python"
    folder = ROOT / ".venv-graders" / peer
    if not (folder / "bin" / peer).exists():
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", PEERS[peer]], check=True)
    return folder / "bin" / "python"


def scored_by(peer: str, texts: Texts, part: str, source: str, work: Path) -> dict:
    """What bench/agreement_peers.py answers for one set and source, from `work` where it is kept."""
    questions = [each for each in texts.questions if (each.part, each.source) == (part, source)]
    used = sorted({each.position for each in questions})
    place = {position: i for i, position in enumerate(used)}
    asked = {
        "rows": {part: [texts.rows[part][position] for position in used]},
        "questions": [[part, place[each.position], each.text] for each in questions],
    }
    content = json.dumps(asked)
    kept = work / f"{peer}-{part}-{source.replace(' ', '-')}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.json"
    if not kept.exists():
        command = [python_of(peer), ROOT / "bench" / "agreement_peers.py", peer]
        output = subprocess.run(command, input=content, text=True, stdout=subprocess.PIPE, check=True).stdout
        write_atomic(kept, output.encode())
    return json.loads(kept.read_text())


def compare(texts: Texts, work: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, dict[str, str]]]:
    """Verdicts (one row a question, one column a rule), differences (one row each), the harnesses' versions."""
    golds = [texts.gold(each) for each in texts.questions]
    graded = grade_many(
        [(each.text, gold.answer) for each, gold in zip(texts.questions, golds, strict=True)],
        truncated=[each.cut for each in texts.questions],
        tolerances=[gold.tolerance for gold in golds],
        flexible=True,
        problems=[gold.problem for gold in golds],
    )
    ours = dict(zip(texts.questions, graded, strict=True))
    rows, cases, versions = [], [], {}
    for part, source in dict.fromkeys((each.part, each.source) for each in texts.questions):
        questions = [each for each in texts.questions if (each.part, each.source) == (part, source)]
        answers = {peer: scored_by(peer, texts, part, source, work) for peer in PEERS}
        versions |= {peer: found["versions"] for peer, found in answers.items()}
        for i, question in enumerate(questions):
            verdict, gold = ours[question], texts.gold(question)
            values = (source, part, gold.id, question.index, verdict.correct, verdict.flexible)
            row = dict(zip(COLUMNS, values, strict=True))
            for peer, found in answers.items():
                for name, (score, answer) in found["scores"][i].items():
                    rule = f"{peer} {name}"
                    row[rule] = score
                    mine = verdict.correct if mode_of(rule) == "strict" else verdict.flexible
                    if bool(score) != mine:
                        cases.append(case_of(question, gold, rule, verdict, mine, str(answer)))
            rows.append(row)
        print(f"{part}, {source}: {len(questions)} texts", file=sys.stderr, flush=True)
    return pd.DataFrame(rows), pd.DataFrame(cases), versions


def case_of(question: Question, gold: Problem, rule: str, verdict, ours: bool, answer: str) -> dict:
    """A row of differences.csv. The end of the text is written for responses of the model alone."""
    marked = extract(question.text)
    unmarked = fall_back(question.text) if marked is None and not question.cut else None
    repeats = not ours and copied(marked or unmarked or "", gold.answer, gold.problem)
    case = Case(rule, question.source, gold.id, question.index, marked, unmarked, ours, question.cut, repeats)
    return {
        "source": question.source,
        "set": question.part,
        "problem": gold.id,
        "index": question.index,
        "rule": rule,
        "correct": "dynclip" if ours else "harness",
        "gold": gold.answer,
        "dynclip_reads": (marked or unmarked or "")[:200],
        "marked": marked is not None,
        "harness_reads": answer[:200],
        "kind": kind_of(case),
        "end": question.text[-160:] if question.source == "model" else "",
    }


def write(folder: Path, samples: list[Path], found: tuple[pd.DataFrame, pd.DataFrame, dict]) -> None:
    """The folder of the reference. What made the responses is in the score beside a sample file, or there already."""
    verdicts, differences, versions = found
    kept = folder / "agreement.json"
    responses = json.loads(kept.read_text())["responses"] if kept.exists() else {}
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    for path in samples:
        table = pd.read_parquet(path)
        table = table[[name for name in PART_COLUMNS if name in table]]
        table.to_parquet(folder / "samples" / path.name, compression="zstd", index=False)
        if path.with_suffix(".json").exists():
            score = json.loads(path.with_suffix(".json").read_text())
            model = {"model": score["model"]["path"], "revision": score["model"]["revision"]}
            responses[path.stem] = model | {"engine": score["engine"], **score["sampling"]}
    verdicts.to_parquet(folder / "verdicts.parquet", compression="zstd", index=False)
    differences.to_csv(folder / "differences.csv", index=False)
    write_json(kept, {"grader": GRADER_VERSION, "versions": versions, "responses": responses})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="*", type=Path)
    parser.add_argument("--work", type=Path, help="where the harnesses' answers are kept")
    parser.add_argument("--write", type=Path, help="write the folder of the reference")
    parser.add_argument("--page", type=Path, help="write the page of a folder again, and nothing else")
    arguments = parser.parse_args()
    if folder := arguments.page:
        write_atomic(folder / "README.md", page(folder).encode())
        return
    if not arguments.work:
        parser.error("--work is needed")
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = compare(Texts(arguments.samples), arguments.work)
    if folder := arguments.write:
        write(folder, arguments.samples, found)
        write_atomic(folder / "README.md", page(folder).encode())
    print(found[1].groupby(["kind", "source", "rule", "correct"], sort=False).size().to_string())


if __name__ == "__main__":
    main()
