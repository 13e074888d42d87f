"""The plan: what is left, how long it takes, and what is refused. The doctor's findings."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dynclip.cli import commands
from dynclip.plan import assess, cost, disk, doctor, memory
from dynclip.plan.assess import choose_scale
from dynclip.plan.cost import REFERENCE, REFERENCE_SPEED, Cost, measure_speed, phase_seconds
from dynclip.plan.describe import describe, print_plan
from dynclip.plan.pins import ROLES, Pin
from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import PAPER, PAPER_7B, REAL_SCALES, SCALES, WORKSTATION, WORKSTATION_SMALL

LAPTOP = hardware.Hardware("CPU", 2, 2, 16.0, False, ())
T4, V100, H100 = hardware.Gpu("T4", 15.0, False), hardware.Gpu("V100", 32.0, False), hardware.Gpu("H100", 79.6, True)
MACHINE = replace(LAPTOP, memory_gib=24.0, cpu_bf16=True)


def plan_study(*arguments, **options):
    """The plan; a refusal is raised, as `print_plan` does."""
    made = assess.assess(*arguments, **options)
    if made.refusal:
        raise UserError(made.refusal)
    return made


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """A machine as fast as the reference: no time spent measuring, minutes that do not depend on the load."""
    monkeypatch.setattr(cost, "measure_speed", lambda: REFERENCE_SPEED)


def finish(folder: Path, method: str, seed: int, steps: int, **changes) -> None:
    record = {"state": "finished", "steps": steps} | changes
    write_json(folder / "runs" / method / f"seed{seed}" / "run.json", record)


def test_a_plan_counts_runs_and_evaluations(tmp_path):
    made = plan_study(resolve(methods="grpo,od", seeds="0,1,2", steps=20), tmp_path)
    assert (made.runs, made.runs_left) == (6, 6)
    # An early and a final checkpoint of each run, and the base policy.
    assert (made.evaluations, made.evaluations_left) == (13, 13)
    assert list(tmp_path.iterdir()) == []  # a plan leaves nothing


def test_finished_work_is_subtracted(tmp_path):
    study = resolve(methods="grpo,od", seeds="0,1", steps=20)
    fresh, folder = plan_study(study, tmp_path), tmp_path / "laptop"
    finish(folder, "grpo", 0, 20)
    finish(folder, "grpo", 1, 10)  # finished at another number of steps
    finish(folder, "od", 0, 20, state="running")
    (folder / "runs" / "od" / "seed1").mkdir()
    (folder / "runs" / "od" / "seed1" / "run.json").write_text('{"state": "fini')
    for name in study.scale.benchmarks:
        write_json(folder / "scores" / "grpo" / "seed0" / "final" / f"{name}.json", {})
    write_json(folder / "scores" / "grpo" / "seed0" / "step6" / f"{study.scale.benchmarks[0]}.json", {})
    made = plan_study(study, tmp_path)
    assert (made.runs_left, made.evaluations_left) == (3, 8)
    assert sum(made.seconds.values()) < sum(fresh.seconds.values())
    assert made.disk_needed < fresh.disk_needed


def test_a_finished_study_takes_no_time(tmp_path):
    study = resolve("miniature", methods="grpo", seeds=0)
    folder = tmp_path / "miniature"
    write_json(folder / "base" / "model.json", {})
    finish(folder, "grpo", 0, study.steps)
    for place in ("base/seed0/final", *(f"grpo/seed0/{label}" for label in study.checkpoints)):
        for name in study.scale.benchmarks:
            write_json(folder / "scores" / place / f"{name}.json", {})
    made = plan_study(study, tmp_path)
    assert (made.runs_left, made.evaluations_left, sum(made.seconds.values())) == (0, 0, 0)
    assert dict(describe(made))["time"] == "nothing is left"


def test_phases_by_hand():
    parts = Cost(base_s=60, start_s=10, step_s=0.5, evaluation_s=20, report_s=30, source="")
    # Five runs two at once are three rounds of 10 + 100 * 0.5 s; four evaluations two rounds of 20 s.
    expected = {"base": 60, "train": 3 * 60, "evaluate": 2 * 20, "report": 30}
    assert phase_seconds(parts, 100, True, 5, 4, 2) == expected
    assert phase_seconds(parts, 100, False, 5, 4, 2) == expected | {"base": 0}
    assert phase_seconds(parts, 100, False, 0, 0, 2) == dict.fromkeys(expected, 0)


def test_a_slow_machine_takes_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "measure_speed", lambda: REFERENCE_SPEED / 2)
    slow = cost.estimate(SCALES["laptop"], LAPTOP, tmp_path)
    assert slow.step_s == 2 * REFERENCE.step_s and slow.report_s == 2 * REFERENCE.report_s
    assert measure_speed(0.05) > 0  # the function itself, not the fixture's


@pytest.mark.parametrize(
    ("gpus", "scale", "words"),
    [
        ((), "laptop", "no GPU"),
        ((T4,), "laptop", "T4 has 15 GiB, workstation asks for 16"),
        ((V100,), "laptop", "V100 has no bfloat16"),
        ((T4, H100), "workstation", "H100 has 80 GiB; paper asks for 8 GPUs with 79"),
        ((H100,) * 7, "workstation", "paper asks for 8 GPUs"),
        ((replace(H100, memory_gib=47.4),) * 8, "workstation", "paper asks for 8 GPUs with 79"),
        ((H100,) * 8, "paper", "8 x H100 with 80 GiB"),
    ],
)
def test_scale_and_why(gpus, scale, words):
    chosen, why = choose_scale(replace(LAPTOP, gpus=gpus))
    assert chosen in SCALES and chosen == scale and words in why
    assert memory.fits(SCALES[chosen], replace(LAPTOP, gpus=gpus)) is None


def test_jobs_at_once_are_bounded_by_cores_and_memory():
    scale = SCALES["laptop"]
    assert assess.jobs_at_once(scale, replace(LAPTOP, cores=8)) == 8
    assert assess.jobs_at_once(scale, replace(LAPTOP, cores=8, memory_gib=4.0)) == 2
    assert assess.jobs_at_once(replace(scale, threads=4), LAPTOP) == 1


@pytest.mark.parametrize("where", ["file/results", "/proc/results"])
def test_an_unwritable_results_folder_is_refused(where, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write results there") as caught:
        plan_study(resolve(methods="grpo", seeds=0), tmp_path / where)
    assert "\n" not in str(caught.value)


def test_too_little_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "disk_free", lambda path: 5 * assess.MIB)
    with pytest.raises(UserError, match=r"laptop: 5 MiB free on its disk, the study needs \d\d\d MiB"):
        plan_study(resolve(methods="grpo", seeds=0), tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs the superuser")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_small_or_full_disk_is_refused(small_disk):
    with pytest.raises(UserError, match="1 MiB free on its disk"):
        plan_study(resolve(methods="grpo", seeds=0), small_disk)
    with pytest.raises(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(2**16)):
            pass
    with pytest.raises(UserError, match=r"cannot write results there .No space left on device"):
        plan_study(resolve(methods="grpo", seeds=0), small_disk)


def test_the_printed_plan_names_the_work_each_phase_and_the_disk(tmp_path, capsys):
    print_plan(resolve(methods="id,od", seeds="3,4", steps=20), tmp_path)
    printed = capsys.readouterr().out
    for text in ("laptop", "id od", "3 4", "4 of 4 trainings left", "9 of 9 left", "MiB needed", "is writable"):
        assert text in printed, text
    assert all(f"\n{phase} " in printed for phase in ("base", "train", "evaluate", "report", "time"))


@pytest.fixture
def here(monkeypatch):
    """A function that makes this machine another one, with an empty cache of the hub and a large disk."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    monkeypatch.delenv("DYNCLIP_HUB", raising=False)
    monkeypatch.setattr(hardware, "disk_free", lambda path: 10 * 2**40)

    def become(*gpus, **changes):
        monkeypatch.setattr(hardware, "detect", lambda: replace(MACHINE, gpus=gpus, **changes))

    become()
    return become


