"""Throughput of grading against plain math-verify, in one run on one machine: python bench/grading.py

Plain math-verify parses and verifies boxed gold answers and answers in the main thread, without time limits. Both get
texts from the same distribution. Compare the ratio between machines, not the rates.
"""

import logging
import random
import time

from evals.grading import grade_many
from evals.grading.workers import POOL

FORMS = (
    (r"\frac{{{a}}}{{{b}}}", r"\dfrac{{{a}}}{{{b}}}"),
    (r"{a}\sqrt{{{b}}}", r"\sqrt{{{b}}} \cdot {a}"),
    (r"({a}, {b})", r"\left({a},{b}\right)"),
    (r"x^2+{a}x-{b}", r"x^2 - {b} + {a}x"),
    (r"{a}, {b}, {c}", r"{c},{a},{b}"),
    (r"\frac{{{a}\pi}}{{{b}}}", r"{a}\pi/{b}"),
    (r"[{a}, {b}{c})", r"[{a},{c}{b})"),
    (r"\text{{{a} apples}}", r"{a}"),
)


def integers(rng: random.Random, count: int) -> list[tuple[str, str]]:
    return [(f"so it is \\boxed{{{rng.randrange(1000)}}}", str(rng.randrange(1000))) for _ in range(count)]


def formulas(rng: random.Random, count: int) -> list[tuple[str, str]]:
    pairs = []
    for i in range(count):
        gold, answer = FORMS[i % len(FORMS)]
        values = {name: rng.randrange(2, 60) for name in "abc"}
        other = values if rng.random() < 0.5 else {name: rng.randrange(2, 60) for name in "abc"}
        pairs.append((f"so it is \\boxed{{{answer.format(**other)}}}", gold.format(**values)))
    return pairs


def plain_math_verify(pairs: list[tuple[str, str]]) -> list[bool]:
    from math_verify import parse, verify

    return [
        verify(
            parse(f"\\boxed{{{gold}}}", parsing_timeout=None), parse(text, parsing_timeout=None), timeout_seconds=None
        )
        for text, gold in pairs
    ]


def rate(grade, pairs: list[tuple[str, str]]) -> float:
    started = time.perf_counter()
    grade(pairs)
    return len(pairs) / (time.perf_counter() - started)


def main() -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    rng = random.Random(0)
    plain_math_verify(formulas(rng, 8))
    started = time.perf_counter()
    grade_many(formulas(rng, 8))
    print(f"start of the workers: {time.perf_counter() - started:.2f} s")
    for name, make, count in (("integers", integers, 4000), ("formulas", formulas, 800)):
        ours, theirs = rate(grade_many, make(rng, count)), rate(plain_math_verify, make(rng, count))
        print(f"{name}: {ours:,.0f} a second, math-verify alone {theirs:,.0f}: {ours / theirs:.1f} times")
    many = integers(rng, 100_000)
    print(f"integers in one batch of {len(many):,}: {rate(grade_many, many):,.0f} a second")
    POOL.close()


if __name__ == "__main__":
    main()
