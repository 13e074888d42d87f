"""A world's tokenizer, in Hugging Face format, and which of its tokens are neutral."""

import re
from collections import defaultdict

from dynclip.runtime.errors import UserError
from evals.benchmarks.worlds import World

PAD, EOS = "<pad>", "<eos>"


def build_tokenizer(world: World):
    """A word-level tokenizer over the world's pieces.

    Encoding splits a text into pieces, longest first. Decoding joins them, so a round trip is exact. Token 0 is PAD,
    which also stands for text outside the vocabulary, token 1 is EOS, and piece i of the vocabulary is token i + 2.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
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


def neutral_mask(tokenizer, world: World):
    """(V,) bool tensor: whether a token is neutral in the world. V is the size of the tokenizer.

    Raises UserError if a neutral piece is not exactly one token of the tokenizer.
    """
    import torch

    mask = torch.zeros(len(tokenizer), dtype=torch.bool)
    for piece in sorted(world.neutral):
        ids = tokenizer(piece, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or tokenizer.decode(ids) != piece:
            raise UserError(
                f"world {world.name}: the neutral piece {piece!r} is {_described(tokenizer, ids)} of this tokenizer, "
                "expected one token of its own; make the base policies again with --forcerun warmup"
            )
        mask[ids[0]] = True
    return mask


def _described(tokenizer, ids: list[int]) -> str:
    unknown = tokenizer.pad_token_id in ids or tokenizer.unk_token_id in ids
    return "no token" if unknown else f"{len(ids)} tokens"
