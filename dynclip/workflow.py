"""What the Snakefile asks: the study of a config, file lists, and digests of what each rule depends on.

Snakemake tracks shell text and file times but not imported code, so every rule carries a digest of the code that
shapes its output as a parameter. A rule is rerun when its digest changes, and only then.
"""

import atexit
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from dynclip import hardware
from dynclip.errors import UserError
from dynclip.processes import processes_here
from dynclip.provenance import code_digest, digest, method_digest
from dynclip.scales import REHEARSAL, SCALES, SETTABLE, HubPolicy, Study, resolve
from dynclip.training import SETTINGS, SHARED_CODE

ROOT = Path(__file__).resolve().parent.parent
CONFIG_KEYS = ("scale", "methods", "seeds", "steps", "updates", "force", *SETTABLE, "engine")
ENGINES = ("trl", "verl")

REHEARSE = "rehearse"  # the target that runs the chosen scale's whole graph with next to no work

# Entry points of each rule: what they use inside the project is found from there.
CODE = {
    "data": ("evals.benchmarks:write_data",),
    "warmup": ("dynclip.policies:warm_start",),
    "train": SHARED_CODE,
    "evaluate": ("evals.evaluation:evaluate",),
    "tables": ("dynclip.tables:write_tables",),
    "figures": ("dynclip.figures:write_figures",),
    "page": ("dynclip.report:write_report",),
    "study": ("dynclip.study_page:write_study",),
    "claims": ("dynclip.claims_page:write_claims",),
    "launch": ("dynclip.verl_launch:write_launch",),
    "track": ("dynclip.tracking:track",),
}


def prepare_environment() -> None:
    """Let rules' `python` be the interpreter that runs Snakemake, with the project importable from any folder."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def study_from(config: dict, words: list[str]) -> Study:
    """The study that `--config` asks for. Bad input: one line on standard error, exit status 2, before any work."""
    try:
        for key in config:
            if key not in CONFIG_KEYS:
                raise UserError(f"unknown --config key {key!r}; the keys are: {', '.join(CONFIG_KEYS)}")
        if REHEARSE in words and not str(config.get("scale", "laptop")).endswith(REHEARSAL):
            config = {**config, "scale": str(config.get("scale", "laptop")) + REHEARSAL}
        study = resolve(**{key: value for key, value in config.items() if key != "engine"})
        if engine_from(config) not in ENGINES:
            raise UserError(f"unknown engine {config['engine']!r}; the engines are: {', '.join(ENGINES)}")
        if Path("results").exists() and not Path("results").is_dir():
            raise UserError("results is a file; dynclip writes to a folder of that name here: move the file away")
        check_targets(study, words)
        return study
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        sys.exit(2)


def engine_from(config: dict) -> str:
    """Who trains: TRL, in the workflow; or verl, for which the workflow writes launch scripts."""
    return config.get("engine", "trl")


def check_targets(study: Study, words: list[str]) -> None:
    """Result files asked for by name must name things that exist: UserError for an unknown part of their path."""
    names = {"method": method_names(), "checkpoint": list(study.checkpoints), "benchmark": list(study.scale.benchmarks)}
    for word in words:
        path = re.fullmatch(r"results/(?P<scale>[^/]+)/(?:runs|samples|scores)/(?P<rest>.+)", word)
        if not path:
            continue
        if path["scale"] != study.name:
            raise UserError(
                f"{word}: this call is for scale {study.name!r}; add --config scale={path['scale']} "
                f"(the scales are: {', '.join(SCALES)})"
            )
        parts = path["rest"].split("/")
        given = {"method": parts[0]}
        if word.startswith((f"results/{study.name}/scores/", f"results/{study.name}/samples/")) and len(parts) == 4:
            given |= {"checkpoint": parts[2], "benchmark": Path(parts[3]).stem}
        for kind, name in given.items():
            if name not in names[kind]:
                raise UserError(f"{word}: unknown {kind} {name!r}; valid are: {', '.join(names[kind])}")


def method_names() -> list[str]:
    """Every name a method may have in a path: the arms of the studies, and the untrained base policy."""
    from dynclip.studies import ARMS

    return ["base", *ARMS]


def check_start(study: Study, words: list[str], elsewhere: bool = False) -> None:
    """Print the plan of what `words` ask for and refuse to start what cannot finish (full disk, unwritable results):
    exit status 2. Trainings that run `elsewhere`, as jobs of a cluster or in verl, need no GPUs of this machine."""
    from dynclip.plan import print_plan
    from dynclip.studies import STUDIES

    try:
        asked = list(STUDIES) if "studies" in words else [name for name in STUDIES if name in words]
        print_plan(study, Path("results"), asked, remote=elsewhere)
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        sys.exit(2)


def say_goodbye(study: Study) -> None:
    """The last lines of a finished study: how to look at it. At exit, so that nothing is printed after them."""
    from dynclip.ledger import given_uri

    ui = given_uri() or "mlflow ui --backend-store-uri sqlite:///results/mlflow.db"
    atexit.register(
        print,
        f"\nreport:  open results/{study.name}/report.html in a browser, or: python -m webbrowser "
        f"results/{study.name}/report.html\n"
        f"MLflow:  {ui}",
        file=sys.stderr,
    )


def code_of(rule: str, study: Study | None = None) -> str:
    """Digest of the code behind a rule, as far as it depends on nothing but the rule and the kind of policy."""
    if rule == "warmup" and study and isinstance(study.scale.policy, HubPolicy):
        return code_digest("dynclip.base:make_base")
    return code_digest(*CODE[rule])


def method_code(name: str) -> str:
    """Digest of one arm, its registry entry and functions: editing any of them retrains this arm alone."""
    from dynclip.studies import arm

    chosen = arm(name)
    return digest([method_digest(chosen.method, chosen.options), chosen.minibatches, chosen.epochs])


def settings_of(rule: str, study: Study) -> str:
    """Digest of the scale's numbers that a rule reads."""
    from evals.benchmarks import BENCHMARKS, TRAIN_SETS

    if rule == "data":
        return digest([repr(TRAIN_SETS[study.scale.train_set]), *(repr(BENCHMARKS[n]) for n in study.scale.benchmarks)])
    if rule == "warmup" and isinstance(study.scale.policy, HubPolicy):
        limits = study.scale.max_prompt, study.scale.max_completion, study.scale.max_level
        return digest([repr(study.scale.policy), study.scale.template, limits])
    if rule == "warmup":
        return digest([vars(study.scale.policy), vars(study.scale.policy.warmup), study.scale.max_completion])
    if rule == "evaluate":
        how = repr(study.scale.evaluation), study.scale.template
        return digest([*how, {name: repr(BENCHMARKS[name]) for name in study.scale.benchmarks}])
    execution = study.scale.execution
    return digest(
        {name: getattr(study.scale, name) for name in SETTINGS} | {"s": execution.sampler, "d": execution.dtype}
    )


