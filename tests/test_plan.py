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
from dynclip.plan.cost import MEASURED, REFERENCE_SPEED, Cost, makespan, measure_speed, phase_seconds
from dynclip.plan.describe import describe, print_plan
from dynclip.plan.pins import ROLES
from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import PAPER, PAPER_7B, REAL_SCALES, SCALES, SUITES, WORKSTATION, WORKSTATION_SMALL

LAPTOP = hardware.Hardware("CPU", 2, 2, 16.0, False, ())
T4, V100, H100 = hardware.Gpu("T4", 15.0, False), hardware.Gpu("V100", 32.0, False), hardware.Gpu("H100", 79.6, True)
MACHINE = replace(LAPTOP, memory_gib=24.0, cpu_bf16=True)


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """A machine as fast as the reference: no time spent measuring, minutes that do not depend on the load."""
    monkeypatch.setattr(cost, "measure_speed", lambda: REFERENCE_SPEED)


def finish(folder: Path, method: str, seed: int, steps: int, **changes) -> None:
    record = {"state": "finished", "steps": steps} | changes
    write_json(folder / "runs" / method / f"seed{seed}" / "run.json", record)


def test_finished_work_is_subtracted_and_a_plan_leaves_nothing(tmp_path):
    study = resolve("facts", methods="grpo,od", seeds="0,1", steps=20)
    fresh, folder = assess.assess(study, tmp_path), tmp_path / "facts"
    assert list(tmp_path.iterdir()) == []
    # An early and a final checkpoint of each run, and the base policy of each seed.
    assert (fresh.runs, fresh.runs_left, fresh.evaluations, fresh.evaluations_left) == (4, 4, 10, 10)
    finish(folder, "grpo", 0, 20)
    finish(folder, "grpo", 1, 10)  # finished at another number of steps
    finish(folder, "od", 0, 20, state="running")
    record = folder / "runs" / "od" / "seed1" / "run.json"
    record.parent.mkdir()
    for text in ("[]", '{"state": "finished"}', '{"state": "fini'):
        record.write_text(text)
        assert not assess.is_finished(folder, "od", 1, 20)
    for name in study.scale.benchmarks:
        write_json(folder / "scores" / "grpo" / "seed0" / "final" / f"{name}.json", {})
    write_json(folder / "base" / "seed1" / "model.json", {})
    made = assess.assess(study, tmp_path)
    assert (made.runs_left, made.evaluations_left) == (3, 9)
    assert made.seconds["base"] == fresh.seconds["base"] / 2
    assert sum(made.seconds.values()) < sum(fresh.seconds.values()) and made.disk_needed < fresh.disk_needed


def test_a_finished_study_takes_no_time(tmp_path):
    study, folder = resolve("miniature", methods="grpo", seeds=0), tmp_path / "miniature"
    write_json(folder / "base" / "seed0" / "model.json", {})
    finish(folder, "grpo", 0, study.steps)
    for place in ("base/seed0/final", *(f"grpo/seed0/{label}" for label in study.checkpoints)):
        for name in study.scale.benchmarks:
            write_json(folder / "scores" / place / f"{name}.json", {})
    made = assess.assess(study, tmp_path)
    assert (made.runs_left, made.evaluations_left, sum(made.seconds.values())) == (0, 0, 0)
    assert dict(describe(made))["time"] == "nothing is left"


def test_phases_by_hand():
    parts = Cost(base_s=60, start_s=10, step_s=0.5, evaluation_s=20, report_s=30, source="")
    # Five jobs of one run, two at once, are three rounds of 10 + 100 * 0.5 s; four evaluations two rounds of 10 + 20 s.
    expected = {"base": 60, "train": 3 * 60, "evaluate": 2 * 30, "report": 30}
    assert phase_seconds(parts, 100, 1, [1] * 5, [1] * 4, 2) == expected
    assert phase_seconds(parts, 100, 0, [1] * 5, [1] * 4, 2) == expected | {"base": 0}
    assert phase_seconds(parts, 100, 0, [], [], 2) == dict.fromkeys(expected, 0)
    # Two arms of 20 seeds side by side, then one; each job starts once.
    arms = {"base": 20 * 60, "train": 2 * (10 + 20 * 100 * 0.5), "evaluate": 10 + 40 * 20, "report": 30}
    assert phase_seconds(parts, 100, 20, [20] * 3, [40, 20], 2) == arms


