"""Where a response ends, and where its thinking ends, counted in tokens."""

from bisect import bisect_left
from collections.abc import Sequence

from evals.grading.answers import THINKING
from evals.sampling.settings import Sample


def sample_of(tokenizer, ids: list[int], finish: str, stop_texts: Sequence[str] = (), opened: bool = False) -> Sample:
    """The sample of the drawn tokens `ids`. It ends before the first of `stop_texts`, the tokens of which count.

    opened: see `ends_in_thinking`, of the prompt.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True)
    found = [(place, place + len(stop)) for stop in stop_texts if (place := text.find(stop)) >= 0]
    if found:
        place, end = min(found)
        text, ids, finish = text[:place], ids[: _tokens_until(tokenizer, ids, end, skip=True)], "stop"
    return Sample(text, len(ids), finish, _thinking_tokens(tokenizer, ids, opened))


def ends_in_thinking(text: str, opened: bool = False) -> bool:
    """Whether `text` ends inside thinking. opened: whether it begins there."""
    tags = list(THINKING.finditer(text))
    return not _closes(tags[-1]) if tags else opened


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends with an opening tag, as those of some chat templates do."""
    tags = list(THINKING.finditer(prompt[-100:].rstrip()))
    return bool(tags) and tags[-1].end() == len(prompt[-100:].rstrip()) and not _closes(tags[-1])


def _closes(tag) -> bool:
    return bool(tag[1] or tag[2])


def _thinking_tokens(tokenizer, ids: list[int], opened: bool) -> int:
    """Tokens up to the last closing tag, with it; all where the thinking is not closed; 0 without thinking."""
    text = tokenizer.decode(ids)  # with special tokens: some models' tags are such
    if ends_in_thinking(text, opened):
        return len(ids)
    tags = list(THINKING.finditer(text))
    return _tokens_until(tokenizer, ids, tags[-1].end(), skip=False) if tags else 0


def _tokens_until(tokenizer, ids: list[int], characters: int, skip: bool) -> int:
    """The number of tokens whose text has so many characters."""
    return bisect_left(
        range(len(ids)), characters, key=lambda count: len(tokenizer.decode(ids[:count], skip_special_tokens=skip))
    )