def lines_of(study, folder) -> dict[str, str]:
    return dict(describe(assess.assess(study, folder)))


def test_the_paper_scale_is_counted_by_hand(here, tmp_path):
    here(*[H100] * 8)
    made = plan_study(resolve("paper"), tmp_path)
    lines = dict(describe(made))
    assert lines["runs"] == "10 methods x 3 seeds, 30 of 30 trainings left"
    # 17 h 24 min for 400 steps are 156.6 s each, and 30 runs of them 522 hours, on 8 GPUs.
    assert made.seconds["train"] == pytest.approx(30 * (17 * 60 + 24) * 60)
    assert lines["train"].startswith("522 hours (30 runs x 400 steps x 156.6 s") and "4176 GPU hours" in lines["train"]
    # 32 samples of 30, 30 and 83 problems, 4 of 500 and 675, 2 of 1319.
    samples = 32 * (30 + 30 + 83) + 4 * (500 + 675) + 2 * 1319
    assert sum(disk.evaluation_samples(PAPER).values()) == samples == 11914
    assert disk.evaluation_tokens(PAPER) == samples * 3072
    assert "8 GPUs of 47 GiB with 4 completions of 4096 tokens" in lines["memory"]
    # Two float32 policies a run; while one lasts three states of weights and moments, and its policies once more.
    weights = PAPER.policy.architecture.parameters
    written = (30 * 2 * 4 + 3 * 12 + 2 * 4 + 2) * weights
    assert 0 < disk.written(PAPER, 30, 2, 61, 1) - written < 0.01 * written
    assert lines["download"].startswith("Qwen/Qwen2.5-Math-7B 14 GiB, BytedTsinghua-SIA/DAPO-Math-17k 300 MiB, 6 data")


