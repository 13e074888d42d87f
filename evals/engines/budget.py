"""A limit to the thinking of a response: what is not closed by then is closed, and the answer follows."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from evals.engines.endings import ends_in_thinking, opens_thinking
from evals.engines.engine import Engine, derived_seed
from evals.sampling.settings import Chunk, Sample

CLOSING = "\n</think>\n\n"  # not drawn by the model, so its tokens are not counted
TOGETHER = 256  # samples whose first parts are drawn before their second parts


class BudgetEngine(Engine):
    """`engine`, with `Sampling.thinking_budget`: a response is drawn in two requests.

    The first draws as many tokens as the budget. The second continues, as text, whatever has not ended by then; where
    the thinking is open, after CLOSING.
    """

    def __init__(self, engine: Engine):
        self.engine, self.tokenizer, self.seeds_each = engine, engine.tokenizer, engine.seeds_each
        self.name = engine.name

    def guarantees(self) -> dict:
        return self.engine.guarantees() | {"continues": False}

    def kept(self) -> dict:
        return self.engine.kept() | {"continues": False}

    def close(self) -> None:
        self.engine.close()

    def stream(
        self, prompts, n, sampling, seed, first=0, state=b"", special_tokens=True, stop_texts=()
    ) -> Iterator[Chunk]:
        budget = min(sampling.thinking_budget, sampling.max_tokens)
        rest, reading = sampling.max_tokens - budget, {"special_tokens": special_tokens, "stop_texts": stop_texts}
        size = max(1, TOGETHER // n)
        for start in range(0, len(prompts), size):
            chosen = prompts[start : start + size]
            own = seed if self.seeds_each or not start else derived_seed(seed, first, "from", start)
            groups: dict[int, list[Sample]] = {}
            for chunk in self.engine.stream(chosen, n, replace(sampling, max_tokens=budget), own, first, **reading):
                groups |= zip(chunk.positions, chunk.samples, strict=True)
            # Equal texts are one prompt, so that their continuations are different draws.
            places = defaultdict(list)
            for i, group in groups.items():
                for j, sample in enumerate(group):
                    if sample.finish == "length" and sample.tokens == budget and rest:
                        opened = ends_in_thinking(sample.text, opens_thinking(chosen[i]))
                        places[i, sample.text.rstrip("\ufffd") + (CLOSING if opened else "")].append((i, j))
            for count in sorted({len(each) for each in places.values()}):
                texts = [key for key, each in places.items() if len(each) == count]
                again = derived_seed(seed, first, "rest", start, count)
                more = [chosen[i] + text for i, text in texts]
                for chunk in self.engine.stream(more, count, replace(sampling, max_tokens=rest), again, **reading):
                    for place, group in zip(chunk.positions, chunk.samples, strict=True):
                        for (i, j), sample in zip(places[texts[place]], group, strict=True):
                            groups[i][j] = _joined(groups[i][j], texts[place][1], sample)
            yield Chunk(list(range(start, start + len(chosen))), [groups[i] for i in range(len(chosen))])


def _joined(first: Sample, text: str, second: Sample) -> Sample:
    """The sample of two requests. `text`: that of the first, as the second one continued it."""
    if second.finish == "overflow":  # the first has filled the model's context
        return first
    thinking = first.tokens + second.thinking_tokens if second.thinking_tokens else first.thinking_tokens
    return Sample(text + second.text, first.tokens + second.tokens, second.finish, thinking)
