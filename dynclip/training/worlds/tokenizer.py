"""A world's tokenizer, in Hugging Face format, and which of its tokens are neutral."""

from dynclip.runtime.errors import UserError
from evals.benchmarks.worlds import World

PAD, EOS = "<pad>", "<eos>"


def build_tokenizer(world: World):
    """A tokenizer whose tokens are the world's pieces.

    Encoding splits a text into pieces, longest first. Decoding joins them, so a round trip is exact. Token 0 is PAD,
    which also stands for text outside the vocabulary, token 1 is EOS, and piece i of the vocabulary is token i + 2.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
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


def neutral_mask(tokenizer, world: World):
    """(V,) bool tensor: whether a token is neutral in the world. V is the size of the tokenizer.

    Raises UserError if a neutral piece is not exactly one token of the tokenizer.
    """
    import torch

    mask = torch.zeros(len(tokenizer), dtype=torch.bool)
    for piece in sorted(world.neutral):
        ids = tokenizer(piece, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or tokenizer.decode(ids) != piece:
            count = f"{len(ids)} tokens" if len(ids) > 1 and tokenizer.decode(ids) == piece else "no token"
            raise UserError(
                f"world {world.name}: the neutral piece {piece!r} is {count} of this tokenizer, expected one token of "
                "its own; make the base policies again with --forcerun warmup"
            )
        mask[ids[0]] = True
    return mask
