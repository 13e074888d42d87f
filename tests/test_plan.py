"""The plan: what is left, how long, and what it refuses; the doctor's verdict."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dynclip.cli import commands
from dynclip.plan import assess, calibration, disk, doctor, memory
from dynclip.plan.assess import choose_scale
from dynclip.plan.calibration import REFERENCE, Calibration, estimate_minutes
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
    monkeypatch.setattr(assess, "measure_speed", lambda: REFERENCE.reference_score)


def finish(folder: Path, method: str, seed: int, steps: int, **changes) -> None:
    record = {"state": "finished", "steps": steps} | changes
    write_json(folder / "runs" / method / f"seed{seed}" / "run.json", record)


def test_a_plan_counts_runs_and_evaluations(tmp_path):
    made = plan_study(resolve(methods="grpo,od", seeds="0,1,2", steps=20), tmp_path)
    assert (made.runs, made.runs_left) == (6, 6)
    assert (made.evaluations, made.evaluations_left) == (
        13,
        13,
    )  # an early and a final checkpoint each, the base policy
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
    assert made.minutes < fresh.minutes and made.disk_needed < fresh.disk_needed


def test_a_finished_study_takes_no_time(tmp_path):
    study = resolve("miniature", methods="grpo", seeds=0)
    folder = tmp_path / "miniature"
    write_json(folder / "base" / "model.json", {})
    finish(folder, "grpo", 0, study.steps)
    for place in ("base/seed0/final", *(f"grpo/seed0/{label}" for label in study.checkpoints)):
        for name in study.scale.benchmarks:
            write_json(folder / "scores" / place / f"{name}.json", {})
    made = plan_study(study, tmp_path)
    assert (made.runs_left, made.evaluations_left, made.minutes) == (0, 0, 0)
    assert ("minutes", "about 0: nothing is left") in [(name, text.partition(" (")[0]) for name, text in describe(made)]


def test_minutes_by_hand():
    calibration = Calibration(warm_start_s=60, step_s=0.5, start_s=10, evaluation_s=20, report_s=30, reference_score=1)
    # Five runs two at once are three rounds of 10 + 100 * 0.5 s; four evaluations two rounds of 20 s.
    seconds = 60 + 30 + 3 * 60 + 2 * 20
    assert estimate_minutes(100, True, 5, 4, 2, 1.0, calibration) == pytest.approx(seconds / 60)
    assert estimate_minutes(100, True, 5, 4, 2, 2.0, calibration) == pytest.approx(seconds / 120)
    assert estimate_minutes(100, False, 0, 0, 2, 1.0, calibration) == 0


def test_a_measured_speed_is_a_positive_rate():
    """In a process of its own: the fixture above replaces the function here."""
    code = "from dynclip.plan.calibration import measure_speed; import sys; sys.exit(not measure_speed(0.05) > 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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


def test_a_scale_that_was_asked_for_says_so(tmp_path):
    assert plan_study(resolve("miniature", methods="grpo", seeds=0), tmp_path).why.startswith("asked for")


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


def test_a_small_disk_is_refused(small_disk):
    with pytest.raises(UserError, match="1 MiB free on its disk"):
        plan_study(resolve(methods="grpo", seeds=0), small_disk)


def test_a_full_disk_is_refused(small_disk):
    with pytest.raises(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(2**16)):
            pass
    with pytest.raises(UserError, match=r"cannot write results there .No space left on device"):
        plan_study(resolve(methods="grpo", seeds=0), small_disk)


def test_the_printed_plan_names_everything(tmp_path, capsys):
    print_plan(resolve(methods="id,od", seeds="3,4", steps=20), tmp_path)
    printed = capsys.readouterr().out
    for words in (
        "laptop", "id od", "3 4", "2 methods x 2 seeds, 4 of 4 trainings left",
        "20 rollout batches a run, 8 updates",
        "step6, final on chain_sum", "9 of 9 left", "about ", "MiB needed", "is writable",
    ):  # fmt: skip
        assert words in printed, words


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
    """The plan's lines by name; parts of one are joined."""
    lines, last = {}, ""
    for name, text in describe(assess.assess(study, folder)):
        last = name or last
        lines[last] = f"{lines[last]} | {text}" if last in lines else text
    return lines


