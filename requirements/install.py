"""Build an environment from a lock: torch first and by pip, the rest without dependency resolution, then the
project itself.

Standard library only: it runs before anything is installed. `make install` calls it for `.venv`, `make peers`
with `--environment verl` for `.venv-verl`, bench/evaluation.py with `--environment harnesses` for
`.venv-harnesses`; an up-to-date environment costs a fraction of a second, an interrupted one is made anew from
the downloads already in pip's and uv's caches.

Why two installers. torch comes in builds of very different size under one version, and which of them a
machine is meant to use is decided by its pip configuration (index, extra indexes, wheel folders,
certificates), so pip installs it. The other packages come as one build; uv, fed with the same configuration,
installs them several times faster than pip. When uv cannot serve them, pip does.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"


@dataclass(frozen=True)
class Environment:
    """A virtual environment of the project: its folder, the command that builds it, and its lock, where it has one
    whatever the device."""

    folder: Path
    command: str
    lock: str = ""

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def pip(self) -> tuple[str, ...]:
        return (str(self.python), "-m", "pip", "install", "--no-deps", "--disable-pip-version-check")

    @property
    def stamp(self) -> Path:
        """Written last: the environment is complete."""
        return self.folder / ".installed"

    @property
    def unfinished(self) -> Path:
        """There from the first to the last step: an interrupted installation left it."""
        return self.folder / ".installing"

    def works(self, code: str) -> bool:
        """Whether the environment's Python runs `code`."""
        try:
            return subprocess.run((str(self.python), "-c", code), capture_output=True).returncode == 0
        except OSError:
            return False


ENVIRONMENTS = {
    "dynclip": Environment(ROOT / ".venv", "make install"),
    "verl": Environment(ROOT / ".venv-verl", "make peers", "verl.txt"),
    "harnesses": Environment(ROOT / ".venv-harnesses", "python bench/evaluation.py", "harnesses.txt"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Build .venv from requirements/<device>.txt, or a peers' environment.")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where nvidia-smi lists a GPU, else cpu"
    )
    parser.add_argument("--environment", choices=tuple(ENVIRONMENTS), default="dynclip", help="default: dynclip")
    arguments = parser.parse_args()
    environment, device = ENVIRONMENTS[arguments.environment], arguments.device
    if environment.lock:
        if device == "cuda":
            parser.error(f"--environment {arguments.environment} has a lock for the CPU only; leave out --device cuda")
        device, chosen_by, lock = "cpu", "asked for", REQUIREMENTS / environment.lock
    else:
        chosen_by = "asked for" if device else "nvidia-smi lists a GPU" if has_gpu() else "nvidia-smi lists no GPU"
        device = device or ("cuda" if chosen_by == "nvidia-smi lists a GPU" else "cpu")
        lock = REQUIREMENTS / f"{device}.txt"
    wanted = {
        "lock": lock.relative_to(ROOT).as_posix(),
        "sha256": digest(lock, ROOT / "pyproject.toml"),
        "root": str(ROOT),
    }
    stamp = read_stamp(environment)
    if all(stamp.get(key) == value for key, value in wanted.items()) and environment.works("pass"):
        return 0
    started = time.monotonic()
    name = environment.folder.name
    print(f"environment: {name} from {wanted['lock']} ({chosen_by}), Python {sys.version.split()[0]}", flush=True)
    try:
        # Both devices' engines own the same files, a half-copied package looks installed, and scripts hold
        # the folder's path: all three start afresh.
        moved = any(stamp.get(key, wanted[key]) != wanted[key] for key in ("lock", "root"))
        make_venv(environment, afresh=moved or environment.unfinished.exists())
        install(environment, lock)
    except subprocess.CalledProcessError as error:
        python = str(environment.python)
        command = " ".join(Path(word).name if word == python else word for word in map(str, error.cmd))
        print(
            f"install: `{command}` failed (exit {error.returncode}), see above; `{environment.command}` continues",
            file=sys.stderr,
        )
        return 1
    seconds = round(time.monotonic() - started, 1)
    about = wanted | {"device": device, "chosen_by": chosen_by, "seconds": seconds}
    aside = environment.stamp.with_suffix(".tmp")
    aside.write_text(json.dumps(about, indent=1) + "\n")
    aside.replace(environment.stamp)
    environment.unfinished.unlink()
    says = "`make doctor`" if environment == ENVIRONMENTS["dynclip"] else f"{name}/bin/dynclip doctor"
    print(f"environment: ready in {seconds:.0f} s; {says} says what was installed and why", flush=True)
    return 0


def install(environment: Environment, lock: Path) -> None:
    """Every package of `lock` and the project itself into the existing environment. Raises CalledProcessError."""
    pip = environment.pip
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE))
    say(f"torch {pins['torch']}: pip, from wherever its configuration says")
    run(*pip, "-qq", f"torch=={pins['torch']}")
    say(f"the other {len(pins) - 1} packages: uv, exact versions, byte-compiled")
    run(*pip, "-qq", f"uv=={pins['uv']}")
    options, variables = uv_settings(pip_settings(environment))
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    uv = (
        str(environment.folder / "bin" / "uv"),
        "pip",
        "install",
        *quiet,
        "--python",
        str(environment.python),
        "--no-deps",
        "--compile-bytecode",
    )
    try:
        run(*uv, *options, "-r", str(lock), env={**os.environ, **variables})
    except (subprocess.CalledProcessError, OSError):
        say("uv could not, see above; pip takes over, which needs some minutes more")
        run(*pip, "-qq", "-r", str(lock))
    if not environment.works("import torch"):
        # A package index without a CPU build served the CUDA build, which does not load without its
        # libraries.
        say("this torch is a CUDA build: adding the libraries that it loads")
        run(*(word for word in pip if word != "--no-deps"), "-qq", f"torch=={pins['torch']}")
        run(str(environment.python), "-c", "import torch")
    say("dynclip itself, editable")
    run(*pip, "-qq", "--no-build-isolation", "--editable", str(ROOT))


