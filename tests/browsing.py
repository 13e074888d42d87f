"""Helpers of the tests that need a running MLflow or a browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome; install the distribution's chromium"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(words: list, url: str, folder: Path):
    """A server, ended with all its processes; entered once `url` answers."""
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "server.log", "w+") as log:
        process = subprocess.Popen(
            words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder
        )
        try:
            deadline = time.monotonic() + 600
            while True:
                with suppress(OSError), urllib.request.urlopen(url, timeout=5):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{words} did not start:\n{log.read()}")
                time.sleep(0.2)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def mlflow_server(folder: Path):
    """The address of an MLflow server with a database and artifacts of its own in `folder`."""
    folder.mkdir()
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'team.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with running(words, f"http://127.0.0.1:{port}/health", folder):
        yield f"http://127.0.0.1:{port}"


def page_of(url: str, *ready: str) -> str:
    """The elements of a page after its scripts ran: loaded again with more time until it holds all texts of `ready`."""
    page = ""
    for seconds in (20, 60, 180):  # of the browser's clock, which is short on a busy machine
        with tempfile.TemporaryDirectory() as profile:
            command = [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1600,1400",
                f"--user-data-dir={profile}", f"--virtual-time-budget={1000 * seconds}", "--dump-dom", url,
            ]  # fmt: skip
            page = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
        if all(text in page for text in ready):
            break
    return page