def model_of(study: Study, wildcards) -> str:
    """The manifest of the checkpoint that an evaluation reads."""
    if wildcards.method == "base":
        return f"results/{study.name}/base/model.json"
    step = study.checkpoints.get(wildcards.checkpoint)
    if step is None:
        raise UserError(f"unknown checkpoint {wildcards.checkpoint!r}; this study has: {', '.join(study.checkpoints)}")
    return f"results/{study.name}/runs/{wildcards.method}/seed{wildcards.seed}/checkpoints/step{step}/model.json"


def run_files(study: Study) -> list[str]:
    """metrics.jsonl and run.json of every run of the study."""
    return [
        f"results/{study.name}/runs/{method}/seed{seed}/{name}"
        for method in study.methods
        for seed in study.seeds
        for name in ("metrics.jsonl", "run.json")
    ]


def score_files(study: Study) -> list[str]:
    """The score file of every evaluated checkpoint on every benchmark, the untrained base policy first."""
    places = [("base", 0, "final")]
    places += [(method, seed, c) for method in study.methods for seed in study.seeds for c in study.checkpoints]
    return [
        f"results/{study.name}/scores/{method}/seed{seed}/{checkpoint}/{benchmark}.json"
        for method, seed, checkpoint in places
        for benchmark in study.scale.benchmarks
    ]


def study_inputs(study: Study, name: str) -> list[str]:
    """What one study's page is made of: its runs, and the scores of those that it evaluates."""
    from dynclip.studies import study_runs

    trained, scored = study_runs(study, [name])
    files = [f"results/{study.name}/runs/{arm}/seed{seed}/run.json" for arm, seed in trained]
    return files + [
        f"results/{study.name}/scores/{arm}/seed{seed}/{checkpoint}/{benchmark}.json"
        for arm, seed in scored
        for checkpoint in study.checkpoints
        for benchmark in study.scale.benchmarks
    ]


def launch_files(study: Study) -> list[str]:
    """verl's launch script of every run of the study."""
    return [f"results/{study.name}/verl/{method}/seed{seed}.sh" for method in study.methods for seed in study.seeds]


