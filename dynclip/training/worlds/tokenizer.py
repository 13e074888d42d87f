"""A world's tokenizer, in Hugging Face format, and which of its tokens are neutral."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models

from dynclip.runtime.errors import UserError
from evals.benchmarks.worlds import World

PAD, EOS = "<pad>", "<eos>"


def build_tokenizer(world: World):
    """A tokenizer whose tokens are the world's pieces.

    Encoding splits a text into pieces, longest first. Decoding joins them, so a round trip is exact. Token 0 is PAD,
    which also stands for text outside the vocabulary, token 1 is EOS, and piece i of the vocabulary is token i + 2.
    """
    from transformers import PreTrainedTokenizerFast

    ids = {piece: i for i, piece in enumerate([PAD, EOS, *world.vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=PAD))
    # Pieces are added tokens: beside a Qwen2 model AutoTokenizer keeps these alone and makes the rest Qwen2's own.
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in world.vocabulary])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


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
