"""The plan: what is left, how long, and what it refuses; the doctor's verdict."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dynclip import doctor, hardware, plan
from dynclip.errors import UserError
from dynclip.files import write_json
from dynclip.locks import ROLES, Pin
from dynclip.plan import REFERENCE, Calibration, choose_scale, estimate_minutes, plan_study, print_plan
from dynclip.scales import SCALES, resolve

LAPTOP = hardware.Hardware("CPU", 2, 2, 16.0, False, ())


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """A machine as fast as the reference: no time spent measuring, minutes that do not depend on the load."""
    monkeypatch.setattr(plan, "measure_speed", lambda: REFERENCE.reference_score)


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
    assert ("minutes", "about 0: nothing is left") in [
        (name, text.partition(" (")[0]) for name, text in plan.describe(made)
    ]


def test_minutes_by_hand():
    calibration = Calibration(warm_start_s=60, step_s=0.5, start_s=10, evaluation_s=20, report_s=30, reference_score=1)
    # Five runs two at once are three rounds of 10 + 100 * 0.5 s; four evaluations two rounds of 20 s.
    seconds = 60 + 30 + 3 * 60 + 2 * 20
    assert estimate_minutes(100, True, 5, 4, 2, 1.0, calibration) == pytest.approx(seconds / 60)
    assert estimate_minutes(100, True, 5, 4, 2, 2.0, calibration) == pytest.approx(seconds / 120)
    assert estimate_minutes(100, False, 0, 0, 2, 1.0, calibration) == 0


def test_a_measured_speed_is_a_positive_rate():
    """In a process of its own: the fixture above replaces the function here."""
    code = "from dynclip.plan import measure_speed; import sys; sys.exit(not measure_speed(0.05) > 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ((), "no GPU"),
        ((hardware.Gpu("T4", 15.0, False),), "T4 has 15 GiB, workstation asks for 16"),
        ((hardware.Gpu("T4", 15.0, False), hardware.Gpu("H100", 80.0, True)), "not built yet"),
    ],
)
def test_scale_and_why(gpus, words):
    scale, why = choose_scale(replace(LAPTOP, gpus=gpus))
    assert scale in SCALES and scale == "laptop" and words in why


def test_a_scale_that_was_asked_for_says_so(tmp_path):
    assert plan_study(resolve("miniature", methods="grpo", seeds=0), tmp_path).why.startswith("asked for")
    assert plan.plan(methods="grpo", seeds=0, results=tmp_path).study.name == "laptop"


def test_jobs_at_once_are_bounded_by_cores_and_memory():
    scale = SCALES["laptop"]
    assert plan.jobs_at_once(scale, replace(LAPTOP, cores=8)) == 8
    assert plan.jobs_at_once(scale, replace(LAPTOP, cores=8, memory_gib=4.0)) == 2
    assert plan.jobs_at_once(replace(scale, threads=4), LAPTOP) == 1


@pytest.mark.parametrize("where", ["file/results", "/proc/results"])
def test_an_unwritable_results_folder_is_refused(where, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write results there") as caught:
        plan_study(resolve(methods="grpo", seeds=0), tmp_path / where)
    assert "\n" not in str(caught.value)


def test_too_little_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "disk_free", lambda path: 5 * plan.MIB)
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


def test_importing_the_plan_is_light():
    code = "import sys, dynclip.plan, dynclip.doctor; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_doctor_names_every_key_package_and_exits_by_the_pins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "probe_hub", lambda: "not asked")
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
    code = "from dynclip.doctor import probe_hub; print(probe_hub())"

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


def test_json_of_a_run_without_steps_counts_as_unfinished(tmp_path):
    (tmp_path / "runs" / "grpo" / "seed0").mkdir(parents=True)
    for text in ("[]", json.dumps({"state": "finished"})):
        (tmp_path / "runs" / "grpo" / "seed0" / "run.json").write_text(text)
        assert not plan.is_finished(tmp_path, "grpo", 0, 10)
