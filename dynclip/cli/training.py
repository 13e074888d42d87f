"""The commands that train: base policies and runs. Each takes the parsed options of `dynclip.cli.commands`."""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from dynclip.cli.options import config_of, run_of
from dynclip.plan.outputs import base_folder, is_world
from dynclip.runtime.checkpoints import find_corruption, publish_links, remove, sweep
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_atomic
from dynclip.runtime.locks import hold, use
from dynclip.runtime.progress import Progress
from dynclip.runtime.provenance import code_digest, digest
from dynclip.studies.scales import RunConfig, Scale
from dynclip.training import lifecycle
from dynclip.training.company import train_company
from dynclip.training.hub_policy import make_base
from dynclip.training.worlds.warm_start import warm_start
from evals.benchmarks.loading import read_problems

KEPT = ".kept"  # folder of base/: Snakemake does not know it, so what is in it outlives a job that is run again


def warmup(options: Namespace) -> None:
    config = config_of(options)
    folder = options.results / config.name
    data, log = folder / "data" / "train.jsonl", Progress("base policy", 0, options.log).log
    if is_world(config):
        warm_seeds(config.scale, data, config.seeds, folder / "base", log)
        return
    with use(min(1, config.scale.execution.gpus) if config.scale.policy.supervised else 0):
        make_base(config.scale, read_problems(data), folder / "base", log)


def warm_seeds(scale: Scale, data: Path, seeds: Iterable[int], base: Path, log) -> None:
    """Make the base policies of `seeds` under `base`/seed<N>, each once.

    They are trained in base/.kept and published as hard links: Snakemake deletes the declared files of all seeds
    before it runs the job for one more. Another setting, data file or code starts over.
    """
    base.mkdir(parents=True, exist_ok=True)
    kept = base / KEPT
    with hold(base / ".warmup.lock", f"the base policies in {base}", log):
        sweep(base, kept)
        parts = [repr(scale.policy), scale.max_completion, sha256(data)]
        wanted = digest([*parts, code_digest("dynclip.training.worlds.warm_start:warm_start")])
        made_by = kept / "fingerprint"
        if kept.exists() and (not made_by.exists() or made_by.read_text() != wanted):
            log(f"starting over: settings, data or code changed since {kept} was written")
            remove(kept)
        write_atomic(made_by, wanted)
        folders = {seed: kept / f"seed{seed}" for seed in seeds}
        missing = {seed: folder for seed, folder in folders.items() if find_corruption(folder)}
        if missing:
            warm_start(scale, read_problems(data), missing, log)
        for seed, folder in folders.items():
            publish_links(folder, base / f"seed{seed}")


def train(options: Namespace) -> None:
    name = run_of(options)
    if options.seed is not None and options.seeds is not None:
        raise UserError("train: give --seed or --seeds, one of the two")
    options.methods = options.methods or name
    if options.seed is not None:
        options.seeds = str(options.seed)
    config = config_of(options)
    folder = options.results / config.name
    if config.scale.trainer == "loop":
        if options.out:
            raise UserError(f"train: --out is for scales that TRL trains; {config.name} goes under {folder}")
        train_company(config, name, config.seeds, folder, options.log)
        return
    if options.seed is None and len(config.seeds) > 1:
        raise UserError(f"train: {config.name} trains one seed at a time; give --seed")
    train_one(config, name, config.seeds[0], folder, options)


def train_one(config: RunConfig, name: str, seed: int, folder: Path, options: Namespace) -> None:
    """Train one seed of an arm with TRL. folder: results/<scale>."""
    base = folder / base_folder(config, seed)
    out = options.out or folder / "runs" / name / f"seed{seed}"
    lifecycle.train(config, name, seed, base, folder / "data" / "train.jsonl", out, options.log)