def claimed_studies() -> list[str]:
    """The studies that claims are decided by."""
    from dynclip.claims import CLAIMS

    return list(dict.fromkeys(claim.study for claim in CLAIMS.values()))


def table_files(study: Study) -> list[str]:
    """Every table in its three formats."""
    from dynclip.tables import TABLES

    return [f"results/{study.name}/tables/{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")]


def figure_files(study: Study, kind: str) -> list[str]:
    """Every figure in one format."""
    from dynclip.figures import FIGURES

    return [f"results/{study.name}/figures/{name}.{kind}" for name in FIGURES]


# What jobs ask a cluster for


@dataclass(frozen=True)
class Needs:
    """What one job of a rule asks for. A limit of its own makes no run on one machine slower: only `threads` and `gpus`
    decide there what runs side by side."""

    threads: int
    gpus: int
    memory_mib: int  # of the host
    minutes: int  # of the first attempt

    def limit(self, attempt: int) -> int:
        """Minutes of an attempt, the first being 1: every retry asks for as much more, in case time ran out."""
        return self.minutes * attempt


# Passed to sbatch by Snakemake's SLURM plugin: SIGTERM this many seconds before the time limit. A training then
# finishes its rollout step (246 s at the paper_7b scale on 8 H100, by the paper's hours) and writes a checkpoint.
SLURM_SIGNAL = "--signal=TERM@600"


def train_resources(study: Study) -> dict[str, int | str]:
    """GPUs and machines of the rule `train`, in the words of Snakemake's SLURM plugin.

    On several machines the job's command starts a task on each itself (`dynclip.machines`), which the plugin calls an
    MPI job; GPUs are then asked for by machine, since the plugin only knows a sum, which SLURM may spread unevenly.
    """
    execution = study.scale.execution
    if execution.nodes == 1:
        return {"gpu": execution.gpus, "nodes": 1, "slurm_extra": SLURM_SIGNAL}
    each = f" --gpus-per-node={execution.gpus}" if execution.gpus else ""
    extra = f"{SLURM_SIGNAL} --ntasks-per-node=1{each}"
    return {"nodes": execution.nodes, "tasks": execution.nodes, "mpi": "srun", "slurm_extra": extra}


# Host memory of one process: interpreter, torch, CUDA and the sampling engine, without weights. Tiny policies were
# measured at 1.5 GiB; a language model's share is an upper guess, not measured.
PROCESS_MIB, TINY_PROCESS_MIB = 12 * 1024, 4 * 1024


def needs(study: Study) -> dict[str, Needs]:
    """Rule -> what one job of it asks for on each of its machines, from the scale's numbers. An evaluation and the base
    policy's supervised stage take one GPU where a training takes any."""
    scale = study.scale
    processes, gpus = processes_here(scale.execution), scale.execution.gpus
    one = min(1, gpus)
    if not isinstance(scale.policy, HubPolicy):
        return {
            "warmup": Needs(2, 0, TINY_PROCESS_MIB, 60),
            "train": Needs(scale.threads * processes, 0, TINY_PROCESS_MIB * processes, 60),
            "evaluate": Needs(1, 0, TINY_PROCESS_MIB, 60),
        }
    weights = 0 if scale.policy.random else -(-4 * scale.policy.architecture.parameters // 2**20)
    # Beside its share of the GPUs a process holds the weights once in float32, while it loads them. Without a GPU it
    # holds weights, gradients and two moments. The main process holds another copy while it saves.
    per_process = PROCESS_MIB + (weights if gpus else 4 * weights)
    # The paper's trainings took 17.4 and 27.3 hours on 8 H100.
    minutes = 24 * 60 if gpus > 1 else 4 * 60
    return {
        "warmup": Needs(max(2, scale.threads), one if scale.policy.supervised else 0, per_process + weights, 4 * 60),
        "train": Needs(scale.threads * processes, gpus, per_process * processes + weights, minutes),
        "evaluate": Needs(scale.threads, one, PROCESS_MIB + weights, 8 * 60),
    }


def share_gpus(workflow, study: Study) -> None:
    """Let jobs that run side by side on this machine take no more GPUs together than are visible, where nobody said
    `--resources gpu=...`: Snakemake would take the number for unlimited. A cluster counts its own.

    `workflow` is Snakemake's; it asks for the number of jobs (`nodes`) where they are submitted to a cluster.
    """
    if study.scale.execution.gpus and workflow.nodes is None:
        workflow.global_resources.setdefault("gpu", max(1, len(hardware.gpus())))
