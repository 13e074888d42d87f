"""GRPO from top to bottom: R seeds of an arm side by side, each with its own policy, controller and random numbers.

    for each rollout step k:
        sample completions, grade them                    sampler.weights, task.rollout
        advantages of each group                          advantages
        log-probabilities of the sampling policy          read
        the method's controller and token weights         observe, prepare
        minibatches x epochs updates                      update: Method.loss -> gradient clip of each seed -> AdamW
        a row of metrics for each seed

Every tensor has the seeds in its first dimension: weights (R, ...), tokens (R, B, T). The loss is a sum over seeds, so
that each gets the gradient of its own loss. A loss is aggregated as TRL does it (docs/peers.md): "token" divides the
sum over a mini-batch by the counted tokens of the whole rollout batch over the number of mini-batches.
"""

import math
import time
from collections.abc import Sequence

import torch

from dynclip.methods.objective import Method
from dynclip.methods.spec import separable
from dynclip.methods.types import TokenBatch
from dynclip.runtime.errors import UserError
from dynclip.runtime.seeds import derive_seed
from dynclip.studies.scales import Scale
from dynclip.training.worlds.draws import permutation
from dynclip.training.worlds.measure import describe, finish_rows, mean
from dynclip.training.worlds.networks import Weights, gradient_norms
from dynclip.training.worlds.sampler import Sampler, corrected, is_on_policy
from dynclip.training.worlds.tasks import LanguageTask, PathTask, Rollout

RATIO_LIMIT, SKIPS_IN_A_ROW, MAX_NORM = 1e4, 3, 1.0  # as in dynclip.trl.skipping; the norm of a seed's gradient


