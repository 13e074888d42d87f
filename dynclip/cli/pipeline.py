"""Functions for the Snakefile: the studies of a call, file lists, and digests of what each rule depends on.

Snakemake tracks shell text and file times but not imported code. So every rule has a parameter with the digest of the
code that its output depends on, and is rerun when the digest changes.
"""

import atexit
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from dynclip.cli.options import resolve_all
from dynclip.plan import outputs
from dynclip.plan.describe import print_plan
from dynclip.report.claims.registry import CLAIMS
from dynclip.report.evidence import BASE
from dynclip.report.figures import FIGURES
from dynclip.report.tables import TABLES
from dynclip.runtime.errors import UserError
from dynclip.runtime.provenance import code_digest, digest
from dynclip.studies.arms import ARMS, STUDIES, arm, study_runs, trainable
from dynclip.studies.method_options import SEPARATOR
from dynclip.studies.overrides import SETTABLE
from dynclip.studies.scales import REHEARSAL, SCALES, SUITES, RunConfig
from dynclip.training.fingerprint import SETTINGS, SHARED_CODE, method_digest
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "dynclip" / "report" / "html" / "templates"  # its package loads slowly
CONFIG_KEYS = ("scale", "methods", "seeds", "steps", "updates", "force", "options", *SETTABLE, "engine")
ENGINES = ("trl", "verl")

REHEARSE = "rehearse"  # the target that runs the chosen scale's whole graph with next to no work

# Entry points of each rule. The code that they use inside the project is found from there.
CODE = {
    "data": ("evals.benchmarks.loading:write_data",),
    "warmup": ("dynclip.training.hub_policy:make_base",),
    "train": SHARED_CODE,
    "evaluate": ("evals.evaluation:evaluate",),
    "tables": ("dynclip.report.tables:write_tables",),
    "figures": ("dynclip.report.figures:write_figures",),
    "page": ("dynclip.report.html:write_report",),
    "front": ("dynclip.report.html:write_front",),
    "study": ("dynclip.report.study_page:write_study",),
    "agreement": ("dynclip.lab.agreement.checkpoints:measure_checkpoints",),
    "claims": ("dynclip.report.claims.page:write_claims",),
    "launch": ("dynclip.training.verl_scripts.settings:write_launch",),
    "track": ("dynclip.report.tracking.runs:track",),
}
# Those of the rules of a synthetic world: its base policies and evaluations, and the trainings of the loop.
WORLD_CODE = {
    "warmup": ("dynclip.training.worlds.warm_start:warm_start",),
    "evaluate": ("dynclip.training.worlds.scoring:score_company",),
}
LOOP_CODE = ("dynclip.training.company:train_company",)


@dataclass(frozen=True)
class Call:
    """What one `snakemake` call works on: a scale, or all scales of a suite. studies: scale -> its study."""

    name: str
    studies: dict[str, RunConfig]
    engine: str  # "verl": the workflow trains nothing and writes launch scripts; "trl" stands for its own trainers
    given: dict  # --config without scale and engine

    @property
    def is_suite(self) -> bool:
        return self.name in SUITES

    @property
    def pages(self) -> list[str]:
        """The last files of every scale."""
        return [f"results/{name}/{file}" for name in self.studies for file in ("report.html", "tracking.json")]

    @property
    def results(self) -> list[str]:
        """The files that a call without a target makes."""
        if self.engine == "verl":
            return [file for study in self.studies.values() for file in outputs.launch_files(study)]
        return [f"results/{self.name}/report.html", *self.pages] if self.is_suite else self.pages

    @property
    def options(self) -> str:
        """`given` as options of the command line."""
        words = [f"--set {key}={value}" if key in SETTABLE else f"--{key} {value}" for key, value in self.given.items()]
        return " ".join(words)

    def study_files(self, names: list[str]) -> list[str]:
        """The last file of each named study in each scale that can train it."""
        return [
            f"results/{name}/studies/{study}/tracking.json"
            for name, config in self.studies.items()
            for study in names
            if trainable(config.scale, study)
        ]

    def claims_files(self) -> list[str]:
        return [f"results/{scale}/claims.json" for scale in self.studies]


