"""What a study of the hub's models writes, asks for and downloads: disk, samples, tokens."""

import os
from pathlib import Path

from dynclip.plan.memory import architecture
from dynclip.runtime.hardware import GIB
from dynclip.studies.scales import HubPolicy, Scale
from evals.benchmarks.hub import LOCAL_COPY
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS

MIB = 2**20
# Bytes of the hub's files of a data set; the others have a few MB. DAPO's file repeats its rows about 100 times.
DATA_BYTES = {"dapo": 300 * MIB}
SMALL_DATA = 5 * MIB


def written(scale: Scale, trainings: int, checkpoints: int, evaluations: int, at_once: int) -> int:
    """Bytes that what is left of a hub scale's study writes.

    trainings: left, each with `checkpoints` exported policies in float32 (`save_pretrained` of the trainer's model).
    While a training lasts: weights and two moments in float32, two of these kept and a third being written, and the
    exports a second time until they are published. evaluations: checkpoints left to score. Once: the base policy in
    bfloat16 and what every study has.
    """
    weights = architecture(scale.policy).parameters
    exports = checkpoints * 4 * weights
    running = min(at_once, trainings) * (3 * 12 * weights + exports)
    samples = 2 * evaluations * evaluation_tokens(scale)  # bytes a token: text, compressed, with verdicts
    return trainings * exports + running + samples + 2 * weights + 100 * MIB


def evaluation_samples(scale: Scale) -> dict[str, int]:
    """Benchmark -> samples of one checkpoint."""
    given, entries = scale.evaluation, [BENCHMARKS[name] for name in scale.benchmarks]
    return {entry.name: min(entry.count, given.limit or entry.count) * (given.k or entry.k) for entry in entries}


def evaluation_tokens(scale: Scale) -> int:
    """Tokens that the evaluation of one checkpoint may ask for: samples times the longest response."""
    longest = scale.evaluation.max_tokens
    return sum(n * (longest or BENCHMARKS[name].sampling.max_tokens) for name, n in evaluation_samples(scale).items())


def downloads(scale: Scale) -> dict[str, int]:
    """Hub repository -> bytes still to be fetched: the model in bfloat16 and the data sets that are in no cache."""
    found, policy, train = {}, scale.policy, TRAIN_SETS[scale.train_set]
    if isinstance(policy, HubPolicy) and not policy.random and not _cached("models", policy.id):
        found[policy.id] = 2 * policy.architecture.parameters
    if train.kind != "hub" or os.environ.get(LOCAL_COPY):
        return found
    # Training problems are compared with every benchmark of the hub, evaluated here or not.
    for entry in (train, *(each for each in BENCHMARKS.values() if each.kind == "hub")):
        if not _cached("datasets", entry.id):
            found[entry.id] = DATA_BYTES.get(entry.name, SMALL_DATA)
    return found


def _cached(kind: str, name: str) -> bool:
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/*.safetensors" if kind == "models" else "*"))


def amount(size: float, scale: float) -> str:
    """Bytes in MiB, or in GiB where `scale` is large."""
    return f"{size / GIB:.0f} GiB" if scale >= 10 * GIB else f"{size / MIB:.0f} MiB"
