"""The same texts scored by dynclip and three harnesses: python bench/agreement.py SAMPLES… --work FOLDER [--write FOLDER]

Texts, each source counted apart:
  model         sample files of `dynclip evaluate` (named <benchmark>.parquet), with the problem's gold answer
  own answer    the same texts, with the answer that dynclip reads in them (flexible) as gold answer
  solution      the worked solutions of the hub's sets with their gold answer: right by construction
  next gold     the worked solutions with the next problem's gold answer: wrong unless the two are equal

lm-evaluation-harness, EvalScope and lighteval score them with their own tasks (bench/agreement_peers.py), each in an
environment of its own that the first call builds. What they answer is kept in `--work`, so that a second call only sorts.
Every difference is sorted into a kind (bench/agreement_kinds.py). No problem text is written.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import venv
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
from agreement_kinds import KINDS, MODES, Case, kind_of

from dynclip.runtime.files import write_atomic, write_json
from dynclip.runtime.provenance import environment
from evals.benchmarks import BENCHMARKS, hub
from evals.benchmarks.problem import Problem
from evals.grading import GRADER_VERSION, extract, grade_many
from evals.grading.answers import fall_back

ROOT = Path(__file__).resolve().parent.parent
PEERS = {"lm-eval": "lm-eval[math]==0.4.13", "evalscope": "requirements/harnesses.txt", "lighteval": "lighteval==0.13.0"}
SETS = ("gsm8k", "math500", "aime24", "olympiad")


@dataclass(frozen=True)
class Question:
    """A text of a set, and the position of the row in `Texts.rows[part]` that holds its gold answer."""

    source: str
    part: str
    position: int
    text: str
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
        for name in SETS:
            self.add_solutions(name)
        for path in samples:
            self.add_samples(path)

    def add_solutions(self, part: str) -> None:
        rows, problems = self.rows[part], self.problems[part]
        for i, row in enumerate(rows):
            if part == "gsm8k":
                texts = [row["answer"], hub.gsm8k_solution(row["answer"])]
            else:
                texts = [row["solution"][0] if isinstance(row["solution"], list) else row["solution"]]
            after = (i + 1) % len(problems)
            for text in texts:
                self.questions.append(Question("solution", part, i, text))
                if problems[i].answer != problems[after].answer:
                    self.questions.append(Question("next gold", part, after, text))

    def add_samples(self, path: Path) -> None:
        """A sample file, or the parts of one that is not finished: <benchmark>.parts/<digest>."""
        part = path.stem if path.suffix else path.parent.stem
        places = {problem.id: i for i, problem in enumerate(self.problems[part])}
        table = pd.read_parquet(path)
        given = [Question("model", part, places[row.problem_id], row.text, row.finish == "length") for row in table.itertuples()]
        self.questions += given
        golds = [own_answer(part, each.text) for each in given]
        pairs = [(each.text, gold) for each, gold in zip(given, golds, strict=True)]
        for each, gold, found in zip(given, golds, grade_many(pairs, flexible=True), strict=True):
            if not (gold and found.flexible):
                continue
            # gsm8k's tasks read the gold answer after ####, the others in `answer` or in the solution's box.
            row = {"answer": f"#### {gold}" if part == "gsm8k" else gold, "solution": f"$\\boxed{{{gold}}}$"}
            old = self.rows[part][each.position]
            self.rows[part].append({key: row.get(key, old[key]) for key in old})
            self.problems[part].append(Problem("", "", gold, 0, ""))
            self.questions.append(replace(each, source="own answer", position=len(self.rows[part]) - 1))


def own_answer(part: str, text: str) -> str:
    """The answer that dynclip reads in a text; of GSM8K its number. "" if there is none, or more than one number."""
    answer = extract(text) or fall_back(text) or ""
    if part == "gsm8k":
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
        answer = hub.number_answer(numbers[0]) if len(numbers) == 1 else ""
    return answer if len(answer) < 100 else ""


def python_of(peer: str) -> Path:
    """The interpreter of the harness's environment, which is built where it is missing."""
    if peer == "evalscope":
        subprocess.run((sys.executable, ROOT / "requirements" / "install.py", "harnesses"), check=True)
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


def cases(texts: Texts, work: Path) -> tuple[list[Case], dict[str, dict[str, str]]]:
    """Every text with every rule of a harness that scores its set, and the versions of each harness."""
    golds = [texts.problems[each.part][each.position] for each in texts.questions]
    verdicts = grade_many(
        [(each.text, gold.answer) for each, gold in zip(texts.questions, golds, strict=True)],
        tolerances=[gold.tolerance for gold in golds],
        flexible=True,
    )
    ours = dict(zip(texts.questions, zip(golds, verdicts, strict=True), strict=True))
    found, versions = [], {}
    for part, source in dict.fromkeys((each.part, each.source) for each in texts.questions):
        questions = [each for each in texts.questions if (each.part, each.source) == (part, source)]
        for peer in PEERS:
            theirs = scored_by(peer, texts, part, source, work)
            versions[peer] = theirs["versions"]
            for question, scores in zip(questions, theirs["scores"], strict=True):
                gold, verdict = ours[question]
                for rule, (score, answer) in scores.items():
                    mode = MODES.get(f"{peer} {rule}", "flexible")
                    found.append(Case(
                        f"{peer} {rule}", mode, source, part, question.text, gold.answer, verdict.correct,
                        verdict.correct if mode == "strict" else verdict.flexible, verdict.status, score, str(answer),
                        question.cut,
                    ))  # fmt: skip
        print(f"{part}, {source}: {len(questions)} texts", file=sys.stderr, flush=True)
    return found, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="+", type=Path)
    parser.add_argument("--work", required=True, type=Path, help="where the harnesses' answers are kept")
    parser.add_argument("--write", type=Path, help="write README.md and agreement.json here")
    arguments = parser.parse_args()
    found, versions = cases(Texts(arguments.samples), arguments.work)


if __name__ == "__main__":
    main()
