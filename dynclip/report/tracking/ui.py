"""`dynclip ui`: MLflow's interface on the imported runs, with the addresses of its charts."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlparse

from dynclip.report.tracking.database import NAME, given_uri, import_command, open_client
from dynclip.report.tracking.view import address
from dynclip.runtime.errors import UserError
from dynclip.runtime.text import say

HOST = "127.0.0.1"  # MLflow has no login: nobody else may reach it
START_SECONDS = 120
SETTINGS = {  # no telemetry, no processes for jobs that we do not have, and a quiet terminal
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",
}


def serve(results: Path | str, port: int, browse: bool, log: Callable[[str], None] = say) -> None:
    """Start MLflow's interface on results/mlflow.db, or name that of MLFLOW_TRACKING_URI; print where the charts are.

    Returns when the interface has ended (Ctrl-C). Raises UserError where there is nothing to show or the port is taken.
    """
    results, given = Path(results).resolve(), given_uri()
    if not given and not (results / NAME).exists():
        raise UserError(f"{results / NAME} does not exist: no run was imported; run: {import_command(results)}")
    with open_client(results) as client:
        found = client.search_experiments(filter_string="name LIKE 'dynclip/%'")
    if given and urlparse(given).scheme in ("http", "https"):
        _show(found, given, browse, log)
        return
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} of this machine is in use; run: dynclip ui --port {port + 1}") from error
    server, store = f"http://{HOST}:{port}", given or f"sqlite:///{results / NAME}"
    place = ("--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", store)
    quiet = ("--uvicorn-opts", "--log-level warning")
    root = {"MLFLOW_DEFAULT_ARTIFACT_ROOT": (results / "mlartifacts").as_uri()}
    command = [sys.executable, "-m", "mlflow", "server", *place, *quiet]
    # In a process group of its own: MLflow's server leaves its own processes behind when it is terminated alone.
    process = subprocess.Popen(command, env=os.environ | SETTINGS | root, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not _answers(process, f"{server}/health"):
            raise UserError(f"MLflow's interface did not start on port {port}; its messages are above")
        _show(found, server, browse, log)
        log("Ctrl-C ends it.")
        process.wait()
    except KeyboardInterrupt:
        log("")
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(process: subprocess.Popen, url: str) -> bool:
    """Wait until the server answers; False if it ended or took too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        time.sleep(0.3)
    return False


def _show(experiments: list, server: str, browse: bool, log: Callable[[str], None]) -> None:
    width = max((len(found.name) for found in experiments), default=0)
    places = [address(server, found.experiment_id) for found in experiments]
    for found, place in zip(experiments, places, strict=True):
        log(f"{found.name:{width}}  {place}")
    if browse and places:
        webbrowser.open(places[0])
