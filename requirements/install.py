"""Build an environment from a lock: uv installs the exact versions without dependency resolution.

Standard library only: it runs before anything is installed. `make install` calls it for `.venv`, tests/peers for
`.venv-verl`, bench/evaluation.py for `.venv-harnesses`. It does nothing where the environment is up to date, and builds
an interrupted one anew from the downloads in uv's cache.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The lock requirements/<name>.txt: its environment, and the command that builds it.
ENVIRONMENTS = {
    "cpu": (".venv", "make install"),
    "cuda": (".venv", "make install"),
    "verl": (".venv-verl", "make peers"),
    "harnesses": (".venv-harnesses", "make bench-harnesses"),
}
# uv does not read pip's configuration: pip's key and uv's variable for it.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Build an environment from requirements/<lock>.txt.")
    parser.add_argument(
        "lock", nargs="?", choices=ENVIRONMENTS, help="default: cuda with a GPU in nvidia-smi, else cpu"
    )
    name = parser.parse_args().lock
    chosen_by = "asked for" if name else "nvidia-smi lists a GPU" if has_gpu() else "nvidia-smi lists no GPU"
    name = name or ("cuda" if chosen_by == "nvidia-smi lists a GPU" else "cpu")
    folder, command = ENVIRONMENTS[name]
    try:
        build(ROOT / folder, name, f"{command}, {chosen_by}")
    except subprocess.CalledProcessError as error:
        words = [str(word).removeprefix(f"{ROOT}/") for word in error.cmd]
        print(f"install: `{' '.join(words)}` failed, see above; `{command}` tries again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninstall: interrupted; `{command}` starts again from the downloads it has", file=sys.stderr)
        return 130
    return 0


def build(folder: Path, name: str, known_by: str) -> None:
    """Make the environment in `folder` hold requirements/<name>.txt and the project. Raises CalledProcessError."""
    lock, python, stamp = ROOT / "requirements" / f"{name}.txt", folder / "bin" / "python", folder / ".installed"
    digest = hashlib.sha256(lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    place = {"lock": f"requirements/{name}.txt", "root": str(ROOT)}  # scripts hold the folder's path
    try:
        found = json.loads(stamp.read_text()) if python.exists() else {}
    except (OSError, ValueError):
        found = {}
    if found.items() >= (place | {"sha256": digest}).items():
        return
    started = time.monotonic()
    print(f"environment: {folder.name} from {place['lock']} ({known_by})", flush=True)
    stamp.unlink(missing_ok=True)  # it is written last: without it the environment counts as unfinished
    if not found.items() >= place.items():
        run(sys.executable, "-m", "venv", "--clear", folder)
    uv, torch = (re.search(rf"^{package}==\S+", lock.read_text(), re.MULTILINE)[0] for package in ("uv", "torch"))
    run(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps", uv)
    options, variables = uv_settings(subprocess.check_output((python, "-m", "pip", "config", "list"), text=True))
    options += [] if sys.stderr.isatty() else ["--quiet"]
    install = (folder / "bin" / "uv", "pip", "install", "--python", python, *options)
    variables |= os.environ
    run(*install, "--no-deps", "--exact", "--compile-bytecode", "-r", lock, "-e", ROOT, env=variables)
    if subprocess.run((python, "-c", "import torch"), capture_output=True).returncode:
        # No index or wheel folder had a CPU build, and the CUDA build does not load without its libraries.
        run(*install, torch, env=variables)
        run(python, "-c", "import torch")
    seconds = round(time.monotonic() - started, 1)
    stamp.write_text(json.dumps(place | {"sha256": digest, "known_by": known_by, "seconds": seconds}, indent=1) + "\n")
    print(
        f"environment: ready in {seconds:.0f} s; {folder.name}/bin/dynclip doctor says what was installed", flush=True
    )


def uv_settings(listed: str) -> tuple[list[str], dict[str, str]]:
    """uv's options and variables that say what `pip config list` says: the environment over [install] over [global]."""
    pip: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for key, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE):
            pip[key] = str(ast.literal_eval(value))
    # uv takes the first index that knows a name, pip the best file of all: uv is told to do as pip does.
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_HTTP_TIMEOUT": "120"}
    for key in filter(pip.get, UV_NAMES):
        variables[UV_NAMES[key]] = ("," if key == "find-links" else " ").join(pip[key].split())
    return ["--no-index"] * (pip.get("no-index", "").lower() in {"1", "true", "yes", "on"}), variables


def has_gpu() -> bool:
    """Whether `nvidia-smi` runs here and lists a GPU."""
    try:
        return b"GPU" in subprocess.check_output(("nvidia-smi", "-L"), stderr=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env=env)


if __name__ == "__main__":
    sys.exit(main())