def prepare_environment() -> None:
    """Make `python` in rules the interpreter that runs Snakemake, with UTF-8 files, and the project importable from any
    folder."""
    os.environ["PYTHONUTF8"] = "1"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def call_from(given: dict, words: list[str]) -> Call:
    """The studies that `--config` asks for. Bad input: one line on standard error, exit status 2, before any work."""
    try:
        for key in given:
            if key not in CONFIG_KEYS:
                raise UserError(f"unknown --config key {key!r}; the keys are: {', '.join(CONFIG_KEYS)}")
        name, engine = str(given.get("scale", "laptop")), str(given.get("engine", "trl"))
        if REHEARSE in words and not name.endswith(REHEARSAL):
            name += REHEARSAL
        overrides = {key: value for key, value in given.items() if key not in ("scale", "engine")}
        studies = resolve_all(name, **overrides)
        if engine not in ENGINES:
            raise UserError(f"unknown engine {engine!r}; the engines are: {', '.join(ENGINES)}")
        if Path("results").exists() and not Path("results").is_dir():
            raise UserError("results is a file; dynclip writes to a folder of that name here: move the file away")
        check_targets(studies, words)
        return Call(name, studies, engine, overrides)
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        sys.exit(2)


def check_targets(studies: dict[str, RunConfig], words: list[str]) -> None:
    """Result files asked for by name must name things that exist: UserError for an unknown part of their path."""
    for word in words:
        path = re.fullmatch(r"results/(?P<scale>[^/]+)/(?P<kind>runs|samples|scores)/(?P<rest>.+)", word)
        if not path:
            continue
        if path["scale"] not in SCALES:
            raise UserError(f"{word}: {path['scale']!r} is no scale; the scales are: {', '.join(SCALES)}")
        if path["scale"] not in studies:
            raise UserError(
                f"{word}: this call is for scale {', '.join(studies)}; add --config scale={path['scale']} "
                f"(the scales are: {', '.join(SCALES)})"
            )
        check_target(studies[path["scale"]], word, path["kind"], path["rest"].split("/"))


def check_target(config: RunConfig, word: str, kind: str, parts: list[str]) -> None:
    """`check_targets` for one file of a scale; parts: method, seed<N> and what follows, as in its path."""
    base, *options = parts[0].split(SEPARATOR)
    if base not in (BASE, *ARMS):
        raise UserError(f"{word}: unknown method {base!r}; valid are: {', '.join((BASE, *ARMS))}")
    if options and arm(parts[0]).name != parts[0]:
        raise UserError(f"{word}: this method is written {arm(parts[0]).name!r}")
    seed = re.fullmatch(r"seed(\d+)", parts[1]) if len(parts) > 1 else None
    # One job makes the files of all seeds of the call, and of no other.
    if seed and outputs.is_world(config) and int(seed[1]) not in config.seeds:
        raise UserError(f"{word}: seed {seed[1]} is not among this call's seeds; add --config seeds={seed[1]}")
    if kind == "runs" or len(parts) != 4:
        return
    for what, name, valid in (
        ("checkpoint", parts[2], list(config.checkpoints)),
        ("benchmark", Path(parts[3]).stem, config.scale.benchmarks),
    ):
        if name not in valid:
            raise UserError(f"{word}: unknown {what} {name!r}; valid are: {', '.join(valid)}")


def arm_pattern() -> str:
    """What an arm may be in a path, as a regular expression: its name, with options or without."""
    return f"(?:{'|'.join(map(re.escape, ARMS))})(?:{SEPARATOR}[^/{SEPARATOR}]+)*"


def method_pattern() -> str:
    """What a method may be in a path, as a regular expression: the base policy or an arm."""
    return f"(?:{BASE}|{arm_pattern()})"


def priority_of(scale: str) -> int:
    """The priority of a scale's jobs: those of a suite's first scale run first, so that its reports, whose priority is
    10, are made while later scales train."""
    return next((len(names) - names.index(scale) for names in SUITES.values() if scale in names), 1)


