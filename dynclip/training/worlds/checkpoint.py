"""The state of one seed of the stacked loop as a folder checkpoint-<step>: weights, moments, plain numbers."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dynclip.runtime import checkpoints
from dynclip.training.worlds.draws import here

TENSORS = "loop.safetensors"  # weights, moments, and the earlier weights that still sample
FACTS = "loop.json"  # step, tokens, skips, the controller's state
MOMENTS = ("exp_avg", "exp_avg_sq")


def write_checkpoint(loop, r: int, state: Path) -> None:
    """Write checkpoint-<step> of seed number `r` of `loop` into `state`, and delete all but the newest two."""
    tensors = {name: value.detach()[r].cpu() for name, value in loop.weights.items()}
    for name, value in loop.weights.items():
        tensors |= {f"{moment}.{name}": loop.optimizer.state[value][moment][r].cpu() for moment in MOMENTS}
    for age, past in enumerate(loop.sampler.past):
        tensors |= {f"past{age}.{name}": value[r].cpu() for name, value in past.items()}
    facts = {"rollout_step": loop.done, "tokens": loop.tokens[r], "skips": loop.skips[r]}
    with checkpoints.writing(state / f"checkpoint-{loop.done}") as aside:
        save_file(tensors, aside / TENSORS)
        (aside / FACTS).write_text(json.dumps(facts | {"controller": loop.methods[r].state_dict()}))
    checkpoints.prune(state)


def restore(loop, folders: Sequence[Path]) -> None:
    """Let `loop` go on from the checkpoints of its seeds, which must be of the same rollout step."""
    tensors = [load_file(folder / TENSORS) for folder in folders]
    facts = [checkpoints.read_state(folder / FACTS) for folder in folders]
    loop.done = facts[0]["rollout_step"]
    updates = torch.tensor(float(loop.done * loop.scale.updates_per_rollout))
    with torch.no_grad():
        for name, value in loop.weights.items():
            value.copy_(torch.stack([each[name] for each in tensors]))
            moments = {kind: here(torch.stack([each[f"{kind}.{name}"] for each in tensors])) for kind in MOMENTS}
            loop.optimizer.state[value] = {"step": updates.clone()} | moments
    loop.sampler.past = [
        {name: here(torch.stack([each[f"past{age}.{name}"] for each in tensors])) for name in loop.weights}
        for age in range(min(loop.done, loop.scale.staleness))
    ]
    for r, each in enumerate(facts):
        loop.tokens[r], loop.skips[r] = each["tokens"], each["skips"]
        loop.methods[r].load_state_dict(each["controller"])


def newest_common(states: Iterable[Path]) -> int:
    """The newest rollout step of which every state folder has an intact checkpoint; 0 where there is none."""
    found = [
        {number for number, path in checkpoints.numbered(state).items() if not checkpoints.find_corruption(path)}
        for state in states
    ]
    return max(set.intersection(*found), default=0)
