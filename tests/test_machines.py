"""A training on several machines: what each tells the others. Whole trainings: tests/workflow/test_workers.py."""

import json
import os

import pytest

from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.studies.scales import Execution
from dynclip.training.processes import machines
from dynclip.training.processes.recovery import WorkerDied
from dynclip.training.processes.workers import FAILURE

TWO = Execution(nodes=2, gpus=4)


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """srun(body): makes a command of that name which writes its words and variables down, then runs `body`."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def write(body: str) -> None:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "srun"
        program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\nenv >{tmp_path}/variables\n{body}\n')
        program.chmod(0o755)

    return write


def test_a_step_asks_for_each_machines_part_and_for_nothing_of_the_jobs(srun, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "16")
    srun("exit 0")
    assert machines.run_on_machines(tmp_path / "job.json", TWO, threads=8) is None
    words = (tmp_path / "words").read_text().split()
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=32", "--gpus-per-node=4"} <= set(words)
    assert words[-4] == str(tmp_path / "job.json") and words[-2:] == ["4", "4"]
    given = (tmp_path / "variables").read_text()
    assert "SLURM_JOB_ID=7" in given and "SLURM_NTASKS" not in given


def test_the_worst_end_that_machines_told_counts(srun, tmp_path):
    """A killed process is the cause of the failures of those that waited for it."""
    attempt = "shift $(($# - 3))\n"  # then $1: before the numbers of processes and GPUs
    srun(attempt + f"for status in 1 -9; do echo $status >{tmp_path}/failed-$1-$status.json; done\nexit 1")
    assert machines.run_on_machines(tmp_path / "job.json", TWO, threads=1) == -9


def test_machines_that_end_without_a_word_may_be_started_again(srun, tmp_path):
    srun("exit 3")
    with pytest.raises(WorkerDied, match="srun ended with status 3"):
        machines.run_on_machines(tmp_path / "job.json", TWO, threads=1)


def test_without_a_job_or_srun_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=r"nodes=2: .* runs in a SLURM job of as many nodes"):
        machines.run_on_machines(tmp_path / "job.json", TWO, threads=1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="nodes=2: srun is not found"):
        machines.run_on_machines(tmp_path / "job.json", TWO, threads=1)


@pytest.mark.parametrize(("number", "said"), [("0", "4 GPUs needed, 0 visible"), ("1", "not seen within 0.3 s")])
def test_a_machine_that_cannot_begin_says_why_to_all(number, said, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    monkeypatch.setattr(machines, "MEETING_S", 0.3)
    for name, value in {"SLURM_PROCID": number, "SLURM_NTASKS": "2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert machines.main(str(tmp_path / "job.json"), "5", "4", "4") == 1
    assert machines.failures(tmp_path, "5") == [1] and machines.failures(tmp_path, "6") == []
    assert said in json.loads((tmp_path / FAILURE).read_text())["message"]


def test_all_meet_where_the_first_machine_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    place = tmp_path / "meeting.json"
    first = machines.meeting(place, first=True)
    assert first == machines.meeting(place, first=False) and first[0] == "127.0.0.1" and first[1] > 0