class Loop:
    """The training of one arm. `methods`: one `Method` per seed. `weights` (R, ...) are changed in place."""

    def __init__(
        self,
        scale: Scale,
        methods: Sequence[Method],
        seeds: Sequence[int],
        task: LanguageTask | PathTask,
        weights: Weights,
    ):
        self.scale, self.methods, self.seeds, self.task = scale, list(methods), tuple(seeds), task
        self.weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
        settings = {"lr": scale.learning_rate, "weight_decay": scale.weight_decay}
        self.sampler = Sampler(scale, seeds)
        self.optimizer = torch.optim.AdamW(self.weights.values(), **settings, fused=True)
        self.done = 0  # rollout steps
        self.tokens = [0] * len(self.seeds)  # sampled so far
        self.skips = [0] * len(self.seeds)  # in a row

    def step(self) -> list[dict]:
        """Do one rollout step. Returns a row of metrics for each seed; all names are in docs/metrics.md."""
        k, began = self.done, time.perf_counter()
        with torch.no_grad():
            rollout, correction, apart = self.sample(k)
            batch = self.prepare(rollout, k, correction)
        rows = describe(self, rollout, batch, apart)
        sampled = time.perf_counter()
        logs: list[list[dict[str, float]]] = []  # of each update, of each seed
        order = shuffle(self.seeds, k, rollout.tokens.shape[1])
        batch, inputs = take(batch, order), take(rollout.inputs, order)
        size = rollout.tokens.shape[1] // self.scale.minibatches
        for update in range(self.scale.updates_per_rollout):
            number = update % self.scale.minibatches
            cut = slice(number * size, (number + 1) * size)
            logs.append(self.update(part_of(batch, cut), part_of(inputs, cut), k, update))
        with torch.no_grad():  # a mini-batch is enough for the change of the means
            late = self.evaluate(part_of(inputs, slice(size)), batch["tokens"][:, :size])
        finish_rows(rows, zip(*logs, strict=True), part_of(batch, slice(size)), late)
        whole = time.perf_counter() - began
        for row in rows:
            row |= {"time/rollout": sampled - began, "time/update": whole - (sampled - began), "time/step": whole}
        self.done += 1
        return rows

    def sample(self, k: int) -> tuple[Rollout, torch.Tensor | None, dict[str, torch.Tensor]]:
        """The rollout of step `k`, with the logits of the policy that the loss takes for the old one.

        Also the weights (R, B, T) that correct for another sampler, or None, and metrics (R,) of the difference.
        """
        rollout = self.task.rollout(self.sampler.weights(self.weights, k), k)
        if is_on_policy(self.scale):
            return rollout, None, {}
        own = self.task.network.logits(self.weights, rollout.inputs).unbind(2)
        return corrected(rollout, own, self.scale.correction)

    def prepare(self, rollout: Rollout, k: int, correction: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """What the losses of step `k` need, (R, B, ...): advantages, old log-probabilities, weights and the like.

        `correction`: factors (R, B, T) of the token losses beside the method's own.
        Every seed's controller observes the mean entropy of its own tokens. Methods that decide something once per
        rollout batch do it here, seed by seed.
        """
        method, batch = self.methods[0], {"tokens": rollout.tokens, "mask": rollout.mask}
        if self.task.neutral is not None:
            batch["neutral"] = self.task.neutral[rollout.tokens] & rollout.mask
        batch["advantages"], batch["success"] = advantages(rollout.rewards, self.scale.group_size)
        # Place by place: the logits of a whole rollout batch exceed a CPU's cache.
        places = [self.read(*each) for each in zip(rollout.logits, rollout.tokens.unbind(-1), strict=True)]
        batch |= {f"old_{name}": torch.stack([each[name] for each in places], -1) for name in places[0]}
        reduced = batch.pop("old_reduced", None)
        observed = batch["old_entropy"] if method.spec.observes == "entropy" else reduced
        for each, entropy in zip(self.methods, mean(observed, rollout.mask).tolist(), strict=True):
            each.observe(k, entropy)
        prepared = []
        for r, each in enumerate(self.methods):
            sampled = TokenBatch(
                logprob=batch["old_logprob"][r],
                old_logprob=batch["old_logprob"][r],
                advantages=batch["advantages"][r],
                mask=rollout.mask[r],
                old_entropy=batch["old_entropy"][r],
                old_baseline=reduced[r] if "old_baseline" in method.needs else None,
                success=batch["success"][r],
                group=torch.arange(len(rollout.mask[r])) // self.scale.group_size,
            )
            prepared.append(each.prepare(sampled, k))
        batch["advantages"] = torch.stack([each.advantages for each in prepared])
        if prepared[0].weight is not None:
            batch["weight"] = torch.stack([each.weight for each in prepared])
        if correction is not None:
            batch["weight"] = batch.get("weight", 1.0) * correction
        batch["denominator"] = rollout.mask.sum((1, 2)).clamp(min=1) / self.scale.minibatches
        return batch

    def evaluate(self, inputs: dict, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `read` returns of the present policy."""
        return self.read(self.task.network.logits(self.weights, inputs), tokens)

    def read(self, logits: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """`logprob` and `entropy` (...) of `tokens` (...), and `reduced` where the method reduces full logits."""
        method, logprob = self.methods[0], torch.log_softmax(logits, -1)
        found = {"logprob": logprob.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)}
        with torch.set_grad_enabled(torch.is_grad_enabled() and "entropy_gradient" in method.needs):
            found["entropy"] = -(logprob.exp() * logprob).sum(-1)
        if method.spec.reduction:
            found["reduced"] = method.reduction(logits)
        return found

    def update(self, batch: dict, inputs: dict, k: int, update: int) -> list[dict[str, float]]:
        """One optimizer step on a mini-batch (R, b, T). Returns each seed's measurements."""
        rate = self.set_rate(k * self.scale.updates_per_rollout + update)
        now = self.evaluate(inputs, batch["tokens"])
        losses, metrics = self.losses(batch, now, k, update)
        gradients = torch.autograd.grad(losses.sum(), list(self.weights.values()))
        norms = gradient_norms(gradients)
        factor = (MAX_NORM / (norms + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        for value, gradient in zip(self.weights.values(), gradients, strict=True):
            # The fused AdamW misreads gradients with other strides than the weights, without an error.
            value.grad = (gradient * factor.view(-1, *[1] * (gradient.dim() - 1))).contiguous()
        harmful = [values.pop("live_ratio") > RATIO_LIMIT for values in metrics]
        skipped = [bad or not math.isfinite(norm) for bad, norm in zip(harmful, norms.tolist(), strict=True)]
        self.descend(skipped, k)
        for values, loss, norm, bad in zip(metrics, losses.tolist(), norms.tolist(), skipped, strict=True):
            values |= {"train/loss": loss, "train/grad_norm": norm, "train/lr": rate, "train/skipped": float(bad)}
        return metrics

    def losses(self, batch: dict, now: dict, k: int, update: int) -> tuple[torch.Tensor, list[dict[str, float]]]:
        """Losses (R,) of a mini-batch, and the seeds' metrics.

        One call serves all seeds, or one seed where the method takes statistics over its batch.
        """
        needs, everyone = self.methods[0].needs, range(len(self.seeds))
        sums, metrics = [], []
        for group in [list(everyone)] if separable(self.methods[0].spec) else [[r] for r in everyone]:
            cut = slice(group[0], group[-1] + 1)
            rows = {name: value[cut].flatten(0, 1) for name, value in (batch | now).items() if name != "denominator"}
            part = TokenBatch(
                logprob=rows["logprob"],
                old_logprob=rows["old_logprob"],
                advantages=rows["advantages"],
                mask=rows["mask"],
                entropy=rows["entropy"],
                old_entropy=rows["old_entropy"],
                clamped_entropy=rows["reduced"] if "clamped_entropy" in needs else None,
                success=rows["success"],
                draw_seed=derive_seed(self.seeds[group[0]], k, 0, update),
                weight=rows.get("weight"),
                neutral=rows.get("neutral"),
                prepared=True,
                runs=len(group),
            )
            output = self.methods[group[0]].loss(part, k, self.signals(group, part), dual_clip=self.scale.dual_clip)
            sums.append(self.aggregate(output.per_token * part.mask, part.mask, batch["denominator"][cut]))
            columns = {name: value.view(-1).tolist() for name, value in output.metrics.items()}
            columns["live_ratio"] = output.live_ratio.view(-1).tolist()
            metrics += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return torch.cat(sums), metrics

    def signals(self, group: list[int], part: TokenBatch) -> torch.Tensor | None:
        """The controllers' signals (rows, 1) where several seeds share a call; None: the method has its own."""
        if len(group) == 1 or self.methods[0].controller is None:
            return None
        signals = torch.tensor([float(self.methods[r].controller.signal) for r in group])
        return signals.repeat_interleave(len(part.mask) // len(group)).unsqueeze(1)

    def aggregate(self, losses: torch.Tensor, mask: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
        """The loss (runs,) of masked token losses (rows, T), by the rule of the scale's `aggregation`."""
        runs = len(denominator)
        if self.scale.aggregation == "token":
            return losses.view(runs, -1).sum(1) / denominator
        if self.scale.aggregation == "sequence":
            return (losses.sum(1) / mask.sum(1).clamp(min=1)).view(runs, -1).mean(1)
        return losses.view(runs, -1).sum(1) / (len(losses) // runs * self.scale.max_completion)

    def set_rate(self, done: int) -> float:
        """Set the learning rate after `done` updates, a linear rise from 0 over `rate_warmup` rollout steps."""
        warm = self.scale.rate_warmup * self.scale.updates_per_rollout
        rate = self.scale.learning_rate * (min(1.0, done / warm) if warm else 1.0)
        self.optimizer.param_groups[0]["lr"] = rate
        return rate

    def descend(self, skipped: list[bool], k: int) -> None:
        """The optimizer's step for all seeds but the skipped ones, whose weights and moments stay.

        Raises UserError after three updates in a row that a seed had to skip.
        """
        still = [r for r, bad in enumerate(skipped) if bad]
        kept = [(tensor, tensor[still].clone()) for tensor in self.tensors()] if still else []
        for value in self.weights.values() if still else ():
            value.grad[still] = 0.0
        self.optimizer.step()
        with torch.no_grad():
            for tensor, before in kept:
                tensor[still] = before
        for r, bad in enumerate(skipped):
            self.skips[r] = self.skips[r] + 1 if bad else 0
            if self.skips[r] == SKIPS_IN_A_ROW:
                raise UserError(
                    f"seed {self.seeds[r]}, rollout step {k}: {SKIPS_IN_A_ROW} updates in a row had to be skipped; "
                    "lower the learning rate or tighten the method's bounds"
                )

    def tensors(self) -> list[torch.Tensor]:
        """Weights and moments, (R, ...) each."""
        moments = [state[name] for state in self.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        return [*(value.data for value in self.weights.values()), *moments]


def advantages(rewards: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(A, the group's mean reward), each (R, B): A = (r − mean)/(sd + 1e-4) with the sample's sd, as in TRL."""
    groups = rewards.view(len(rewards), -1, group)
    average = groups.mean(-1, keepdim=True).expand_as(groups)
    normed = (groups - average) / (groups.std(-1, keepdim=True) + 1e-4)
    return normed.reshape(rewards.shape), average.reshape(rewards.shape)


def shuffle(seeds: Sequence[int], k: int, rows: int) -> torch.Tensor:
    """The order (R, rows) in which each seed's completions are cut into mini-batches at step `k`."""
    return torch.stack([permutation(rows, seed, k, 1) for seed in seeds])


def take(values: dict, order: torch.Tensor) -> dict:
    """Each tensor (R, B, ...) of `values` with its rows in the order (R, B) of its seed; other values as they are."""
    everyone = torch.arange(len(order)).unsqueeze(1)
    return {name: v[everyone, order] if torch.is_tensor(v) and v.dim() > 1 else v for name, v in values.items()}


def part_of(values: dict, cut: slice) -> dict:
    """The rows `cut` of each tensor (R, B, ...) of `values`; other values as they are."""
    return {name: v[:, cut] if torch.is_tensor(v) and v.dim() > 1 else v for name, v in values.items()}
