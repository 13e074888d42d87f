"""`draws.draw` inside vLLM on a CPU, through its interface for logits processors.

A request is greedy for vLLM and carries how to draw in `extra_args`: the drawn token's logit is raised above the rest.
"""

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from evals.engines.draws import DRAW_KEY, draw, uniform_numbers


class Drawing(LogitsProcessor):
    """Draws the next token of every request whose `extra_args` have DRAW_KEY: (seed, temperature, top_p, top_k).

    The number that decides a token depends on the request's seed and the token's position alone, so that a request that
    vLLM interrupts and computes again draws the same tokens.
    """

    def __init__(self, vllm_config, device, is_pin_memory):
        self.rows: dict[int, tuple] = {}  # place in the batch -> (rule, its numbers, its output tokens so far)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for place in batch_update.removed:
            self.rows.pop(place, None)
        for place, parameters, _, output in batch_update.added:
            self.rows.pop(place, None)
            asked = (parameters.extra_args or {}).get(DRAW_KEY)
            if asked:
                seed, *rule = asked
                self.rows[place] = (tuple(rule), uniform_numbers(seed, parameters.max_tokens), output)
        for start, end, direction in batch_update.moved:
            moving, other = self.rows.pop(start, None), self.rows.pop(end, None)
            if moving:
                self.rows[end] = moving
            if other and direction is MoveDirectionality.SWAP:
                self.rows[start] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for rule in {row[0] for row in self.rows.values()}:
            places = sorted(place for place, row in self.rows.items() if row[0] == rule)
            # A prompt computed in pieces asks for tokens that are thrown away, and may ask beyond the last one.
            numbers = [self.rows[i][1][min(len(self.rows[i][2]), len(self.rows[i][1]) - 1)] for i in places]
            chosen = logits if len(places) == len(logits) else logits[places]  # without a copy where it can be
            logits[places, draw(chosen, torch.tensor(numbers), *rule)] = torch.inf
        return logits
