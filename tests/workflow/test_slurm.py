"""What the SLURM profile submits, with stand-ins for SLURM's commands that run a job at once; GPUs of one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import RESULTS, ROOT, Workspace, copy_project, slurm_commands

from dynclip.plan.resources import needs, train_resources
from dynclip.studies.overrides import resolve

SNAKEMAKE = (
    sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", "--latency-wait", "5",
    "--slurm-init-seconds-before-status-checks", "1",  # 40 seconds would pass before the first look at a job
)  # fmt: skip


class Cluster:
    """A copy of the project beside stand-ins for SLURM's commands."""

    def __init__(self, root: Path):
        self.workspace: Workspace = copy_project(root / "workspace")
        self.folder = root / "slurm"
        self.environment = slurm_commands(self.folder)

    def run(self, *words: str) -> subprocess.CompletedProcess:
        """`snakemake` with the SLURM profile; what earlier calls submitted is forgotten."""
        (self.folder / "calls.jsonl").unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return self.workspace.run(*SNAKEMAKE, *words, timeout=3600)

    def calls(self, command: str) -> list[list[str]]:
        rows = [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        return [row[1:] for row in rows if row[0] == command]

    def submitted(self) -> dict[str, list[list[str]]]:
        """Job comment (rule and wildcards) -> the words of each sbatch."""
        found = {}
        for words in self.calls("sbatch"):
            found.setdefault(after(words, "--comment"), []).append(words)
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    return Cluster(tmp_path_factory.mktemp("cluster"))


def after(words: list[str], option: str) -> str:
    """The word after `option`."""
    return words[words.index(option) + 1]


def run_file(method: str, seed: int, scale: str = "miniature") -> str:
    return f"results/{scale}/runs/{method}/seed{seed}/run.json"


@pytest.mark.workflow
def test_each_training_is_one_job_and_small_rules_stay_local(cluster):
    targets = [run_file("grpo", 0), run_file("od", 0), f"{RESULTS}/scores/grpo/seed0/final/facts.json"]
    done = cluster.run("--config", "scale=miniature", "methods=grpo,od", "seeds=0", "--", *targets)
    assert done.returncode == 0, done.stdout[-4000:]
    jobs = cluster.submitted()
    wildcards = ("train_wildcards_grpo", "train_wildcards_od", "evaluate_wildcards_grpo")
    assert set(jobs) == {"rule_warmup", *(f"rule_{name}" for name in wildcards)}
    assert all(len(each) == 1 for each in jobs.values())
    for name, [words] in jobs.items():
        assert {"--nodes=1", "--ntasks=1", "--requeue"} <= set(words), name
        assert (after(words, "-t"), after(words, "--mem"), after(words, "-p")) == ("60", "4096", "gpu"), name
        assert "--cpus-per-task=1" in words, name
        assert ("--signal=TERM@600" in words) == name.startswith("rule_train"), name
        assert not [word for word in words if word.startswith("--gpus")], name
    steps = cluster.calls("srun")
    assert len(steps) == 4 and all("-n1" in step for step in steps)  # each command runs once
    assert sum(any("train:" in word for word in step) for step in steps) == 2
    for method in ("grpo", "od"):
        assert json.loads((cluster.workspace.root / run_file(method, 0)).read_text())["state"] == "finished"


@pytest.mark.slow
@pytest.mark.workflow
def test_a_training_that_is_told_to_stop_is_submitted_again_and_goes_on(cluster):
    """SIGTERM reaches every process of the step, as SLURM sends it: none around the training may end before it does."""
    run = cluster.workspace.root / Path(run_file("grpo", 7)).parent
    (cluster.folder / "end_early").write_text(str(run / "state" / "metrics.jsonl"))
    config = ("--config", "scale=miniature", "methods=grpo", "seeds=7", "steps=30")
    done = cluster.run(*config, "--", run_file("grpo", 7))
    assert done.returncode == 0, done.stdout[-4000:]
    first, second = cluster.submitted()["rule_train_wildcards_grpo"]
    assert (after(first, "-t"), after(second, "-t")) == ("60", "120")
    [failed] = (cluster.workspace.root / ".snakemake" / "slurm_logs" / "rule_train" / "grpo").glob("*.log")
    last_words = failed.read_text()
    assert 0 < last_words.find("checkpoints are written") < last_words.find("Error in rule train"), last_words[-3000:]
    assert "resuming at step" in (cluster.workspace.root / RESULTS / "logs/train/grpo.log").read_text()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(30))