def test_a_study_of_jobs_ends_when_its_last_job_ends():
    assert makespan([], 2) == 0 and makespan([5], 2) == 5
    assert makespan([1, 1, 4, 3], 2) == 5 and makespan([2.0] * 5, 2) == 6


def test_a_slow_machine_takes_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "measure_speed", lambda: REFERENCE_SPEED / 2)
    slow = cost.estimate(SCALES["facts"], LAPTOP, tmp_path)
    assert slow.step_s == 2 * MEASURED["facts"].step_s and slow.report_s == 2 * MEASURED["facts"].report_s
    assert measure_speed(2) > 0  # the function itself, not the fixture's


def test_a_step_with_other_batches_takes_its_share(tmp_path):
    """The miniature samples 16 completions a step instead of 384, trains twice on each, and has a smaller policy."""
    small = cost.products(SCALES["miniature"].policy) / cost.products(SCALES["facts"].policy)
    tiny = cost.estimate(SCALES["miniature"], LAPTOP, tmp_path)
    assert tiny.step_s == pytest.approx(MEASURED["facts"].step_s * small * (16 * 3) / (384 * 2))
    large = cost.estimate(SCALES["laptop_large"], LAPTOP, tmp_path)
    assert 10 < large.step_s / cost.estimate(SCALES["worded"], LAPTOP, tmp_path).step_s < 40


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
    assert chosen in {**SCALES, **SUITES} and chosen == scale and words in why
    assert chosen in SUITES or memory.fits(SCALES[chosen], replace(LAPTOP, gpus=gpus)) is None


def test_jobs_at_once_are_bounded_by_cores_memory_and_gpus():
    facts, eight = SCALES["facts"], replace(MACHINE, gpus=(H100,) * 8)
    assert assess.jobs_at_once(facts, replace(LAPTOP, cores=8)) == 8
    assert assess.jobs_at_once(facts, replace(LAPTOP, cores=8, memory_gib=4.0)) == 2
    assert assess.jobs_at_once(replace(facts, threads=4), LAPTOP) == 1
    assert assess.jobs_at_once(WORKSTATION, eight) == 8 and assess.jobs_at_once(PAPER, eight) == 1
    assert assess.jobs_at_once(WORKSTATION_SMALL, replace(MACHINE, cores=8, memory_gib=30.0)) == 2


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs the superuser")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_small_or_full_disk_is_refused(small_disk):
    study = resolve("facts", methods="grpo", seeds=0)
    assert "1 MiB free on its disk" in assess.assess(study, small_disk).refusal
    with pytest.raises(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(2**16)):
            pass
    with pytest.raises(UserError, match=r"cannot write results there .No space left on device"):
        assess.assess(study, small_disk)


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


def test_the_paper_scale_is_counted_by_hand(here, tmp_path):
    here(*[H100] * 8)
    made = assess.assess(resolve("paper"), tmp_path)
    # 17 h 24 min for 400 steps, 30 times, on 8 GPUs.
    assert made.seconds["train"] == pytest.approx(30 * (17 * 60 + 24) * 60)
    assert "30 runs x 400 steps x 156.6 s" in dict(describe(made))["train"]
    assert "4176 GPU hours" in dict(describe(made))["train"]
    # 32 samples of 30, 30 and 83 problems, 4 of 500 and 675, 2 of 1319.
    assert disk.evaluation_tokens(PAPER) == (32 * (30 + 30 + 83) + 4 * (500 + 675) + 2 * 1319) * 3072
    # Two float32 policies a run; while one lasts three states of weights and moments, and its policies once more.
    weights = PAPER.policy.architecture.parameters
    written = (30 * 2 * 4 + 3 * 12 + 2) * weights
    assert 0 < disk.written(PAPER, 30, 2, 61, 1) - written < 0.01 * written