def test_the_paper_scale_is_counted_by_hand(here, tmp_path):
    here(*[H100] * 8)
    lines = lines_of(resolve("paper"), tmp_path)
    assert lines["runs"] == "10 methods x 3 seeds, 30 of 30 trainings left"
    assert lines["evaluated"].startswith("step120, final on aime24, aime25, amc, math500, gsm8k, olympiad, 61 of 61")
    # 17 h 24 min for 400 steps are 156.6 s each, and 30 runs of them 522 hours, on 8 GPUs.
    assert lines["training"].startswith("17.4 hours a run, 156.6 s a step: measured for 4096 completions")
    assert 10 * 3 * 400 * 156.6 / 3600 == 522
    assert lines["GPU hours"].startswith("about 522 hours x 8 GPUs = 4176 of training, ")
    # 32 samples of 30, 30 and 83 problems, 4 of 500 and 675, 2 of 1319.
    samples = 32 * (30 + 30 + 83) + 4 * (500 + 675) + 2 * 1319
    assert sum(disk.evaluation_samples(PAPER).values()) == samples == 11914
    assert f"61 checkpoints x {samples} samples x 3072" in lines["tokens"]
    assert "training up to 151.0 billion = 30 runs x 400 steps x 4096 completions x 3072" in lines["tokens"]
    assert lines["rollout memory"].startswith("35.8 GiB a GPU") and lines["update memory"].startswith("34.6 GiB a GPU")
    assert lines["asks for"].startswith("8 GPUs of 47 GiB (vLLM may take 0.5 of each) at 4 completions of 4096 tokens")
    assert "4 fit here" in lines["asks for"]
    # Two float32 policies a run; while one lasts three states of weights and moments, and its policies once more.
    weights = PAPER.policy.architecture.parameters
    written = (30 * 2 * 4 + 3 * 12 + 2 * 4 + 2) * weights
    assert 0 < disk.written(PAPER, 30, 2, 61, 1) - written < 0.01 * written
    assert lines["download"].startswith("Qwen/Qwen2.5-Math-7B 14 GiB, BytedTsinghua-SIA/DAPO-Math-17k 300 MiB, 6 data")


@pytest.mark.parametrize("scale", [each for each in REAL_SCALES if assess.is_large(each)], ids=lambda each: each.name)
def test_every_language_model_scale_says_runs_memory_tokens_time_and_downloads(scale, here, tmp_path):
    here(*[H100] * 8)
    lines = lines_of(resolve(scale.name), tmp_path)
    runs = len(scale.methods) * len(scale.seeds)
    assert f"{runs} of {runs} trainings left" in lines["runs"]
    assert "weights" in lines["rollout memory"] and "output head" in lines["update memory"]
    assert f"{runs} runs x {scale.steps} steps x {scale.completions} completions" in lines["tokens"]
    assert "s a step" in lines["training"] and "orders of magnitude" in lines["evaluation"]
    assert scale.policy.id in lines["download"]
    assert ("GPU hours" in lines) == bool(scale.execution.gpus)
    assert ("warm start" in lines) == bool(scale.policy.supervised)


