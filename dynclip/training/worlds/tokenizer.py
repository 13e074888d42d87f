"""A world's tokenizer, in Hugging Face format, and which of its tokens are neutral."""

import re
from collections import defaultdict

import torch
from tokenizers import Tokenizer

from dynclip.runtime.errors import UserError
from evals.benchmarks.worlds import World

PAD, EOS = "<pad>", "<eos>"


def build_tokenizer(world: World):
    """A word-level tokenizer over the world's pieces.

    Encoding splits a text into pieces, longest first. Decoding joins them, so a round trip is exact. Token 0 is PAD,
    which also stands for text outside the vocabulary, token 1 is EOS, and piece i of the vocabulary is token i + 2.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {piece: i for i, piece in enumerate([PAD, EOS, *world.vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_pattern(world.vocabulary)), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _pattern(vocabulary: tuple[str, ...]) -> str:
    """A regular expression for the longest piece at a place. Pieces are grouped by their first character for speed."""
    rests = defaultdict(list)
    for piece in sorted(vocabulary, key=len, reverse=True):
        rests[piece[0]].append(re.escape(piece[1:]))
    return "|".join(f"{re.escape(first)}(?:{'|'.join(group)})" for first, group in rests.items())


def neutral_mask(tokenizer: Tokenizer, world: World) -> torch.Tensor:
    """(V,) bool: whether a token is neutral in the world. `tokenizer` is of the `tokenizers` package, V its size.

    Raises UserError if a neutral piece is not exactly one token of the tokenizer.
    """
    ids = tokenizer.get_vocab()
    mask = torch.zeros(len(ids), dtype=torch.bool)
    for piece in sorted(world.neutral):
        found = tokenizer.encode(piece, add_special_tokens=False).tokens
        if found != [piece]:
            raise UserError(
                f"world {world.name}: the neutral piece {piece!r} is no token of this tokenizer, which splits it into "
                f"{found}; make the base policies again with --forcerun warmup"
            )
        mask[ids[piece]] = True
    return mask
