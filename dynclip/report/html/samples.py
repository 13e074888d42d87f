"""The completions that a report shows: drawn with a fixed seed, as many as fit, to search and to filter."""

import json
import random
from pathlib import Path

from dynclip.report.comparisons import is_exact
from dynclip.report.evidence import BASE, Evidence
from dynclip.runtime.errors import UserError, rebuild_command

MAX_CHARACTERS = 2000  # of a completion
BUDGET = 600_000  # characters of all completions in a page
PER_SCORE = 60  # completions of one run on one benchmark


def samples_of(evidence: Evidence) -> dict:
    """note: what was drawn. rows: method, benchmark, id, verdict, right, facts and text of every completion, methods in
    turn. problems: id -> problem and answer. Raises UserError for damaged problems.

    They are from the last checkpoint of the first seed that has samples, for every method the same number of right and
    of wrong ones where there are so many.
    """
    sampled = [s for s in evidence.scores if s["checkpoint"] == "final" and not is_exact(s)]
    if not sampled:
        scored = "The scores are exact, without samples." if evidence.scores else "No checkpoint is scored yet."
        return {"note": scored, "rows": [], "problems": {}}
    seed = min({s["seed"] for s in sampled if s["method"] != BASE} or {s["seed"] for s in sampled})
    order = [*evidence.methods, BASE]
    chosen = [s for s in sampled if s["seed"] == seed or s["method"] == BASE]
    chosen = [s for s in chosen if s["method"] != BASE or s is _base(chosen, s["benchmark"], seed)]
    chosen.sort(key=lambda score: (score["benchmark"], order.index(score["method"])))
    share = BUDGET // len(chosen)
    groups = [_drawn(evidence, score, share) for score in chosen]
    rows = [row for at in range(PER_SCORE) for group in groups for row in group[at : at + 1]]
    problems = {}
    for benchmark in {score["benchmark"] for score in chosen}:
        problems |= read_problems(evidence.results / "data" / f"{benchmark}.jsonl")
    shown = {row["id"] for row in rows}
    return {
        "note": f"{len(rows)} completions of seed {seed}, last checkpoint, drawn at random: right and wrong ones in "
        "turn, so their shares here are not the scores. The command dynclip samples shows all of them.",
        "rows": rows,
        "problems": {
            name: {"problem": str(row["problem"]), "answer": str(row["answer"])}
            for name, row in problems.items()
            if name in shown
        },
    }


def _base(scores: list[dict], benchmark: str, seed: int) -> dict:
    """The base policy's score that belongs to `seed`: its own, or the one of all seeds."""
    found = [s for s in scores if s["method"] == BASE and s["benchmark"] == benchmark]
    return next((s for s in found if s["seed"] == seed), found[0])


def _drawn(evidence: Evidence, score: dict, characters: int) -> list[dict]:
    """Completions of one score, right and wrong in turn, at most PER_SCORE and about `characters` long in all."""
    import pandas as pd

    benchmark, method, seed = score["benchmark"], score["method"], score["seed"]
    stored = evidence.results / "samples" / method / f"seed{seed}" / "final" / f"{benchmark}.parquet"
    table = pd.read_parquet(stored).to_dict("records")
    random.Random(f"{benchmark}-{method}-{seed}").shuffle(table)
    kinds = [[row for row in table if bool(row["correct"]) is kind] for kind in (True, False)]
    mixed = [row for at in range(PER_SCORE) for kind in kinds for row in kind[at : at + 1]]
    rows = []
    for row in mixed[:PER_SCORE]:
        made = _sample(row, method, benchmark)
        characters -= len(made["text"])
        if characters < 0:
            break
        rows.append(made)
    return rows


def _sample(row: dict, method: str, benchmark: str) -> dict:
    text = str(row["text"])
    rest = len(text) - MAX_CHARACTERS
    return {
        "method": method,
        "benchmark": benchmark,
        "id": str(row["problem_id"]),
        "verdict": str(row["status"]),
        "right": bool(row["correct"]),
        "facts": f"{row['tokens']} tokens · ended by {row['finish']}",
        "text": text[:MAX_CHARACTERS] + (f"\n… {rest} more characters" if rest > 0 else ""),
    }


def read_problems(path: Path) -> dict[str, dict]:
    """problem id -> its row of data/<benchmark>.jsonl, empty without that file. Raises UserError for a damaged file."""
    if not path.is_file():
        return {}
    try:
        return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(
            f"{path}: not one JSON problem per line; rebuild it with: {rebuild_command('data', path)}"
        ) from None
