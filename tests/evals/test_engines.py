"""The transformers engine: order, lengths, reasons, determinism."""

import pytest
import torch

from dynclip.policies import build_model, build_tokenizer
from dynclip.scales import MINIATURE
from evals.engines import Sampling, TransformersEngine

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12)
PROMPTS = ["1+2=", "(4+7)%6=", "9-8=", "3*3="]


@pytest.fixture(scope="module")
def engine():
    tokenizer = build_tokenizer()
    return TransformersEngine(build_model(MINIATURE.policy, tokenizer, 0).eval(), tokenizer, batch_size=6)


def test_n_samples_per_prompt_with_lengths_and_reasons(engine):
    seen = []
    groups = engine.generate(PROMPTS, 3, SAMPLING, 0, lambda *numbers: seen.append(numbers))
    assert [len(group) for group in groups] == [3] * 4
    samples = [sample for group in groups for sample in group]
    assert {sample.finish for sample in samples} <= {"stop", "length"}
    assert all(sample.tokens == 12 for sample in samples if sample.finish == "length")
    assert all(1 <= sample.tokens <= 12 for sample in samples)
    assert [numbers[:2] for numbers in seen] == [(2, 4), (4, 4)]
    assert seen[-1][2] == sum(sample.tokens for sample in samples)


def test_a_seed_fixes_the_samples(engine):
    first, again, other = (engine.generate(PROMPTS, 3, SAMPLING, seed) for seed in (5, 5, 6))
    assert first == again != other


def test_the_end_token_ends_a_sample_and_is_counted():
    tokenizer = build_tokenizer()
    model = build_model(MINIATURE.policy, tokenizer, 0).eval()
    with torch.no_grad():  # whatever comes in, the end token comes out
        model.model.norm.weight.zero_()
        model.model.embed_tokens.weight.zero_()
    bias = torch.zeros(len(tokenizer))
    bias[tokenizer.eos_token_id] = 1e4
    head = model.lm_head
    model.lm_head = type(
        "Head", (torch.nn.Module,), {"forward": lambda self, x: head(x) + bias, "weight": head.weight}
    )()
    groups = TransformersEngine(model, tokenizer).generate(["1+2="], 2, SAMPLING, 0)
    assert [(s.text, s.tokens, s.finish) for s in groups[0]] == [("", 1, "stop")] * 2


def test_the_prompt_of_another_length_does_not_change_a_greedy_answer(engine):
    """Left padding is invisible: at near-zero temperature a prompt alone and in a batch give the same text."""
    cold = Sampling(temperature=1e-4, top_p=1.0, top_k=0, max_tokens=8)
    alone = engine.generate(["1+2="], 1, cold, 0)[0][0]
    batched = engine.generate(["1+2=", "(4+7+9+3)%6="], 1, cold, 0)[0][0]
    assert alone.text == batched.text
