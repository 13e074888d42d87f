r"""Fixed answers that a policy could give to every problem. A reward must not pay for them.

As a script, it reads [gold answers, every] as JSON from standard input and prints the equal pairs of `lazy_answers` and
gold answers: [[answer, gold answer], …].
"""

import json
import math
import sys
from multiprocessing import get_context
from pathlib import Path

HOSTILE = (
    r"9^{9^{9^9}}", "9999999!", r"((9!)!)!", r"\sum_{n=1}^{10000000}\frac{1}{n}", r"\int_0^{1000}e^{e^{e^x}}dx",
    "{" * 30 + "5" + "}" * 30, "1" * 200, "x+" * 200 + "x", r"\frac{" * 20, "=" * 50, "," * 50,
    r"\left(" * 10 + "1" + r"\right)" * 10, "5,6,7,8,9,10,11,12", " or ".join(map(str, range(100))),
    ", ".join(map(str, range(-10, 50))), r"\{0,1,2,3,4,5,6,7,8,9\}", "x = 1 = 2 = 3 = 4 = 5", r"\phantom{5}",
    r"\boxed{}", r"\infty \text{ or } 5", r"\text{if } x=5 \text{ then } 5", r"\text{the answer}",
)  # fmt: skip


def lazy_answers(golds, every: int = 1) -> list[str]:
    """Return different answers: `golds`, fixed_answers.txt, hostile answers, and one of `every` of 2,300 numbers."""
    lines = (Path(__file__).parent / "fixed_answers.txt").read_text().splitlines()
    answers = [str(n) for n in range(-100, 1000)]
    answers += [rf"\frac{{{a}}}{{{b}}}" for b in range(2, 41) for a in range(1, 2 * b) if math.gcd(a, b) == 1]
    answers += [r"\frac{2}{4}", r"\frac{10}{20}", r"\frac{6}{4}", r"\frac{10}{5}", "2/4", "1/2", "-1/2"]
    answers += [rf"{a or ''}\sqrt{{{b}}}" for a in (0, 2, 3, 4, 5, 10) for b in (2, 3, 5, 6, 7, 10, 11, 13)]
    answers += [rf"{a}\pi" for a in range(2, 20)] + [rf"\frac{{\pi}}{{{a}}}" for a in range(2, 13)]
    answers += [rf"{a}^\circ" for a in (15, 30, 36, 45, 60, 90, 120, 180)]
    answers += [f"({a},{b})" for a in range(-2, 4) for b in range(-2, 4)]
    answers += [f"[{a},{b}]" for a in range(3) for b in range(3)]
    answers += [f"{a}^{{{b}}}" for a in (2, 3, 10) for b in range(2, 30)]
    answers += [f"{a}^{{{b}}}{sign}1" for a in (2, 3) for b in range(40, 110, 10) for sign in "+-"]
    listed = (line for line in lines if line and not line.startswith("# "))
    return list(dict.fromkeys([*golds, *listed, *answers[::every], *HOSTILE]))


def equalities(part: tuple[list[str], list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Return the equal (answer, gold answer) pairs, graded in this process and therefore without limits."""
    from evals.grading.cleaning import clean
    from evals.grading.equivalence import judge
    from evals.grading.grader import compare

    answers, golds = part
    found = []
    for answer in answers:
        for gold, tolerance in golds:
            status = compare(answer, gold, tolerance) or judge(clean(answer), clean(gold), tolerance)
            if status == "correct":
                found.append((answer, gold))
    return found


def main(processes: int = 2) -> None:
    golds, every = json.load(sys.stdin)
    answers = [answer for answer in lazy_answers((gold for gold, _ in golds), every) if answer not in HOSTILE]
    with get_context("fork").Pool(processes) as pool:
        parts = pool.map(equalities, [(answers[i::16], golds) for i in range(16)], chunksize=1)
    print(json.dumps(sorted(pair for part in parts for pair in part)))


if __name__ == "__main__":
    main()
