"""The draw of a token against transformers' own warpers and against vLLM's filter, and its numbers."""

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from evals.engines.draws import draw, uniform_numbers

RULES = [(1.0, 1.0, 0), (0.7, 0.8, 20), (0.7, 1.0, 5), (1.3, 0.9, 0), (0.5, 0.3, 50), (1.0, 0.01, 0), (2.0, 0.95, 1)]


def peers_probability(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    scores = TemperatureLogitsWarper(temperature)(None, logits) if temperature != 1 else logits
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
    scores = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
    return scores.softmax(-1)


@pytest.mark.parametrize("rule", RULES)
def test_every_token_is_drawn_as_often_as_transformers_would(rule):
    torch.manual_seed(1)
    grid = (torch.arange(4000) + 0.5) / 4000  # the whole of [0, 1), so that shares are exact to 1/4000 a token
    for row in 3 * torch.randn(4, 60):
        drawn = draw(row.expand(len(grid), -1), grid, *rule)
        shares = torch.bincount(drawn, minlength=60) / len(grid)
        assert (shares - peers_probability(row[None], *rule)[0]).abs().max() < 2 / len(grid)


@pytest.mark.parametrize("rule", RULES)
def test_candidates_are_those_of_vllm(rule):
    sampler = pytest.importorskip("vllm.v1.sample.ops.topk_topp_sampler")
    temperature, top_p, top_k = rule
    torch.manual_seed(2)
    logits = 3 * torch.randn(8, 60)
    kept = sampler.apply_top_k_top_p_pytorch(
        logits.clone() / temperature, torch.full((8,), top_k or 60), torch.full((8,), top_p)
    ).isfinite()
    grid = (torch.arange(20_000) + 0.5) / 20_000
    for row, mask in zip(logits, kept, strict=True):
        drawn = torch.zeros(60, dtype=torch.bool)
        drawn[draw(row.expand(len(grid), -1), grid, *rule)] = True
        rare = row.softmax(-1) < 1e-3
        assert not (drawn & ~mask).any() and not (mask & ~drawn & ~rare).any()


def test_the_ends_of_the_unit_interval_draw_a_possible_token():
    logits = torch.full((2, 50_000), -torch.inf)
    logits[:, 7], logits[:, 9] = 1.0, 0.0
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, ends, 1.0, 1.0, 0).tolist() == [7, 9]
    assert draw(logits, ends, 1.0, 0.9, 20).tolist() == [7, 9]
    assert draw(logits, ends, 1.0, 1e-9, 0).tolist() == [7, 7]  # at least one is always kept


def test_the_likeliest_token_needs_no_draw():
    with pytest.raises(ValueError, match="temperature: expected a number above 0, given 0"):
        draw(torch.zeros(1, 3), torch.zeros(1), 0, 1.0, 0)


def test_numbers_belong_to_a_seed_and_a_position():
    assert np.array_equal(uniform_numbers(5, 100)[:10], uniform_numbers(5, 10))
    assert len(np.unique(np.concatenate([uniform_numbers(seed, 100) for seed in (5, 6, 7)]))) == 300


def test_vllm_rows_follow_their_requests_as_places_change():
    """Added, moved, swapped, removed: each request keeps its own numbers, by position, whatever its place."""
    processing = pytest.importorskip("vllm.v1.sample.logits_processor")
    from vllm import SamplingParams

    from evals.engines.draws import DRAW_KEY
    from evals.engines.vllm_draws import Drawing

    def request(seed):
        return SamplingParams(temperature=0.0, max_tokens=10, extra_args={DRAW_KEY: (seed, 1.0, 1.0, 0)})

    def change(removed=(), added=(), moved=()):
        return processing.BatchUpdate(batch_size=4, removed=removed, added=added, moved=moved)

    def tokens(rows):
        return rows.apply(torch.zeros(4, 1000)).argmax(-1).tolist()

    def expected(seed, position):
        return int(uniform_numbers(seed, 10)[position] * 1000)

    rows, outputs = Drawing(None, None, False), [[], [], []]
    added = [(place, request(seed), [], outputs[place]) for place, seed in enumerate((11, 12, 13))]
    rows.update_state(change(added=[*added, (3, SamplingParams(temperature=0.0), [], [])]))
    assert tokens(rows)[:3] == [expected(11, 0), expected(12, 0), expected(13, 0)]
    assert tokens(rows)[3] == 0  # a greedy request is left as it is
    for output in outputs:
        output.append(1)
    rows.update_state(change(removed=[0], moved=[(2, 0, processing.MoveDirectionality.UNIDIRECTIONAL)]))
    assert tokens(rows)[:2] == [expected(13, 1), expected(12, 1)]
    rows.update_state(change(moved=[(0, 1, processing.MoveDirectionality.SWAP)]))
    assert tokens(rows)[:2] == [expected(12, 1), expected(13, 1)]
