"""The tokenizers of the worlds: exact, one token a piece, and a mask that fits them or says why not."""

import random
from dataclasses import replace

import pytest
from transformers import AutoTokenizer, Qwen2Config

from dynclip.runtime.errors import UserError
from dynclip.training.worlds.tokenizer import EOS, PAD, build_tokenizer, neutral_mask
from evals.benchmarks.worlds import WORLDS, generate

names = pytest.mark.parametrize("name", WORLDS)


@names
def test_every_problem_and_trace_survives_a_round_trip(name, tmp_path):
    tokenizer, rng, teach = build_tokenizer(WORLDS[name]), random.Random(0), WORLDS[name].teacher(1)
    tokenizer.save_pretrained(tmp_path)
    Qwen2Config(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == len(tokenizer) and loaded.all_special_ids == tokenizer.all_special_ids
    for problem in generate(name, 300, 1, held_out=False):
        text = problem.problem + teach(problem, rng)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text and 0 not in ids
        assert loaded(text)["input_ids"] == ids and loaded.decode(ids, skip_special_tokens=True) == text
        # The end of a prompt is the end of a token.
        prompt = tokenizer(problem.problem)["input_ids"]
        assert ids[: len(prompt)] == prompt


@names
def test_every_piece_is_one_token_in_the_order_of_the_vocabulary(name):
    tokenizer = build_tokenizer(WORLDS[name])
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, EOS)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (0, 1, "left")
    assert len(tokenizer) == len(WORLDS[name].vocabulary) + 2
    for i, piece in enumerate(WORLDS[name].vocabulary, start=2):
        assert tokenizer(piece)["input_ids"] == [i] and tokenizer.decode([i]) == piece
    assert tokenizer(f"{WORLDS[name].vocabulary[0]}{EOS}")["input_ids"] == [2, 1]


@names
def test_responses_and_prompts_are_short(name):
    tokenizer, rng, teach = build_tokenizer(WORLDS[name]), random.Random(0), WORLDS[name].teacher(1)
    rows = generate(name, 300, 2, held_out=True)
    prompts = [len(ids) for ids in tokenizer([p.problem for p in rows])["input_ids"]]
    responses = [len(ids) for ids in tokenizer([teach(p, rng) for p in rows])["input_ids"]]
    assert set(prompts) == {{"paths": 4, "facts": 6, "worded": 17}[name]}  # nothing to pad
    assert max(responses) == {"paths": 7, "facts": 4, "worded": 12}[name]


def test_the_mask_marks_the_neutral_pieces_and_no_others():
    world = WORLDS["worded"]
    tokenizer = build_tokenizer(world)
    mask = neutral_mask(tokenizer.backend_tokenizer, world)
    assert mask.shape == (len(tokenizer),)
    assert {tokenizer.decode([i]) for i in mask.nonzero().flatten().tolist()} == world.neutral
    assert not neutral_mask(build_tokenizer(WORLDS["facts"]).backend_tokenizer, WORLDS["facts"]).any()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"neutral": frozenset({"so then "})},
            "the neutral piece 'so then ' is no token of this tokenizer, which splits it into",
        ),
        ({"neutral": frozenset({"whence "})}, "the neutral piece 'whence ' is no token of this tokenizer"),
    ],
)
def test_a_lexicon_that_does_not_fit_the_tokenizer_is_one_line(changes, text):
    tokenizer = build_tokenizer(WORLDS["worded"])
    with pytest.raises(UserError, match=text) as error:
        neutral_mask(tokenizer.backend_tokenizer, replace(WORLDS["worded"], **changes))
    assert "\n" not in str(error.value) and "--forcerun warmup" in str(error.value)
    with pytest.raises(UserError, match="world worded: the neutral piece 'Adam ' is no token"):
        neutral_mask(build_tokenizer(WORLDS["facts"]).backend_tokenizer, WORLDS["worded"])
