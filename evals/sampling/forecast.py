"""How long the rest of an evaluation takes, from what its own responses show so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TYPICAL_TOKENS = 500  # of a worked answer: what is believed before responses have ended; few reach the limit
HALF_RATE = 40  # responses at the same time that make half of the tokens a second of a full batch (docs/evaluation.md)


@dataclass(frozen=True)
class Forecast:
    """What is known of a running evaluation.

    wanted: samples to draw. limit: the most tokens of one. ended: tokens of each sample that has ended. running: tokens
    so far of each sample that has not. seconds: since the beginning.
    """

    wanted: int
    limit: int
    ended: Sequence[int]
    running: Sequence[int]
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second, those of running responses included."""
        return (sum(self.ended) + sum(self.running)) / max(self.seconds, 1e-9)

    def left(self) -> tuple[float, float]:
        """Seconds that the rest takes, low and high."""
        rest = self.wanted - len(self.ended)
        if rest <= 0 or not self.rate:
            return 0.0, 0.0
        # A step makes one token of every running response. It takes as long as HALF_RATE tokens and those together.
        batch = max(1, len(self.running))
        made = sum(self.ended) + sum(self.running)
        steps = max(made / batch, max(self.running, default=0), max(self.ended, default=0))
        pace = self.seconds / (made + HALF_RATE * steps)
        fresh = rest - len(self.running)
        found = [
            pace * (tokens + HALF_RATE * ((tokens / batch if fresh else 0) + longest))
            for tokens, longest in self.tokens_left(fresh)
        ]
        return min(found), max(found)

    def tokens_left(self, fresh: int) -> list[tuple[float, float]]:
        """(tokens of all that is left, tokens of the longest response of it), low and high.

        fresh: samples that have not begun. The share of responses longer than t is Kaplan and Meier's estimate (1958),
        since running ones are only known to be longer than they are. Beyond the longest so far, responses end at the
        rate a token of the upper quarter of the observed range, give or take two standard errors; in the low estimate
        within TYPICAL_TOKENS while fewer than one in twenty have ended.
        """
        ended, running = np.sort(np.array(self.ended, dtype=float)), np.sort(np.array(self.running, dtype=float))
        # Running ones a little further: the first response that ends may be the farthest, and is not the last of all.
        seen = np.sort(np.concatenate([ended, 1.05 * running + 1]))
        stops, counts = np.unique(ended[ended < self.limit], return_counts=True)
        shares = np.cumprod(1 - counts / (len(seen) - np.searchsorted(seen, stops)))
        farthest, span = seen[-1], max(0.0, self.limit - seen[-1])
        begins, shares = np.concatenate([[0.0], stops]), np.concatenate([[1.0], shares])  # the share from each time on
        areas = shares * np.diff(np.concatenate([begins, [farthest]]))
        after = np.concatenate([np.cumsum(areas[::-1])[::-1], [0.0]])  # from each time to the farthest

        exposure = np.sum(np.clip(seen - 0.75 * farthest, 0, None)) or 1.0
        recent = np.sum(counts[stops > 0.75 * farthest])
        error = 2 * math.sqrt(recent)
        beyond = [_mean(hazard / exposure, span) for hazard in (recent + error + 1, max(recent - error, 0.25))]
        if counts.sum() < 0.05 * len(seen):
            beyond[0] = min(beyond[0], max(TYPICAL_TOKENS - farthest, farthest / 4))

        place = np.searchsorted(begins, running, side="right") - 1
        share = np.maximum(shares[place], 1e-9)
        known = (after[place] - shares[place] * (running - begins[place])) / share
        found = []
        for mean in beyond:
            tokens = np.sum(known + mean * shares[-1] / share) + fresh * (after[0] + mean * shares[-1])
            tail = shares[-1] * (fresh + np.sum(1 / share))  # how many are expected to run beyond the farthest
            end = min(span, mean * (1 + math.log(max(1.0, tail)))) + farthest if tail > 0.5 else farthest
            begun = 0.0 if fresh else running[0] if len(running) else 0.0
            found.append((float(tokens), float(max(0.0, end - begun))))
        return found


def _mean(hazard: float, span: float) -> float:
    """The mean of what ends at a constant rate, or after `span`."""
    return -math.expm1(-hazard * span) / hazard