@pytest.mark.slow
@pytest.mark.workflow
def test_a_training_on_two_machines_is_a_job_of_two_nodes_that_starts_a_task_on_each(cluster):
    """Told to stop, at the end of its time, it too is submitted again and goes on: both machines hear of it."""
    run = cluster.workspace.root / Path(run_file("od", 8)).parent
    (cluster.folder / "end_early").write_text(str(run / "state" / "metrics.jsonl"))
    config = ("--config", "scale=miniature", "methods=od", "seeds=8", "steps=20", "nodes=2", "trainer=trl")
    done = cluster.run(*config, "--", run_file("od", 8))
    assert done.returncode == 0, done.stdout[-4000:]
    jobs = cluster.submitted()["rule_train_wildcards_od_8"]
    assert [after(words, "-t") for words in jobs] == ["60", "120"]
    for words in jobs:
        assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=1"} <= set(words)
        assert "--signal=TERM@600" in words
    steps = [step for step in cluster.calls("srun") if "dynclip.training.processes.launch" in step]
    others = [step for step in cluster.calls("srun") if step not in steps]
    assert not any("train:" in word for step in others for word in step)  # the plugin starts no step around them
    assert len(steps) == 2 and all({"--nodes=2", "--ntasks=2", "--overlap"} <= set(step) for step in steps)
    record = json.loads((run / "run.json").read_text())
    assert (record["execution"]["nodes"], record["execution"]["processes"]) == (2, 2)
    assert [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()] == list(range(20))


@pytest.mark.slow
@pytest.mark.workflow
def test_a_training_on_eight_gpus_is_one_task(cluster):
    """No machine here has them: sbatch refuses, which also shows what the retries ask for."""
    (cluster.folder / "refuse").touch()
    folder = cluster.workspace.root / "results" / "workstation"
    inputs = ["data/manifest.json", "data/train.jsonl", "base/model.json"]
    for name in inputs + [f"data/{benchmark}.jsonl" for benchmark in resolve("workstation").scale.benchmarks]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    config = ("--config", "scale=workstation", "gpus=8", "methods=grpo", "seeds=0")
    target = "results/workstation/scores/base/seed0/final/gsm8k.json"
    done = cluster.run(*config, "--", run_file("grpo", 0, "workstation"), target)
    (cluster.folder / "refuse").unlink()
    assert done.returncode == 1 and "no such machines here" in done.stdout, done.stdout[-4000:]
    jobs = cluster.submitted()
    trainings = jobs["rule_train_wildcards_grpo_0"]
    assert [after(words, "-t") for words in trainings] == ["1440", "2880", "4320"]
    for words in trainings:
        assert {"--gpus=8", "--nodes=1", "--cpus-per-task=32", "--signal=TERM@600"} <= set(words)
        # One task, sbatch's default, which starts a process per GPU itself; the plugin would ask for more per GPU.
        assert not [word for word in words if "ntasks" in word]
    evaluation = jobs["rule_evaluate_wildcards_base_0_final"][0]
    assert {"--gpus=1", "--nodes=1", "--cpus-per-task=4"} <= set(evaluation) and after(evaluation, "-t") == "480"


def test_gpus_of_two_machines_are_asked_for_by_machine():
    """A sum of them, the plugin's way, could be spread unevenly; its `gpu` beside `tasks` would be tasks per GPU."""
    study = resolve("paper", nodes="2")
    asked = train_resources(study)
    assert (asked["nodes"], asked["tasks"], asked["mpi"]) == (2, 2, "srun") and "gpu" not in asked
    assert {"--gpus-per-node=8", "--ntasks-per-node=1"} <= set(asked["slurm_extra"].split())
    assert needs(study)["train"] == needs(resolve("paper"))["train"]  # of each machine
    assert "tasks" not in train_resources(resolve("paper"))


def test_the_papers_trainings_ask_for_a_whole_machine():
    asked = needs(resolve("paper"))
    training, evaluation = asked["train"], asked["evaluate"]
    assert (training.gpus, training.threads, training.limit(1), training.limit(3)) == (8, 8 * 8, 1440, 4320)
    assert training.memory_mib > 8 * 7_615_616_512 * 4 / 2**20  # each process loads the weights in float32
    assert (evaluation.gpus, asked["warmup"].gpus) == (1, 0)  # its base policy is downloaded, not trained
    assert {each.gpus for each in needs(resolve("paper_rehearsal")).values()} == {0}


# Jobs of one GPU each on a machine with two; each writes how many run beside it.
TWO_GPUS = """
from dynclip.plan.resources import share_gpus
from dynclip.runtime import hardware
from dynclip.studies.overrides import resolve

hardware.gpus = lambda: (hardware.Gpu("H100", 80.0, True),) * 2
share_gpus(workflow, resolve("{scale}"))

rule all:
    input: expand("beside/{{job}}", job=range(5))

rule one:
    output: "beside/{{job}}"
    resources: gpu=1
    shell: "mkdir on-{{wildcards.job}}; sleep 1; ls | grep -c on- > {{output}}; rmdir on-{{wildcards.job}}"
"""


@pytest.mark.parametrize(
    ("scale", "words", "gpus"),
    [("paper", (), 2), ("paper", ("--resources", "gpu=1"), 1), ("facts", (), None)],
)
def test_jobs_on_one_machine_take_no_more_gpus_than_are_visible(scale, words, gpus, tmp_path):
    """With bare `--cores all`, which Snakemake alone takes for any number of GPUs."""
    (tmp_path / "Snakefile").write_text(TWO_GPUS.format(scale=scale))
    command = [sys.executable, "-m", "snakemake", "--cores", "8", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    beside = [int((tmp_path / "beside" / str(job)).read_text()) for job in range(5)]
    assert gpus is None or max(beside) <= gpus
    assert ("gpu" in done.stderr.partition("Provided resources:")[2].partition("\n")[0]) == (gpus is not None)
