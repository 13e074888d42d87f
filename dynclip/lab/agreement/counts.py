"""Counts of sign agreement over sampled tokens, with intervals that spread over whole sequences."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch

from dynclip.regions import classify

P_EDGES = (0.0, *(10 ** (k / 4) for k in range(-20, 0)), 1.0)  # four bins a decade
H_EDGES = tuple(k / 2 for k in range(22))  # nats
BANDS = {"p < 0.3": (0.0, 0.3), "0.3 ≤ p < 0.7": (0.3, 0.7), "p ≥ 0.7": (0.7, np.inf)}  # the paper's "low" and "high"
RESAMPLES = 2000


@dataclass(frozen=True)
class Tokens:
    """n sampled tokens, float64 arrays of shape (n,): `prob`, `entropy` (nats) of the position, `term` =
    p (ln p + H), `baseline` B; `cluster` holds the number of the unit that is resampled (a state or a prompt);
    `advantage` is NaN where none is known.
    """

    prob: np.ndarray
    entropy: np.ndarray
    term: np.ndarray
    baseline: np.ndarray
    cluster: np.ndarray
    advantage: np.ndarray

    @property
    def tie(self) -> np.ndarray:
        """Where one of the two expressions is exactly zero: these have no sign to compare."""
        return (self.term == 0) | (self.term == self.baseline)

    @property
    def wrong(self) -> np.ndarray:
        """Where the signs of `term` and of `term` − `baseline` are opposite."""
        return (np.sign(self.term) * np.sign(self.term - self.baseline)) < 0


def join(parts: Iterable[Tokens]) -> Tokens:
    """All tokens of `parts`, in order."""
    parts = list(parts)
    return Tokens(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Tokens)))


def ratios(over: np.ndarray, under: np.ndarray, cluster: np.ndarray, seed: int = 0) -> list[list[float | None]]:
    """[Σ over / Σ under, low, high] for each column of `over`, `under` (n, K), None where Σ under is zero.

    The 95 % percentile interval is of RESAMPLES bootstrap draws of whole clusters (n,); a draw without a single token
    of a column is left out of that column's interval.
    """
    names, place = np.unique(cluster, return_inverse=True)
    tops, bottoms = np.zeros((2, len(names), over.shape[1]))
    np.add.at(tops, place, over)
    np.add.at(bottoms, place, under)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (draws @ tops) / (draws @ bottoms)
        found = tops.sum(0) / bottoms.sum(0)
    rows = []
    for column, value in enumerate(found):
        kept = drawn[np.isfinite(drawn[:, column]), column]
        whole = (value, *np.percentile(kept, (2.5, 97.5))) if np.isfinite(value) else ()
        rows.append([round(float(part), 6) for part in whole] or [None] * 3)
    return rows


def summarise(tokens: Tokens) -> dict:
    """The numbers of one source: counts, and means as [value, low, high] (`ratios`).

    `agree` is the share of tokens without a tie whose signs agree, `agree_weighted` the same with weights |exact|,
    `agree_expected` and `agree_surprising` that on either side of the rule, `agree_<band>` that in BANDS; `expected` is
    the share of tokens with surprisal below H. `mean_term` and `mean_exact` average p_a (ln p_a + H) and the same less
    B: under the policy the second has mean zero. Where advantages are known, `agree_E1` ... `agree_E4` are that by
    region, `change_rule` and `change_exact` average −A p_a (ln p_a + H) and −A [p_a (ln p_a + H) − B], and
    `change_baseline` their difference −A B.
    `tokens_<group>` counts the tokens that each `agree_<group>` is a share of.
    """
    counted, expected, exact = ~tokens.tie, tokens.term > 0, tokens.term - tokens.baseline
    every, known = np.ones(len(expected)), ~np.isnan(tokens.advantage)
    advantage = np.nan_to_num(tokens.advantage)
    logprob, entropy = np.log(tokens.prob), tokens.entropy
    region = classify(*map(torch.from_numpy, (logprob, entropy, advantage))).numpy()
    groups = {
        "agree": every,
        "agree_expected": expected,
        "agree_surprising": ~expected,
        **{f"agree_{name}": (tokens.prob >= low) & (tokens.prob < high) for name, (low, high) in BANDS.items()},
        **{f"agree_E{number}": region == number for number in (1, 2, 3, 4) if known.any()},
    }
    columns = {name: (~tokens.wrong * counted * inside, counted * inside) for name, inside in groups.items()}
    columns |= {
        "agree_weighted": (~tokens.wrong * counted * abs(exact), counted * abs(exact)),
        "expected": (expected, every),
        "mean_entropy": (entropy, every),
        "mean_term": (tokens.term, every),
        "mean_exact": (exact, every),
    }
    if known.any():
        columns |= {
            "change_rule": (-advantage * tokens.term, known),
            "change_exact": (-advantage * exact, known),
            "change_baseline": (-advantage * tokens.baseline, known),
        }
    over, under = (np.stack(side, axis=1).astype(float) for side in zip(*columns.values(), strict=True))
    sizes = {"tokens": len(every), "clusters": len(np.unique(tokens.cluster)), "ties": int(tokens.tie.sum())}
    sizes |= {f"tokens_{name.removeprefix('agree_')}": int((counted * inside).sum()) for name, inside in groups.items()}
    return sizes | dict(zip(columns, ratios(over, under, tokens.cluster), strict=True))


def place(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """The bins (of P_EDGES, of H_EDGES) that each token lies in."""
    return tuple(
        np.clip(np.digitize(values, edges) - 1, 0, len(edges) - 2)
        for values, edges in ((tokens.prob, P_EDGES), (tokens.entropy, H_EDGES))
    )


def marginals(tokens: Tokens) -> dict[str, list]:
    """Agreement by bin of p and by bin of H: {"by_p": rows, "by_entropy": rows}, a row being [tokens, value, low, high]
    of the bin with the same index.
    """
    counted, right, found = ~tokens.tie, ~tokens.wrong & ~tokens.tie, {}
    for name, bins, edges in zip(("by_p", "by_entropy"), place(tokens), (P_EDGES, H_EDGES), strict=True):
        inside = bins[:, None] == np.arange(len(edges) - 1)
        under = (inside & counted[:, None]).astype(float)
        rows = ratios(under * right[:, None], under, tokens.cluster)
        found[name] = [[int(n), *row] for n, row in zip(under.sum(0), rows, strict=True)]
    return found


def grid(tokens: Tokens) -> np.ndarray:
    """Tokens without a tie and, of them, the wrong ones by bin: integers (2, bins of p, bins of H)."""
    both, counts = place(tokens), np.zeros((2, len(P_EDGES) - 1, len(H_EDGES) - 1), dtype=int)
    np.add.at(counts[0], both, ~tokens.tie)
    np.add.at(counts[1], both, tokens.wrong)
    return counts


def bins_csv(bins: dict[str, np.ndarray]) -> str:
    """`grid` by source as CSV, bins without a token left out."""
    lines = ["source,p_low,p_high,entropy_low,entropy_high,tokens,wrong"]
    for name, (counts, wrong) in bins.items():
        for i, j in np.argwhere(counts):
            edges = f"{P_EDGES[i]:.6g},{P_EDGES[i + 1]:.6g},{H_EDGES[j]:g},{H_EDGES[j + 1]:g}"
            lines.append(f'"{name}",{edges},{counts[i, j]},{wrong[i, j]}')
    return "\n".join(lines) + "\n"
