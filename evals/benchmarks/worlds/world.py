"""What a synthetic world is: problems by level, a split by text, a vocabulary, and a teacher for the warm start."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from evals.benchmarks.problem import Problem

Draws = Iterator[tuple[str, str]]
Teacher = Callable[[Problem, random.Random], str]


def whole(text: str) -> str:
    return text


def no_part(text: str) -> tuple[str, str]:
    return "", ""


@dataclass(frozen=True)
class World:
    """A synthetic world. Its prompts and responses are concatenations of pieces of `vocabulary`, matched longest first.

    levels: difficulties, from the smallest problem space to the largest.
    neutral: the pieces that never change what the grader reads; all others are decisive.
    draw(level, seed): (problem text, answer) in random order, repeats allowed; ends only if the level is exhausted.
    teacher(seed): the teacher of one seed. teacher(seed)(problem, rng) is one worked solution, right or wrong.
    held_out_one_in: one problem in so many is held out.
    core(text): the part of a problem's text that decides its side of the split.
    part(text): (what a problem's id contains, its subject), for a world of several parts; ("", "") without parts.
    """

    name: str
    title: str
    levels: tuple[int, ...]
    vocabulary: tuple[str, ...]
    neutral: frozenset[str]
    draw: Callable[[int, int], Draws]
    teacher: Callable[[int], Teacher]
    held_out_one_in: int = 10
    core: Callable[[str], str] = whole
    part: Callable[[str], tuple[str, str]] = no_part

    def is_held_out(self, text: str) -> bool:
        """Whether the problem with this text is held out: decided by its core alone."""
        return hash_of(self.core(text)) % self.held_out_one_in == 0


def hash_of(text: str) -> int:
    """The SHA-256 of a text as a number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest())


def derive_seed(*parts) -> int:
    """A 31-bit seed from any parts; neighbouring parts give unrelated seeds."""
    return hash_of(repr(parts)) % 2**31