def check_start(call: Call, words: list[str], elsewhere: bool = False) -> None:
    """Print the plan of the targets in `words`. Exit with status 2 if it cannot finish (full disk, unwritable results).

    elsewhere: trainings run as jobs of a cluster or in verl, and need no GPUs of this machine.
    """
    try:
        configs, named = list(call.studies.values()), [name for name in STUDIES if name in words]
        asked = [name for name in STUDIES if trainable(configs[0].scale, name)] if "studies" in words else named
        print_plan(configs, Path("results"), asked, remote=elsewhere or call.engine == "verl")
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        sys.exit(2)


def print_next_steps(call: Call) -> None:
    """Print how to look at a finished study. It is printed at exit, so that nothing follows it."""
    page = f"results/{call.name}/report.html"
    atexit.register(
        print,
        f"\nreport:  open {page} in a browser, or: python -m webbrowser {page}\nMLflow:  dynclip ui",
        file=sys.stderr,
    )


def code_of(rule: str, config: RunConfig | None = None) -> str:
    """Digest of the code of a rule. It depends on the rule, the kind of policy and the trainer alone."""
    if rule == "train" and config and config.scale.trainer == "loop":
        return code_digest(*LOOP_CODE)
    if rule in WORLD_CODE and config and outputs.is_world(config):
        return code_digest(*WORLD_CODE[rule])
    if rule in ("page", "front"):
        return digest([code_digest(*CODE[rule]), *(path.read_text() for path in sorted(TEMPLATES.iterdir()))])
    return code_digest(*CODE[rule])


def method_code(name: str) -> str:
    """Digest of one arm, its registry entry and functions. An edit of any of them retrains this arm alone."""
    chosen = arm(name)
    return digest([method_digest(chosen), chosen.settings])


def settings_of(rule: str, config: RunConfig) -> str:
    """Digest of the scale's numbers that a rule reads."""
    if rule == "data":
        return digest(
            [repr(TRAIN_SETS[config.scale.train_set]), *(repr(BENCHMARKS[n]) for n in config.scale.benchmarks)]
        )
    if rule == "warmup":
        limits = config.scale.max_prompt, config.scale.max_completion, config.scale.max_level
        return digest([repr(config.scale.policy), config.scale.template, limits])
    if rule == "evaluate":
        how = repr(config.scale.evaluation), config.scale.template
        return digest([*how, {name: repr(BENCHMARKS[name]) for name in config.scale.benchmarks}])
    execution = config.scale.execution
    return digest(
        {name: getattr(config.scale, name) for name in SETTINGS} | {"s": execution.sampler, "d": execution.dtype}
    )


def claimed_studies() -> list[str]:
    """The studies that claims are decided by."""
    return list(dict.fromkeys(claim.study for claim in CLAIMS.values()))


def table_files(config: RunConfig) -> list[str]:
    """Every table in its three formats."""
    return [f"results/{config.name}/tables/{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")]


def figure_files(config: RunConfig, kind: str) -> list[str]:
    """Every figure in one format."""
    return [f"results/{config.name}/figures/{name}.{kind}" for name in FIGURES]


def study_inputs(config: RunConfig, name: str) -> list[str]:
    """The input files of one study's page: its runs, and the scores of the runs that it evaluates."""
    trained, scored = study_runs(config, [name])
    files = [f"results/{config.name}/runs/{arm}/seed{seed}/run.json" for arm, seed in trained]
    if STUDIES[name].signs and config.scale.has_language_policy:
        files.append(f"results/{config.name}/studies/{name}/signs.json")
    return files + outputs.scored(config, [(*run, checkpoint) for run in scored for checkpoint in config.checkpoints])


def sign_runs(config: RunConfig, name: str) -> tuple[str, list[int]]:
    """(arm, seeds) whose checkpoints the rule `agreement` measures for a study: its baseline's."""
    spec = STUDIES[name]
    return "grpo" if "grpo" in spec.arms else spec.arms[0], list(config.seeds[: spec.seeds])


def sign_inputs(config: RunConfig, name: str) -> list[str]:
    """The records of the runs whose checkpoints the rule `agreement` measures."""
    arm, seeds = sign_runs(config, name)
    return [f"results/{config.name}/runs/{arm}/seed{seed}/run.json" for seed in seeds]
