"""Functions for the Snakefile: the study of a config, file lists, and digests of what each rule depends on.

Snakemake tracks shell text and file times but not imported code. So every rule has a parameter with the digest of the
code that its output depends on, and is rerun when the digest changes.
"""

import atexit
import os
import re
import sys
from pathlib import Path

from dynclip.plan.describe import print_plan
from dynclip.report.claims.registry import CLAIMS
from dynclip.report.evidence import BASE
from dynclip.report.figures import FIGURES
from dynclip.report.mlflow_import import given_uri
from dynclip.report.tables import TABLES
from dynclip.runtime.errors import UserError
from dynclip.runtime.provenance import code_digest, digest
from dynclip.studies.arms import ARMS, STUDIES, arm, study_runs
from dynclip.studies.method_options import SEPARATOR
from dynclip.studies.overrides import SETTABLE, resolve
from dynclip.studies.scales import REHEARSAL, SCALES, HubPolicy, RunConfig
from dynclip.training.fingerprint import SETTINGS, SHARED_CODE, method_digest
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS

ROOT = Path(__file__).resolve().parents[2]
CONFIG_KEYS = ("scale", "methods", "seeds", "steps", "updates", "force", "options", *SETTABLE, "engine")
ENGINES = ("trl", "verl")

REHEARSE = "rehearse"  # the target that runs the chosen scale's whole graph with next to no work

# Entry points of each rule. The code that they use inside the project is found from there.
CODE = {
    "data": ("evals.benchmarks.registry:write_data",),
    "warmup": ("dynclip.training.tiny_policy:warm_start",),
    "train": SHARED_CODE,
    "evaluate": ("evals.evaluation:evaluate",),
    "tables": ("dynclip.report.tables:write_tables",),
    "figures": ("dynclip.report.figures:write_figures",),
    "page": ("dynclip.report.html:write_report",),
    "study": ("dynclip.report.study_page:write_study",),
    "agreement": ("dynclip.lab.agreement.checkpoints:measure_checkpoints",),
    "claims": ("dynclip.report.claims.page:write_claims",),
    "launch": ("dynclip.training.verl_scripts.settings:write_launch",),
    "track": ("dynclip.report.mlflow_import:track",),
}


def prepare_environment() -> None:
    """Make `python` in rules the interpreter that runs Snakemake, and the project importable from any folder."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def config_from(given: dict, words: list[str]) -> RunConfig:
    """The study that `--config` asks for. Bad input: one line on standard error, exit status 2, before any work."""
    try:
        for key in given:
            if key not in CONFIG_KEYS:
                raise UserError(f"unknown --config key {key!r}; the keys are: {', '.join(CONFIG_KEYS)}")
        if REHEARSE in words and not str(given.get("scale", "laptop")).endswith(REHEARSAL):
            given = {**given, "scale": str(given.get("scale", "laptop")) + REHEARSAL}
        config = resolve(**{key: value for key, value in given.items() if key != "engine"})
        if engine_from(given) not in ENGINES:
            raise UserError(f"unknown engine {given['engine']!r}; the engines are: {', '.join(ENGINES)}")
        if Path("results").exists() and not Path("results").is_dir():
            raise UserError("results is a file; dynclip writes to a folder of that name here: move the file away")
        check_targets(config, words)
        return config
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        sys.exit(2)


def engine_from(config: dict) -> str:
    """The trainer: "trl", inside the workflow, or "verl", for which the workflow writes launch scripts."""
    return config.get("engine", "trl")


def check_targets(config: RunConfig, words: list[str]) -> None:
    """Result files asked for by name must name things that exist: UserError for an unknown part of their path."""
    names = {"checkpoint": list(config.checkpoints), "benchmark": list(config.scale.benchmarks)}
    for word in words:
        path = re.fullmatch(r"results/(?P<scale>[^/]+)/(?:runs|samples|scores)/(?P<rest>.+)", word)
        if not path:
            continue
        if path["scale"] != config.name:
            raise UserError(
                f"{word}: this call is for scale {config.name!r}; add --config scale={path['scale']} "
                f"(the scales are: {', '.join(SCALES)})"
            )
        parts = path["rest"].split("/")
        base, *options = parts[0].split(SEPARATOR)
        given = {}
        if base not in (BASE, *ARMS):
            raise UserError(f"{word}: unknown method {base!r}; valid are: {', '.join((BASE, *ARMS))}")
        if options and arm(parts[0]).name != parts[0]:
            raise UserError(f"{word}: this method is written {arm(parts[0]).name!r}")
        if word.startswith((f"results/{config.name}/scores/", f"results/{config.name}/samples/")) and len(parts) == 4:
            given |= {"checkpoint": parts[2], "benchmark": Path(parts[3]).stem}
        for kind, name in given.items():
            if name not in names[kind]:
                raise UserError(f"{word}: unknown {kind} {name!r}; valid are: {', '.join(names[kind])}")


def method_pattern() -> str:
    """What a method may be in a path, as a regular expression: the base policy, an arm, or an arm with options."""
    return f"(?:{'|'.join(map(re.escape, (BASE, *ARMS)))})(?:{SEPARATOR}[^/{SEPARATOR}]+)*"


def check_start(config: RunConfig, words: list[str], elsewhere: bool = False) -> None:
    """Print the plan of the targets in `words`. Exit with status 2 if it cannot finish (full disk, unwritable results).

    elsewhere: trainings run as jobs of a cluster or in verl, and need no GPUs of this machine.
    """
    try:
        asked = list(STUDIES) if "studies" in words else [name for name in STUDIES if name in words]
        print_plan(config, Path("results"), asked, remote=elsewhere)
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        sys.exit(2)


def print_next_steps(config: RunConfig) -> None:
    """Print how to look at a finished study. It is printed at exit, so that nothing follows it."""
    ui = given_uri() or "mlflow ui --backend-store-uri sqlite:///results/mlflow.db"
    atexit.register(
        print,
        f"\nreport:  open results/{config.name}/report.html in a browser, or: python -m webbrowser "
        f"results/{config.name}/report.html\n"
        f"MLflow:  {ui}",
        file=sys.stderr,
    )


def code_of(rule: str, config: RunConfig | None = None) -> str:
    """Digest of the code of a rule. It depends on the rule and the kind of policy alone."""
    if rule == "warmup" and config and isinstance(config.scale.policy, HubPolicy):
        return code_digest("dynclip.training.hub_policy:make_base")
    return code_digest(*CODE[rule])


def method_code(name: str) -> str:
    """Digest of one arm, its registry entry and functions. An edit of any of them retrains this arm alone."""
    chosen = arm(name)
    return digest([method_digest(chosen), chosen.minibatches, chosen.epochs])


def settings_of(rule: str, config: RunConfig) -> str:
    """Digest of the scale's numbers that a rule reads."""
    if rule == "data":
        return digest(
            [repr(TRAIN_SETS[config.scale.train_set]), *(repr(BENCHMARKS[n]) for n in config.scale.benchmarks)]
        )
    if rule == "warmup" and isinstance(config.scale.policy, HubPolicy):
        limits = config.scale.max_prompt, config.scale.max_completion, config.scale.max_level
        return digest([repr(config.scale.policy), config.scale.template, limits])
    if rule == "warmup":
        return digest([vars(config.scale.policy), vars(config.scale.policy.warmup), config.scale.max_completion])
    if rule == "evaluate":
        how = repr(config.scale.evaluation), config.scale.template
        return digest([*how, {name: repr(BENCHMARKS[name]) for name in config.scale.benchmarks}])
    execution = config.scale.execution
    return digest(
        {name: getattr(config.scale, name) for name in SETTINGS} | {"s": execution.sampler, "d": execution.dtype}
    )