def test_the_whole_plan_is_printed_before_it_is_refused(here, tmp_path, capsys):
    assert commands.main(["plan", "--scale", "paper", "--results", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "GPU hours" in printed.out and "update memory" in printed.out and "disk" in printed.out
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
    told = dict(describe(plan_study(resolve("paper", nodes="2"), tmp_path)))
    assert told["asks for"].startswith("8 GPUs of ") and "on each of 2 machines at " in told["asks for"]
    assert " x 16 GPUs = " in told["GPU hours"]


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


def test_finished_runs_replace_the_table(here, tmp_path):
    folder = tmp_path / "workstation_small"
    before = calibration.estimate(WORKSTATION_SMALL, MACHINE, folder)
    assert "expect a factor of two" in before.basis
    finish_with_metrics(folder, 0, 30.0, 20.0, 22.0)
    finish_with_metrics(folder, 1, 500.0, state="running")
    row = calibration.measured(folder, WORKSTATION_SMALL)
    assert (row.seconds, row.mean_tokens, row.hardware) == (22.0, 100, "EPYC")
    after = calibration.estimate(WORKSTATION_SMALL, MACHINE, folder)
    assert after.step_s == 22.0 and "median of 3 steps of 1 runs" in after.basis
    assert "22.0 s a step: measured" in lines_of(resolve("workstation_small"), tmp_path)["training"]


def test_the_nearest_row_is_scaled_by_hand():
    assert calibration.nearest(PAPER_7B).seconds == (27 * 60 + 18) * 60 / 400
    assert calibration.nearest(WORKSTATION).model == "Qwen2.5-Math-7B"
    half = replace(PAPER, prompts_per_step=256, execution=replace(PAPER.execution, gpus=4))
    seconds, words = calibration.scaled(half, calibration.nearest(half))
    assert seconds == pytest.approx(156.6) and "measured" in words  # half the work for half the GPUs
    seconds, words = calibration.scaled(replace(PAPER, prompts_per_step=256), calibration.nearest(PAPER))
    assert seconds == pytest.approx(156.6 / 2)
    assert words.startswith("scaled from 156.6 s for 4096 completions of Qwen2.5-Math-7B on 8 x H100")
    assert words.endswith("expect a factor of two either way")
    # A small model's step is bounded: 256 completions of 320 tokens, sampled once and trained on twice.
    seconds, words = calibration.scaled(WORKSTATION, calibration.nearest(WORKSTATION))
    assert seconds == pytest.approx(256 * 320 * 3 / 20_000) and "no faster than 20,000 tokens" in words


def test_a_cpus_step_is_computed_by_hand():
    seconds, words = calibration.computed(WORKSTATION_SMALL, MACHINE)
    operations = 134_515_008 * 32 * (160 + 96) * (2 + 1 * 6)
    assert seconds == pytest.approx(32 * 96 / 1000 + operations / (2 * calibration.CORE_RATE), rel=0.01)
    assert "assumed on 2 cores" in words


def test_time_is_whole_rounds_of_what_is_left():
    cost = calibration.Estimate(10.0, "", 60.0, "", 120.0)
    # Five runs two at once are three rounds of 100 steps, four evaluations two rounds of a minute.
    seconds = 120 + 3 * 100 * 10 + 2 * 60 + calibration.REPORT_S
    assert calibration.hub_minutes(cost, 100, True, 5, 4, 2) == pytest.approx(seconds / 60)
    assert calibration.hub_minutes(cost, 100, False, 0, 0, 2) == 0


def test_a_tiny_policys_time_is_in_minutes_however_long(here, tmp_path):
    made = plan_study(resolve(methods="grpo,od", seeds="0-199"), tmp_path)
    assert made.minutes > 120
    assert dict(describe(made))["minutes"].startswith(f"about {made.minutes:.0f} (2 at once, speed 1.0")


def test_trainings_at_once_share_gpus_or_memory():
    eight = replace(MACHINE, gpus=(H100,) * 8)
    assert assess.jobs_at_once(WORKSTATION, eight) == 8 and assess.jobs_at_once(PAPER, eight) == 1
    assert assess.jobs_at_once(WORKSTATION_SMALL, replace(MACHINE, cores=8, memory_gib=30.0)) == 2


def test_importing_the_plan_is_light():
    code = (
        "import sys, dynclip.plan.describe, dynclip.plan.doctor; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_doctor_names_every_key_package_and_exits_by_the_pins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "probe_hub", lambda scale: "not asked")
    real = doctor.compare
    monkeypatch.setattr(doctor, "compare", lambda lock: [replace(pin, found=pin.wanted) for pin in real(lock)])
    assert doctor.print_doctor(tmp_path) == 0
    healthy = capsys.readouterr().out
    assert all(name in healthy and what in healthy for name, what in ROLES.items())
    assert "Installed from requirements/" in healthy and "cores usable" in healthy

    def with_an_old_numpy(lock):
        return [Pin("numpy", pin.wanted, "1.0") if pin.name == "numpy" else pin for pin in real(lock)]

    monkeypatch.setattr(doctor, "compare", with_an_old_numpy)
    assert doctor.print_doctor(tmp_path) == 1
    assert "numpy: wanted 2.3.5, found 1.0" in capsys.readouterr().out


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
    assert "not needed at laptop scale" in said
    assert ask(HF_HUB_OFFLINE="1").startswith("not asked")


def test_the_hub_is_needed_by_the_scale_of_the_machine(here, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor.probe_hub("laptop").endswith("not needed at laptop scale")
    assert "paper scale still needs Qwen/Qwen2.5-Math-7B 14 GiB" in doctor.probe_hub("paper")


def test_the_doctor_asks_for_nvidias_software_only_where_there_is_a_gpu(monkeypatch):
    assert doctor.nvidia(LAPTOP) == [("driver", "no GPU: not needed"), ("NCCL", "no GPU: not needed")]
    monkeypatch.setattr(hardware, "driver", lambda: "590.1")
    monkeypatch.setattr(hardware, "links", lambda: "1 pairs: 1 by NVLink, 1 read each other's memory")
    monkeypatch.setattr(doctor, "nccl_version", lambda: "2.29.3")
    found = dict(doctor.nvidia(replace(LAPTOP, gpus=(H100, H100))))
    assert found["driver"] == "590.1" and "NVLink" in found["links"]
    assert "links" not in dict(doctor.nvidia(replace(LAPTOP, gpus=(H100,))))


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
