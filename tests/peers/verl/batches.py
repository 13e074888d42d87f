"""Random mini-batches, verl's configuration of an actor, and losses of both sides on one batch."""

import contextlib

import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from dynclip.methods.registry import method
from dynclip.methods.types import TokenBatch
from dynclip.verl import losses as adapter

AGGREGATION = {"token-mean": "token", "seq-mean-token-mean": "sequence", "seq-mean-token-sum-norm": "fixed"}
STEPS = 10


def random_batch(seed: int, spread: float = 0.4, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """A mini-batch with right padding (garbage inside), every sign of A, and ratios that leave [0.8, 1.28] often."""
    draw = torch.Generator().manual_seed(seed)
    rows, width = (int(torch.randint(2, 7, (), generator=draw)), int(torch.randint(3, 25, (), generator=draw)))
    lengths = torch.randint(1, width + 1, (rows,), generator=draw)
    mask = torch.arange(width) < lengths.unsqueeze(1)
    old = -torch.empty(rows, width, dtype=dtype).exponential_(1.0, generator=draw) - 1e-3
    new = old + spread * torch.randn(rows, width, dtype=dtype, generator=draw)
    advantages = torch.randn(rows, 1, dtype=dtype, generator=draw).expand(rows, width).clone()
    advantages[0] = -advantages[1]  # both signs in every batch
    advantages[torch.rand(rows, width, generator=draw) < 0.05] = 0.0
    entropy = torch.empty(rows, width, dtype=dtype).exponential_(1.0, generator=draw)
    new = new.masked_fill(~mask, -7.0)
    return {"old": old, "new": new, "advantages": advantages, "mask": mask, "entropy": entropy}


def actor_config(**settings) -> FSDPActorConfig:
    """verl's actor configuration with its own defaults, changed by `settings`; `policy_loss` is a dict."""
    policy_loss = adapter.PolicyLossConfig(**settings.pop("policy_loss", {}))
    return FSDPActorConfig(
        strategy="fsdp", rollout_n=8, ppo_micro_batch_size_per_gpu=1, policy_loss=policy_loss, **settings
    )


def verl_loss(mode: str, batch: dict, aggregation: str, weights=None, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, its gradient with respect to the current log-probabilities) of verl's registered policy loss `mode`."""
    config = actor_config(**settings)
    logprob = batch["new"].clone().requires_grad_()
    loss, _ = get_policy_loss_fn(mode)(
        old_log_prob=batch["old"],
        log_prob=logprob,
        advantages=batch["advantages"],
        response_mask=batch["mask"],
        loss_agg_mode=aggregation,
        config=config,
        rollout_is_weights=weights,
    )
    loss.backward()
    return loss.detach(), logprob.grad


def core_loss(name: str, batch: dict, aggregation: str, dual_clip=None, seed=0, **options):
    """(loss, gradient) of dynclip's own `Method.loss`, without any of verl."""
    logprob = batch["new"].clone().requires_grad_()
    tokens = TokenBatch(
        logprob, batch["old"], batch["advantages"], batch["mask"], entropy=batch["entropy"].clone().requires_grad_(),
        draw_seed=seed,
    )  # fmt: skip
    output = method(name, STEPS, **options).loss(
        tokens, step=3, aggregation=AGGREGATION[aggregation], dual_clip=dual_clip
    )
    output.loss.backward()
    return output.loss.detach(), logprob.grad


@contextlib.contextmanager
def context(step=3, total_steps=STEPS, state=None, prepared=False, draw_seed=0, **tensors):
    """The context that the wrapped `ppo_loss` sets, set by hand."""
    token = adapter._context.set(adapter.Context(step, total_steps, state, prepared, draw_seed, **tensors))
    try:
        yield
    finally:
        adapter._context.reset(token)


def report(record_property, method: str, batches: int, differences: list[tuple[float, float]]) -> float:
    """The largest of (loss, gradient) differences, written into pytest's report for `docs.generate.peers_table`."""
    loss, gradient = map(max, zip(*differences, strict=True))
    for name, value in {"method": method, "batches": batches, "loss": loss, "gradient": gradient}.items():
        record_property(name, value)
    return max(loss, gradient)


def gaps(one, other) -> tuple[float, float]:
    """Differences of the losses and of the gradients of two (loss, gradient, …) tuples."""
    return difference(one[:1], other[:1]), difference(one[1:], other[1:])


def difference(one, other) -> float:
    """The largest absolute difference of two (loss, gradient) pairs, which must hold numbers."""
    gaps = torch.cat([(a - b).abs().flatten() for a, b in zip(one, other, strict=True)])
    assert gaps.isfinite().all()
    return float(gaps.max())