def make_venv(environment: Environment, afresh: bool) -> None:
    """A virtual environment with pip in the folder; an existing sound one is kept unless `afresh`."""
    environment.stamp.unlink(missing_ok=True)
    if afresh or not environment.works("import pip"):
        shutil.rmtree(environment.folder, ignore_errors=True)
        environment.folder.mkdir()
        environment.unfinished.touch()
        run(sys.executable, "-m", "venv", str(environment.folder))
    environment.unfinished.touch()


def pip_settings(environment: Environment) -> dict[str, str]:
    """pip's merged configuration for `pip install`: the environment over [install] over [global]."""
    command = (str(environment.python), "-m", "pip", "config", "list")
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for key, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE):
            settings[key] = str(ast.literal_eval(value))
    return settings


def uv_settings(settings: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The same package sources, certificates and patience for uv: (options, environment variables).

    uv takes the first index that knows a name, pip the best file of all: uv is told to do as pip does.
    """
    options = ["--index-strategy", "unsafe-best-match"]
    names = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}
    for key, option in {**names, "trusted-host": "--allow-insecure-host"}.items():
        for value in settings.get(key, "").split():
            options += [option, value]
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        options.append("--no-index")
    variables = {"cert": "SSL_CERT_FILE", "client-cert": "SSL_CLIENT_CERT", "proxy": "ALL_PROXY"}
    environment = {name: settings[key] for key, name in variables.items() if key in settings}
    patience = {"UV_HTTP_TIMEOUT": settings.get("default-timeout", settings.get("timeout", "120"))}
    return options, {name: value for name, value in (environment | patience).items() if name not in os.environ}


def has_gpu() -> bool:
    """Whether `nvidia-smi` runs here and lists a GPU."""
    try:
        listed = subprocess.run(("nvidia-smi", "-L"), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def read_stamp(environment: Environment) -> dict:
    """What the finished environment was made of; empty for none."""
    try:
        return json.loads(environment.stamp.read_text())
    except (OSError, ValueError):
        return {}


def digest(*paths: Path) -> str:
    """Hex SHA-256 of the files' bytes, in order."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def run(*command: str, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env=env)


def say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninstall: interrupted; `make install` continues", file=sys.stderr)
        sys.exit(130)
