"""The policy that samples in the loop where it is not the one that trains: stale weights, other numbers, correction.

An asynchronous trainer samples with weights from some rollout steps ago (`Scale.staleness`). An inference engine
computes in another precision than the trainer (`Scale.mismatch`). `Scale.correction` says what the loss does about the
difference, with μ the policy that sampled and q the trainer's policy before the updates of the step:

    ratio      old log-probabilities are μ's, so the bounds count the difference as well
    truncated  old log-probabilities are q's, and each token's loss is weighted by min(q/μ, 2), without gradient
    none       old log-probabilities are q's, as if μ were q

`truncated` is truncated importance sampling with the cap of `dynclip.training.trl_run.config.sampler_options`.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from dynclip.studies.scales import Scale
from dynclip.training.worlds.draws import generator, normal
from dynclip.training.worlds.networks import Weights
from dynclip.training.worlds.tasks import Rollout

CAP = 2.0  # of the weight q/μ
STREAM = 3  # of the random numbers that perturb weights; the other streams of a step are 0 to 2


def is_on_policy(scale: Scale) -> bool:
    """Whether the policy that samples is the one that trains."""
    return scale.staleness == 0 and scale.mismatch == "none"


def described(scale: Scale) -> str:
    """The sampler in the protocol of a run."""
    if is_on_policy(scale):
        return "the policy that trains"
    return f"{scale.staleness} rollout steps old, mismatch {scale.mismatch}, correction {scale.correction}"


class Sampler:
    """Gives the weights that sample. `past`: those of up to `staleness` earlier rollout steps, the oldest first."""

    def __init__(self, scale: Scale, seeds: Sequence[int]):
        self.scale, self.seeds = scale, tuple(seeds)
        self.past: list[Weights] = []

    def weights(self, current: Weights, step: int) -> Weights:
        """The weights that sample rollout step `step`. To be called once a step, with the trainer's weights.

        In the first `staleness` steps they are those of step 0.
        """
        if is_on_policy(self.scale):
            return current
        chosen = current
        if self.scale.staleness:
            self.past.append({name: value.detach().clone() for name, value in current.items()})
            chosen = self.past[0]
            self.past = self.past[-self.scale.staleness :]
        if self.scale.mismatch == "none":
            return chosen
        if self.scale.mismatch == "bfloat16":
            return {name: value.bfloat16() for name, value in chosen.items()}
        return self.perturbed(chosen, step, float(self.scale.mismatch))

    def perturbed(self, weights: Weights, step: int, deviation: float) -> Weights:
        """Each weight times 1 + `deviation` · N(0, 1), drawn anew for every seed and step."""
        sources = [generator(seed, step, STREAM) for seed in self.seeds]
        noise = {
            name: torch.stack([normal(value.shape[1:], source) for source in sources])
            for name, value in weights.items()
        }
        return {name: value * (1 + deviation * noise[name]) for name, value in weights.items()}


def corrected(
    rollout: Rollout, own: Sequence[torch.Tensor], correction: str
) -> tuple[Rollout, torch.Tensor | None, dict[str, torch.Tensor]]:
    """What the loss takes for the old policy: (rollout with its logits, weights (R, B, T) or None, metrics (R,)).

    `own`: the trainer's T logits (R, B, V) of the tokens of `rollout`.
    """
    mask = rollout.mask
    sampler, trainer = (logprobs(logits, rollout.tokens) for logits in (rollout.logits, own))
    apart = (trainer - sampler).masked_fill(~mask, 0.0)
    counted = mask.sum((1, 2)).clamp(min=1)
    metrics = {
        "sampler/logprob_difference_mean": apart.abs().sum((1, 2)) / counted,
        "sampler/logprob_difference_max": apart.abs().amax((1, 2)),
    }
    if correction == "ratio":
        return rollout, None, metrics
    rollout = replace(rollout, logits=own)
    if correction == "none":
        return rollout, None, metrics
    ratio = apart.exp()
    metrics["sampler/capped_fraction"] = ((ratio > CAP) & mask).sum((1, 2)) / counted
    return rollout, ratio.clamp(max=CAP), metrics


def logprobs(logits: Sequence[torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (R, B, T) of `tokens` (R, B, T) under T `logits` (R, B, V)."""
    places = zip(logits, tokens.unbind(-1), strict=True)
    return torch.stack(
        [torch.log_softmax(each, -1).gather(-1, token.unsqueeze(-1)).squeeze(-1) for each, token in places], -1
    )