@pytest.mark.parametrize("scale", REAL_SCALES, ids=lambda each: each.name)
def test_every_scale_has_a_plan(scale, here, tmp_path):
    here(*[H100] * 8)
    made, large = plan_study(resolve(scale.name), tmp_path), memory.is_large(scale)
    lines = dict(describe(made))
    assert all(math.isfinite(made.seconds[phase]) for phase in ("base", "train", "evaluate", "report"))
    assert made.seconds["train"] > 0 and made.seconds["evaluate"] > 0
    assert ("memory" in lines) == ("download" in lines) == large and ("GPU hours" in lines["train"]) == bool(
        scale.execution.gpus
    )
    if large:
        assert scale.policy.id in lines["download"] and ("base" in lines) == bool(scale.policy.supervised)


def test_the_whole_plan_is_printed_before_it_is_refused(here, tmp_path, capsys):
    assert commands.main(["plan", "--scale", "paper", "--results", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "GPU hours" in printed.out and "memory" in printed.out and "disk" in printed.out
    assert printed.err == (
        "dynclip: paper: needs 8 GPUs of about 47 GiB each, this machine has none; the largest scale that fits is "
        "laptop; or ask for paper_rehearsal\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_scale_that_fits_is_not_refused(here, tmp_path):
    for name in ("workstation_small", "paper_rehearsal", "workstation_rehearsal"):
        assert plan_study(resolve(name), tmp_path).refusal is None
    with pytest.raises(UserError, match="workstation: needs 1 GPU of about 10 GiB"):
        plan_study(resolve("workstation"), tmp_path)
    here(replace(H100, memory_gib=22.0))
    assert plan_study(resolve("workstation"), tmp_path).refusal is None
    with pytest.raises(UserError, match=r"paper: needs 8 GPUs .* the largest scale that fits is workstation"):
        plan_study(resolve("paper"), tmp_path)


def test_jobs_of_other_machines_are_not_held_against_this_one(here, tmp_path):
    assert plan_study(resolve("paper"), tmp_path, remote=True).refusal is None
    assert plan_study(resolve("paper", nodes="2"), tmp_path, remote=True).refusal is None


def test_two_machines_are_a_matter_for_slurm(here, tmp_path, monkeypatch):
    here(*[H100] * 8)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(
        UserError, match="nodes=2: trainings on several machines are jobs of SLURM: add --workflow-prof"
    ):
        plan_study(resolve("paper", nodes="2"), tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "on each of 2 machines" in lines_of(resolve("paper", nodes="2"), tmp_path)["memory"]


def test_a_language_models_disk_is_refused_in_gib(here, tmp_path, monkeypatch):
    here(*[H100] * 8)
    monkeypatch.setattr(hardware, "disk_free", lambda path: 100 * hardware.GIB)
    with pytest.raises(UserError, match=r"paper: 100 GiB free on its disk, the study needs 2\d\d\d GiB"):
        plan_study(resolve("paper"), tmp_path)


def test_what_is_in_the_cache_is_not_downloaded(here, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("models--Qwen--Qwen2.5-Math-7B", "datasets--openai--gsm8k"):
        (tmp_path / name / "snapshots" / "0").mkdir(parents=True)
    assert PAPER.policy.id in disk.downloads(PAPER)  # a configuration without weights is no model
    (tmp_path / "models--Qwen--Qwen2.5-Math-7B" / "snapshots" / "0" / "model.safetensors").touch()
    missing = disk.downloads(PAPER)
    assert PAPER.policy.id not in missing and "openai/gsm8k" not in missing and "HuggingFaceH4/MATH-500" in missing
    assert disk.downloads(SCALES["laptop"]) == {}
    assert PAPER.policy.id not in disk.downloads(SCALES["paper_rehearsal"])


def finish_with_metrics(folder: Path, seed: int, *seconds: float, state: str = "finished") -> None:
    finish(folder, "grpo", seed, len(seconds), state=state, environment={"cpu": "EPYC"})
    rows = [json.dumps({"step": i, "time/step": s, "train/completion_length": 100}) for i, s in enumerate(seconds)]
    (folder / "runs" / "grpo" / f"seed{seed}" / "metrics.jsonl").write_text("\n".join(rows) + "\n")


def test_finished_runs_replace_the_estimate(here, tmp_path):
    folder = tmp_path / "workstation_small"
    assert cost.estimate(WORKSTATION_SMALL, MACHINE, folder).source == "assumed rate of a core"
    finish_with_metrics(folder, 0, 30.0, 20.0, 22.0)
    finish_with_metrics(folder, 1, 500.0, state="running")
    (folder / "runs" / "grpo" / "seed2").mkdir()
    (folder / "runs" / "grpo" / "seed2" / "run.json").write_text('{"state": "fini')
    after = cost.estimate(WORKSTATION_SMALL, MACHINE, folder)
    assert (after.step_s, after.source) == (22.0, "median of 3 finished steps")


def test_the_papers_step_is_scaled_by_hand():
    assert cost.scaled_step(PAPER_7B) == ((27 * 60 + 18) * 60 / 400, "the paper's time")
    half = replace(PAPER, prompts_per_step=256)
    assert cost.scaled_step(half) == (pytest.approx(156.6 / 2), "scaled from the paper's time")
    four = replace(half, execution=replace(PAPER.execution, gpus=4))  # half the work for half the GPUs
    assert cost.scaled_step(four)[0] == pytest.approx(156.6)
    # A small model's step is bounded: 256 completions of 320 tokens, sampled once and trained on twice.
    assert cost.scaled_step(WORKSTATION)[0] == pytest.approx(256 * 320 * 3 / 20_000)


def test_a_cpus_step_is_computed_by_hand():
    operations = 134_515_008 * 32 * (160 + 96) * (2 + 1 * 6)
    expected = 32 * 96 / 1000 + operations / (2 * cost.CORE_RATE)
    assert cost.computed_step(WORKSTATION_SMALL, MACHINE) == pytest.approx(expected, rel=0.01)


def test_trainings_at_once_share_gpus_or_memory():
    eight = replace(MACHINE, gpus=(H100,) * 8)
    assert assess.jobs_at_once(WORKSTATION, eight) == 8 and assess.jobs_at_once(PAPER, eight) == 1
    assert assess.jobs_at_once(WORKSTATION_SMALL, replace(MACHINE, cores=8, memory_gib=30.0)) == 2


def test_importing_the_plan_is_light():
    code = (
        "import sys, dynclip.plan.describe, dynclip.plan.doctor; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_doctor_names_the_key_packages_and_exits_by_the_pins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "probe_hub", lambda scale: "not asked")
    real = doctor.compare
    monkeypatch.setattr(doctor, "compare", lambda lock: [replace(pin, found=pin.wanted) for pin in real(lock)])
    assert doctor.print_doctor(tmp_path) == 0
    healthy = capsys.readouterr().out
    assert all(name in healthy for name in ROLES) and "cores usable" in healthy and "is writable" in healthy

    def with_an_old_numpy(lock):
        return [Pin("numpy", pin.wanted, "1.0") if pin.name == "numpy" else pin for pin in real(lock)]

    monkeypatch.setattr(doctor, "compare", with_an_old_numpy)
    assert doctor.print_doctor(tmp_path) == 1
    broken = capsys.readouterr().out
    assert re.search(r"numpy: wanted [\d.]+, found 1.0", broken) and "make clean install" in broken


def test_the_hub_is_asked_where_hf_endpoint_says():
    code = "from dynclip.plan.doctor import probe_hub; print(probe_hub())"

    def ask(**environment):
        answer = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return answer.stdout

    said = ask(HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")  # the discard port: refused at once
    assert said.startswith("http://127.0.0.1:9 (HF_ENDPOINT) not reachable")
    assert ask(HF_HUB_OFFLINE="1").startswith("not asked")


def test_the_hub_is_needed_by_the_scale_of_the_machine(here, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor.probe_hub("laptop").endswith("laptop scale needs nothing of it")
    assert "paper scale still needs Qwen/Qwen2.5-Math-7B 14 GiB" in doctor.probe_hub("paper")


def test_the_doctor_asks_for_nvidias_software_only_where_there_is_a_gpu(monkeypatch):
    assert doctor.gpu_state(LAPTOP) == "none"
    monkeypatch.setattr(hardware, "driver", lambda: "590.1")
    found = doctor.gpu_state(replace(LAPTOP, gpus=(H100, T4)))
    assert found.startswith("H100, 80 GiB; T4, 15 GiB, no bfloat16; driver 590.1; ")
    assert "cannot use the GPU" in found or "NCCL" in found


def test_the_doctor_compares_vllms_build_with_the_machine():
    build = doctor.vllm_build(LAPTOP)
    assert "built for C" in build or "not installed" in build
    if "built for CPU" in build:
        assert "make install" not in build
        assert "this machine wants the CUDA build: make install" in doctor.vllm_build(replace(LAPTOP, gpus=(H100,)))


def test_json_of_a_run_without_steps_counts_as_unfinished(tmp_path):
    (tmp_path / "runs" / "grpo" / "seed0").mkdir(parents=True)
    for text in ("[]", json.dumps({"state": "finished"})):
        (tmp_path / "runs" / "grpo" / "seed0" / "run.json").write_text(text)
        assert not assess.is_finished(tmp_path, "grpo", 0, 10)
