"""How the workers of a training are started, and what their failures become. Whole trainings: workflow/test_workers."""

import json
import os

import psutil
import pytest
from torch.distributed import TCPStore, run
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import Execution
from dynclip.training.processes import launch, worker
from dynclip.training.processes.recovery import FAILURE, OutOfMemory, WorkerDied

TWO = Execution(nodes=2, gpus=4)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """SLURM job 7 of two nodes. srun writes its arguments and variables to files and ends with status 137."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[3-4]")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "bin").mkdir()
    scripts = {
        "srun": f'echo "$@" >{tmp_path}/arguments\nenv >{tmp_path}/variables\nexit 137\n',
        "scontrol": '[ "$*" = "show hostnames gpu[3-4]" ] && echo gpu3 && echo gpu4\n',
    }
    for name, body in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}")
        (tmp_path / "bin" / name).chmod(0o755)


def test_a_step_of_srun_asks_for_its_own_share_and_for_nothing_of_the_jobs(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "16")
    command = launch.launch_command(tmp_path / "job.json", TWO, threads=8)
    scale = resolve("paper", gpus="4", nodes="2").scale
    assert scale.execution.nodes == 2 and launch.run_command(command, scale) == 137
    words = (tmp_path / "arguments").read_text().split()
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=32", "--gpus-per-node=4"} <= set(words)
    assert words[-6:-1] == [str(tmp_path / "job.json"), "gpu3:29407", "2", "4", "4"]
    variables = (tmp_path / "variables").read_text()
    assert "SLURM_JOB_ID=7" in variables and "SLURM_NTASKS" not in variables


def test_one_machine_needs_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    command = launch.launch_command(tmp_path / "job.json", Execution(gpus=8), threads=8)
    assert "srun" not in command and command[-5:-1] == ["localhost:0", "1", "8", "8"]


def test_on_one_machine_the_rendezvous_listens_on_loopback_alone(tmp_path, monkeypatch):
    heard = []

    def rendezvous(arguments):
        config = run.config_from_args(arguments)[0]
        handler = get_rendezvous_handler(
            RendezvousParameters(config.rdzv_backend, config.rdzv_endpoint, "9", 1, 1, config.local_addr)
        )
        found = handler.next_rendezvous()
        port = int(found.bootstrap_store_info.master_port)
        client = TCPStore(found.bootstrap_store_info.master_addr, port, is_master=False)  # as a worker connects
        client.set("key", "value")
        sockets = psutil.Process().net_connections("inet")
        heard.extend(each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN)
        handler.shutdown()

    monkeypatch.setattr(run, "run", rendezvous)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "eth0")
    assert launch.main(str(tmp_path / "job.json"), "localhost:0", "1", "2", "0", "5") == 0
    assert heard and set(heard) == {"127.0.0.1"}
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"


def test_without_a_job_or_its_commands_one_line_says_so(slurm, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(UserError, match=r"nodes=2: .* runs in a SLURM job of as many nodes"):
        launch.launch_command(tmp_path / "job.json", TWO, threads=1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "other")
    with pytest.raises(UserError, match=r"nodes=2: .*'hostnames', 'other'.* returned non-zero exit status 1"):
        launch.launch_command(tmp_path / "job.json", TWO, threads=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"nodes=2: .*No such file or directory: 'scontrol'"):
        launch.launch_command(tmp_path / "job.json", TWO, threads=1)


def test_a_machine_without_its_gpus_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    assert launch.main(str(tmp_path / "job.json"), "localhost:0", "1", "4", "4", "5") == 1
    failure = launch.failure_of(tmp_path / FAILURE, 1)
    assert type(failure) is UserError and "4 GPUs needed, 0 visible" in str(failure)


def test_machines_that_do_not_meet_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "RENDEZVOUS_TIMEOUT_S", 1)
    assert launch.main(str(tmp_path / "job.json"), "localhost:0", "2", "1", "0", "5") == 1
    failure = launch.failure_of(tmp_path / FAILURE, 1)
    assert type(failure) is UserError and "RendezvousTimeoutError" in str(failure)


def test_the_message_of_a_failed_worker_decides_what_is_done(tmp_path):
    path = tmp_path / FAILURE
    for kind, expected in (("out of memory", OutOfMemory), ("engine died", WorkerDied), ("bad input", UserError)):
        path.write_text(json.dumps({"kind": kind, "message": "words"}))
        for status in (1, 137):
            failure = launch.failure_of(path, status)
            assert type(failure) is expected and str(failure) == "words"


@pytest.mark.parametrize(
    ("status", "text"), [(137, "ended by SIGKILL"), (-9, "ended by SIGKILL"), (1, "status 1"), (255, "status 255")]
)
def test_workers_that_end_without_a_message_may_be_restarted(status, text, tmp_path):
    failure = launch.failure_of(tmp_path / FAILURE, status)
    assert isinstance(failure, WorkerDied) and text in str(failure)
    (tmp_path / FAILURE).touch()  # as `main` does
    assert isinstance(launch.failure_of(tmp_path / FAILURE, status), WorkerDied)


@pytest.mark.parametrize("text", ["Connection closed by peer [127.0.0.1]:4521", "writev [127.0.0.1]:22: Broken pipe"])
def test_the_partners_of_a_dead_worker_are_not_the_cause(text, monkeypatch):
    error = RuntimeError(f"[../third_party/gloo/gloo/transport/tcp/pair.cc:534] {text}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert worker.kind_of(error) == "consequence"
    assert worker.kind_of(RuntimeError("shape mismatch")) == "error"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert worker.kind_of(error) == "error"
