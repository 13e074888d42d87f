"""Disk, samples and downloads of a study that trains a language model of the hub."""

import os
from pathlib import Path

from dynclip.plan.memory import architecture
from dynclip.runtime.hardware import GIB
from dynclip.studies.scales import HubPolicy, Scale
from evals.benchmarks.hub import LOCAL_COPY
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS

MIB = 2**20
# Bytes of a data set's files on the hub; the others have a few MB. DAPO's file repeats its rows about 100 times.
DATA_BYTES = {"dapo": 300 * MIB}
SMALL_DATA = 5 * MIB


def written(scale: Scale, trainings: int, checkpoints: int, evaluations: int, at_once: int) -> int:
    """Bytes that the rest of a study writes: `trainings` with `checkpoints` policies each, and `evaluations`."""
    weights = architecture(scale.policy).parameters
    exports = checkpoints * 4 * weights  # float32
    # A running training keeps two states (weights and two moments in float32) and writes a third. Its exports are
    # published as hard links.
    running = min(at_once, trainings) * 3 * 12 * weights
    samples = 2 * evaluations * evaluation_tokens(scale)  # 2 bytes a token: compressed text with verdicts
    base = 2 * weights  # bfloat16
    return trainings * exports + running + samples + base + 100 * MIB


def evaluation_tokens(scale: Scale) -> int:
    """Most tokens of one checkpoint's evaluation: samples times the longest response."""
    given, tokens = scale.evaluation, 0
    for entry in (BENCHMARKS[name] for name in scale.benchmarks):
        samples = min(entry.count, given.limit or entry.count) * (given.k or entry.k)
        tokens += samples * (given.max_tokens or entry.sampling.max_tokens)
    return tokens


def downloads(scale: Scale) -> dict[str, int]:
    """Hub repository -> bytes to download: the model in bfloat16 and the data sets, where the cache lacks them."""
    found, policy, train = {}, scale.policy, TRAIN_SETS[scale.train_set]
    if isinstance(policy, HubPolicy) and not policy.random and not _cached("models", policy.id):
        found[policy.id] = 2 * policy.architecture.parameters
    if train.kind != "hub" or os.environ.get(LOCAL_COPY):
        return found
    # Decontamination compares the training problems with every pinned benchmark of the hub, evaluated here or not.
    chosen = [entry for entry in BENCHMARKS.values() if entry.content or entry.name in scale.benchmarks]
    for entry in (train, *(each for each in chosen if each.kind == "hub")):
        if not _cached("datasets", entry.id):
            found[entry.id] = DATA_BYTES.get(entry.name, SMALL_DATA)
    return found


def _cached(kind: str, name: str) -> bool:
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/*.safetensors" if kind == "models" else "*"))


def amount(size: float, scale: float) -> str:
    """`size` bytes as text: in GiB where `scale` (bytes) is at least 10 GiB, else in MiB."""
    return f"{size / GIB:.0f} GiB" if scale >= 10 * GIB else f"{size / MIB:.0f} MiB"