def model_of(config: RunConfig, wildcards) -> str:
    """The manifest of the checkpoint that an evaluation reads."""
    if wildcards.method == "base":
        return f"results/{config.name}/base/model.json"
    step = config.checkpoints.get(wildcards.checkpoint)
    if step is None:
        raise UserError(f"unknown checkpoint {wildcards.checkpoint!r}; this study has: {', '.join(config.checkpoints)}")
    return f"results/{config.name}/runs/{wildcards.method}/seed{wildcards.seed}/checkpoints/step{step}/model.json"


def run_files(config: RunConfig) -> list[str]:
    """metrics.jsonl and run.json of every run of the study."""
    return [
        f"results/{config.name}/runs/{method}/seed{seed}/{name}"
        for method in config.methods
        for seed in config.seeds
        for name in ("metrics.jsonl", "run.json")
    ]


def score_files(config: RunConfig) -> list[str]:
    """The score file of every evaluated checkpoint on every benchmark, the untrained base policy first."""
    places = [("base", 0, "final")]
    places += [(method, seed, c) for method in config.methods for seed in config.seeds for c in config.checkpoints]
    return [
        f"results/{config.name}/scores/{method}/seed{seed}/{checkpoint}/{benchmark}.json"
        for method, seed, checkpoint in places
        for benchmark in config.scale.benchmarks
    ]


def study_inputs(config: RunConfig, name: str) -> list[str]:
    """The input files of one study's page: its runs, and the scores of the runs that it evaluates."""
    trained, scored = study_runs(config, [name])
    files = [f"results/{config.name}/runs/{arm}/seed{seed}/run.json" for arm, seed in trained]
    if STUDIES[name].signs:
        files.append(f"results/{config.name}/studies/{name}/signs.json")
    return files + [
        f"results/{config.name}/scores/{arm}/seed{seed}/{checkpoint}/{benchmark}.json"
        for arm, seed in scored
        for checkpoint in config.checkpoints
        for benchmark in config.scale.benchmarks
    ]


def sign_runs(config: RunConfig, name: str) -> tuple[str, list[int]]:
    """(arm, seeds) whose checkpoints the rule `agreement` measures for a study: its baseline's."""
    spec = STUDIES[name]
    return "grpo" if "grpo" in spec.arms else spec.arms[0], list(config.seeds[: spec.seeds])


def sign_inputs(config: RunConfig, name: str) -> list[str]:
    """The records of the runs whose checkpoints the rule `agreement` measures."""
    arm, seeds = sign_runs(config, name)
    return [f"results/{config.name}/runs/{arm}/seed{seed}/run.json" for seed in seeds]


def launch_files(config: RunConfig) -> list[str]:
    """verl's launch script of every run of the study."""
    return [f"results/{config.name}/verl/{method}/seed{seed}.sh" for method in config.methods for seed in config.seeds]


def claimed_studies() -> list[str]:
    """The studies that claims are decided by."""
    return list(dict.fromkeys(claim.study for claim in CLAIMS.values()))


def table_files(config: RunConfig) -> list[str]:
    """Every table in its three formats."""
    return [f"results/{config.name}/tables/{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")]


def figure_files(config: RunConfig, kind: str) -> list[str]:
    """Every figure in one format."""
    return [f"results/{config.name}/figures/{name}.{kind}" for name in FIGURES]