@pytest.mark.parametrize("scale", REAL_SCALES, ids=lambda each: each.name)
def test_every_scale_has_a_plan_with_a_number_for_each_phase(scale, here, tmp_path, capsys):
    here(*[H100] * 8)
    large, gpus = memory.is_large(scale), scale.execution.gpus
    [made] = print_plan([resolve(scale.name)], tmp_path)
    seconds = made.seconds
    printed = capsys.readouterr().out
    assert all(math.isfinite(value) for value in seconds.values()) and seconds["train"] > 0 < seconds["evaluate"]
    assert all((f"\n{name} " in printed) == (value > 0) for name, value in seconds.items())
    assert f"{len(scale.methods) * len(scale.seeds)} trainings left" in printed and "is writable" in printed
    assert ("\nmemory " in printed) == ("\ndownload " in printed) == large and ("GPU hours" in printed) == bool(gpus)


def test_the_plan_of_a_suite_has_a_table_for_each_scale_and_the_time_of_all(here, tmp_path, capsys, monkeypatch):
    assert commands.main(["plan", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines() if line.startswith("Plan of ")] == list(SUITES["laptop"])
    plans = [assess.assess(resolve(name), tmp_path) for name in SUITES["laptop"]]
    minutes = sum(sum(made.seconds.values()) for made in plans) / 60
    assert printed.splitlines()[-1].startswith(f"time  about {minutes:.0f} minutes")
    # Enough disk for each scale, and not for all of them.
    enough = max(made.disk_needed for made in plans)
    monkeypatch.setattr(hardware, "disk_free", lambda path: enough)
    assert commands.main(["plan", "--results", str(tmp_path)]) == 2
    assert re.search(r"free on its disk, all scales need \d+ MiB", capsys.readouterr().err)


def test_the_whole_plan_is_printed_before_it_is_refused(here, tmp_path, capsys):
    assert commands.main(["plan", "--scale", "paper", "--results", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "GPU hours" in printed.out and "memory" in printed.out and "disk" in printed.out
    assert printed.err == (
        "dynclip: paper: needs 8 GPUs of about 47 GiB each, this machine has none; the largest scale that fits is "
        "laptop; or ask for paper_rehearsal\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_fits_is_not_refused(here, tmp_path, monkeypatch):
    def refusal(scale, remote=False, **options):
        return assess.assess(resolve(scale, **options), tmp_path, remote=remote).refusal or ""

    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not any(map(refusal, ("facts", "workstation_small", "paper_rehearsal", "workstation_rehearsal")))
    assert "workstation: needs 1 GPU of about 10 GiB" in refusal("workstation")
    assert "gpu_generated: needs 1 GPU, this machine has none" in refusal("gpu_generated")
    assert not refusal("gpu_generated", gpus="0") and not refusal("gpu_generated_rehearsal")
    assert not refusal("paper", remote=True) and not refusal("paper", remote=True, nodes="2")
    here(replace(H100, memory_gib=22.0))
    assert not refusal("workstation") and "the largest scale that fits is workstation" in refusal("paper")
    here(*[H100] * 8)
    assert not refusal("paper")
    assert "trainings on several machines are jobs of SLURM: add --workflow-profile" in refusal("paper", nodes="2")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not refusal("paper", nodes="2")
    monkeypatch.setattr(hardware, "disk_free", lambda path: 100 * hardware.GIB)
    assert re.search(r"paper: 100 GiB free on its disk, the study needs 1\d\d\d GiB", refusal("paper"))
    monkeypatch.setattr(hardware, "disk_free", lambda path: 5 * assess.MIB)
    assert re.search(r"facts: 5 MiB free on its disk, the study needs \d\d\d MiB", refusal("facts"))


def test_what_is_in_the_cache_is_not_downloaded(here, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("models--Qwen--Qwen2.5-Math-7B", "datasets--openai--gsm8k"):
        (tmp_path / name / "snapshots" / "0").mkdir(parents=True)
    assert PAPER.policy.id in disk.downloads(PAPER)  # a configuration without weights is no model
    (tmp_path / "models--Qwen--Qwen2.5-Math-7B" / "snapshots" / "0" / "model.safetensors").touch()
    missing = disk.downloads(PAPER)
    assert PAPER.policy.id not in missing and "openai/gsm8k" not in missing and "HuggingFaceH4/MATH-500" in missing
    assert disk.downloads(SCALES["facts"]) == {}
    assert PAPER.policy.id not in disk.downloads(SCALES["paper_rehearsal"])


def test_finished_runs_replace_the_estimate(tmp_path):
    assert cost.estimate(WORKSTATION_SMALL, MACHINE, tmp_path).source == "a run on 2 cores"
    for seed, state, seconds in ((0, "finished", (30.0, 20.0, 22.0)), (1, "running", (500.0,))):
        finish(tmp_path, "grpo", seed, len(seconds), state=state)
        rows = "".join(json.dumps({"time/step": value}) + "\n" for value in seconds)
        (tmp_path / "runs" / "grpo" / f"seed{seed}" / "metrics.jsonl").write_text(rows)
    finish(tmp_path, "grpo", 2, 9)  # without metrics
    after = cost.estimate(WORKSTATION_SMALL, MACHINE, tmp_path)
    assert (after.step_s, after.source) == (22.0, "median of 3 finished steps")


def test_a_measured_step_is_scaled_by_hand():
    assert cost.scaled_step(PAPER_7B, MACHINE) == ((27 * 60 + 18) * 60 / 400, "the paper's time")
    half = replace(PAPER, prompts_per_step=256)
    assert cost.scaled_step(half, MACHINE) == (pytest.approx(156.6 / 2), "scaled from the paper's time")
    four = replace(half, execution=replace(PAPER.execution, gpus=4))  # half the work for half the GPUs
    assert cost.scaled_step(four, MACHINE)[0] == pytest.approx(156.6)
    # A small model's step is bounded: 256 completions of 320 tokens, sampled once and trained on twice.
    assert cost.scaled_step(WORKSTATION, MACHINE)[0] == pytest.approx(256 * 320 * 3 / 20_000)
    assert cost.scaled_step(WORKSTATION_SMALL, MACHINE) == (49.3, "a run on 2 cores")
    assert cost.scaled_step(WORKSTATION_SMALL, replace(MACHINE, cores=1, cpu_bf16=False))[0] == 4 * 49.3


def test_importing_the_plan_is_light():
    code = (
        "import sys, dynclip.plan.describe, dynclip.plan.doctor; sys.exit(bool({'torch', 'pandas'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_doctor_names_the_key_packages_and_exits_by_the_pins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "probe_hub", lambda scale: "not asked")
    real = doctor.compare
    monkeypatch.setattr(doctor, "compare", lambda lock: [replace(pin, found=pin.wanted) for pin in real(lock)])
    assert doctor.print_doctor(tmp_path) == 0
    healthy = capsys.readouterr().out
    assert all(name in healthy for name in ROLES) and "cores usable" in healthy and "is writable" in healthy
    monkeypatch.setattr(doctor, "compare", lambda lock: [replace(pin, found="0.1") for pin in real(lock)])
    assert doctor.print_doctor(tmp_path) == 1
    broken = capsys.readouterr().out
    assert re.search(r"numpy: wanted [\d.]+, found 0.1", broken) and "make clean install" in broken


def test_the_hub_is_asked_where_hf_endpoint_says(here, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert doctor.probe_hub().startswith("http://127.0.0.1:9 (HF_ENDPOINT) not reachable")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor.probe_hub().startswith("not asked")
    assert "needs nothing of it" in doctor.probe_hub("laptop")
    assert "paper scale still needs Qwen/Qwen2.5-Math-7B 14 GiB" in doctor.probe_hub("paper")


def test_the_doctor_compares_torch_and_vllm_with_the_machine(monkeypatch):
    monkeypatch.setattr(hardware, "driver", lambda: "590.1")
    found = doctor.gpu_state(replace(LAPTOP, gpus=(H100, T4)))
    assert found.startswith("H100, 80 GiB; T4, 15 GiB, no bfloat16; driver 590.1; ")
    assert doctor.gpu_state(LAPTOP) == "none" and ("cannot use the GPU" in found or "NCCL" in found)
    build = doctor.vllm_build(LAPTOP)
    assert "built for C" in build or "not installed" in build
    if "built for CPU" in build:
        assert "make install" not in build
        assert "this machine wants the CUDA build: make install" in doctor.vllm_build(replace(LAPTOP, gpus=(H100,)))
