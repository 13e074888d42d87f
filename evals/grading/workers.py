r"""Processes that may be killed: math that can run away is done in them, each pair within a time and a memory limit.

A nursery, one plain interpreter that has imported math-verify and nothing of the caller's, forks the workers: a killed
worker is replaced in milliseconds, and neither the caller's threads nor its torch are ever forked. Who calls owns both
by a socket: they end when it closes, however the caller ended. Workers end with the nursery, too, and by an alarm of
their own.
"""

import atexit
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

MEMORY_BYTES = 500_000_000  # address space of a worker, and so the most it can hold in memory
WORKERS = 4  # at most, and one per core; two at least: while one works on what it is killed for, the other goes on
STARVED = 0.2  # a worker that had less of its time than this on a processor is given its pair again, once
START_S = 120  # for the nursery's imports, on the slowest machine
ALARM_S = 5  # after its limit, a worker that nobody killed ends itself
EXCEEDED = "timed_out"
START = b"+0000000"  # to the nursery, with a socket; a worker's number with a minus sign ends it


class Pool:
    """Workers shared by all threads of a process. They start with the first pair and end with the process."""

    def __init__(self):
        self.lock = threading.Lock()
        self.nursery: socket.socket | None = None
        self.process: subprocess.Popen | None = None
        self.idle: list[Worker] = []

    def map(self, pairs: list[tuple[str, str, str]], timeout_s: float, limit: int | None = None) -> list[str]:
        """`serve`'s status for each (answer, gold, tolerance), in order; "timed_out" for a pair beyond a limit.

        Threads take turns. `limit` bounds the number of workers. Raises RuntimeError if no worker can be started.
        """
        if not pairs:
            return []
        with self.lock:
            size = min(limit or min(WORKERS, max(cores(), 2)), len(pairs))
            while len(self.idle) < size:
                self.idle.append(self.start())
            try:
                statuses, starved = self.run(pairs, timeout_s, size)
                if starved:  # by other work on this machine or by each other: once more, one at a time
                    again, _ = self.run([pairs[i] for i in starved], timeout_s, 1)
                    for i, status in zip(starved, again, strict=True):
                        statuses[i] = status
                return statuses
            except BaseException:  # an interrupted batch leaves answers underway that nobody would match to pairs
                self.close()
                raise

    def run(self, pairs: list[tuple[str, str, str]], timeout_s: float, size: int) -> tuple[list[str], list[int]]:
        """The statuses, and which of those beyond the time limit had no fair share of a processor."""
        statuses: list[str] = [""] * len(pairs)
        starved: list[int] = []
        waiting = deque(enumerate(pairs))
        busy: dict[socket.socket, tuple[Worker, int, float]] = {}
        while waiting or busy:
            while waiting and len(busy) < size:
                worker = self.idle.pop() if self.idle else self.start()
                i, pair = waiting.popleft()
                worker.used = worker.processor_s()
                if not worker.send(pair, timeout_s):
                    self.kill(worker)
                    waiting.appendleft((i, pair))
                    continue
                busy[worker.socket] = worker, i, time.monotonic() + timeout_s
            patience = min(deadline for _, _, deadline in busy.values()) - time.monotonic()
            ready = wait(list(busy), max(patience, 0))
            now = time.monotonic()
            for key, (worker, i, deadline) in list(busy.items()):
                status = worker.receive() if key in ready else None
                if status is None and key not in ready and now < deadline:
                    continue
                del busy[key]
                statuses[i] = status or EXCEEDED
                if status is None:
                    if key not in ready and worker.processor_s() < worker.used + STARVED * timeout_s:
                        starved.append(i)
                    self.kill(worker)
                else:
                    self.idle.append(worker)
        return statuses, starved

    def kill(self, worker: "Worker") -> None:
        """End a worker through the nursery: it alone knows which of its children's numbers are still theirs."""
        worker.socket.close()
        with suppress(OSError, AttributeError):
            self.nursery.sendall(b"-%07d" % worker.pid)

    def start(self) -> "Worker":
        """A worker, from the nursery, which is started first if there is none or it has ended."""
        for attempt in range(2):
            if self.nursery is None:
                self.open()
            ours, theirs = socket.socketpair()
            try:
                socket.send_fds(self.nursery, [START], [theirs.fileno()])
                if pid := receive_line(self.nursery, START_S):
                    return Worker(int(pid), ours)
            except OSError:
                pass
            finally:
                theirs.close()
            ours.close()
            self.close()
            if attempt:
                break
        raise RuntimeError("no grading worker could be started: the nursery ended; see its message above")

    def open(self) -> None:
        """Start the nursery: a fresh interpreter that knows this module's folder and nothing of the caller's."""
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        entry = nursery.__name__
        code = f"import sys; sys.path.insert(0, {root!r}); from {__name__} import {entry}; {entry}({theirs.fileno()})"
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the caller, who closes the sockets
            )
        finally:
            theirs.close()
        self.nursery = ours
        if receive_line(ours, START_S) != "ready":
            self.close()
            raise RuntimeError("the grading worker did not start: is math-verify installed? its message is above")

    def close(self) -> None:
        """End all workers and the nursery, by closing their sockets. Does nothing twice."""
        for worker in self.idle:
            worker.socket.close()
        self.idle = []
        if self.nursery is not None:
            self.nursery.close()
            self.nursery = None
        if self.process is not None:
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def forget(self) -> None:
        """In a fork of the process: the workers are the parent's. Closed here, their sockets show its death to them."""
        for worker in self.idle:
            worker.socket.close()
        if self.nursery is not None:
            self.nursery.close()
        self.__init__()


class Worker:
    """The caller's end of a worker process."""

    def __init__(self, pid: int, connection: socket.socket):
        self.pid = pid
        self.socket = connection
        self.used = 0.0

    def processor_s(self) -> float:
        """Seconds of a processor the process has used; infinite where the system does not say."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("inf")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, pair: tuple[str, str, str], timeout_s: float) -> bool:
        try:
            self.socket.sendall(json.dumps([*pair, timeout_s]).encode() + b"\n")
            return True
        except OSError:
            return False

    def receive(self) -> str | None:
        return receive_line(self.socket, 1) or None


def receive_line(connection: socket.socket, timeout_s: float) -> str:
    """What came up to the end of a line; "" where the other end closed, or took too long."""
    text = b""
    connection.settimeout(timeout_s)
    try:
        while not text.endswith(b"\n"):
            part = connection.recv(4096)
            if not part:
                return ""
            text += part
    except OSError:
        return ""
    finally:
        connection.settimeout(None)
    return text.decode().strip()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- in the other processes -------------------------------------------------------------------------------------


def nursery(number: int) -> None:
    """Fork a worker for every socket received, until the caller's end closes; then end them all."""
    caller = socket.socket(fileno=number)
    from evals.grading.equivalence import judge, same

    same("x+1", "1+x")  # the parser builds its tables with the first formula
    caller.sendall(b"ready\n")
    children: set[int] = set()
    while True:
        message, received, _, _ = socket.recv_fds(caller, len(START), 1)
        if not message:
            break
        if message != START:
            pid = int(message[1:])
            if pid in children:
                os.kill(pid, signal.SIGKILL)
            continue
        children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}
        pid = os.fork()
        if not pid:
            caller.close()
            serve(received[0], judge)
            os._exit(0)
        os.close(received[0])
        children.add(pid)
        caller.sendall(b"%d\n" % pid)
    for child in children:
        os.kill(child, signal.SIGKILL)
    os._exit(0)


def serve(number: int, judge) -> None:
    """Judge the pairs that arrive, one a line, until the caller's end closes."""
    end_with_parent()
    limit_memory()
    connection = socket.socket(fileno=number)
    with connection.makefile("rb") as lines:
        for line in lines:
            answer, gold, tolerance, timeout_s = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, timeout_s + ALARM_S)
            try:
                status = judge(answer, gold, tolerance)
            except MemoryError:
                os._exit(1)  # the caller sees the socket close and counts the pair as beyond its limits
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(status.encode() + b"\n")


def limit_memory() -> None:
    """Bound the address space, which bounds the memory; where the system refuses, the time limit and caps remain."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):
        pass


def end_with_parent() -> None:
    """Have Linux kill this process when its parent ends; elsewhere the alarm and the closed socket do it later."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1:
            os._exit(1)


POOL = Pool()
atexit.register(POOL.close)
os.register_at_fork(after_in_child=POOL.forget)
