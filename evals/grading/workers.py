r"""Processes that may be killed: math that can run away is done in them, each pair within a time and a memory limit.

The time limit is processor time, kept by the worker's own timer: a machine that is busy with other work turns no
verdict. Wall-clock time is a backstop alone. A worker that dies of something else than its limits, killed from
outside, say, has its pair asked again.

A fork server, one plain interpreter that has imported sympy and the parser and nothing of the caller's, forks the
workers: a killed worker is replaced in milliseconds, and neither the caller's threads nor its torch are ever forked.
Who calls owns both by a socket: they end when it closes, however the caller ended. Workers end with the server, too.
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
FULL_BYTES = 250_000_000  # a worker that has held as much makes room for a new one: what it remembers is no answer's
WORKERS = 4  # at most, and one per core; two at least: while one works on what it is killed for, the other goes on
BACKSTOP = 5  # times its limit is what a worker may take by the clock, if it had a fair share of a processor
FAIR = 0.5  # of its limit: a worker that used less of a processor than this is waited for, up to PATIENCE_S
PATIENCE_S = 60
START_S = 120  # for the fork server's imports, on the slowest machine
DEATHS = 3  # of workers on one pair, not by their limits, after which it is given up
EXCEEDED = "timed_out"
START = (
    b"+0000000"  # to the fork server, with a socket; a worker's number after "-" ends it, after "?" asks how it ended
)


class Pool:
    """Workers shared by all threads of a process. They start with the first pair and end with the process."""

    def __init__(self):
        self.lock = threading.Lock()
        self.server: socket.socket | None = None
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
                return self.run(pairs, timeout_s, size)
            except BaseException:  # an interrupted batch leaves answers underway that nobody would match to pairs
                self.close()
                raise

    def run(self, pairs: list[tuple[str, str, str]], timeout_s: float, size: int) -> list[str]:
        """The statuses, by `size` workers at once."""
        statuses: list[str] = [""] * len(pairs)
        deaths = [0] * len(pairs)
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
                busy[worker.socket] = worker, i, time.monotonic()
            ready = wait(list(busy), timeout_s)
            for key, (worker, i, began) in list(busy.items()):
                status = worker.receive() if key in ready else None
                if key not in ready and not overdue(worker, time.monotonic() - began, timeout_s):
                    continue
                del busy[key]
                if status is not None:
                    statuses[i] = status
                    self.idle.append(worker)
                    continue
                exceeded = key not in ready or self.cause(worker) in LIMITS
                self.kill(worker)
                deaths[i] += not exceeded
                if exceeded or deaths[i] == DEATHS:
                    statuses[i] = EXCEEDED
                    if not exceeded:
                        print(f"grading: {DEATHS} workers died of {pairs[i][0][:80]!r}: timed_out", file=sys.stderr)
                else:
                    waiting.appendleft((i, pairs[i]))
        return statuses

    def cause(self, worker: "Worker") -> int | None:
        """How a worker that closed its socket ended: minus its signal, or its exit code; None if nobody knows."""
        try:
            self.server.sendall(b"?%07d" % worker.pid)
            return int(receive_line(self.server, START_S))
        except (OSError, AttributeError, ValueError):
            return None

    def kill(self, worker: "Worker") -> None:
        """End a worker through the fork server: it alone knows which of its children's numbers are still theirs."""
        worker.socket.close()
        with suppress(OSError, AttributeError):
            self.server.sendall(b"-%07d" % worker.pid)

    def start(self) -> "Worker":
        """A worker, from the fork server, which is started first if there is none or it has ended."""
        for attempt in range(2):
            if self.server is None:
                self.open()
            ours, theirs = socket.socketpair()
            try:
                socket.send_fds(self.server, [START], [theirs.fileno()])
                if pid := receive_line(self.server, START_S):
                    return Worker(int(pid), ours)
            except OSError:
                pass
            finally:
                theirs.close()
            ours.close()
            self.close()
            if attempt:
                break
        raise RuntimeError("no grading worker could be started: the fork server ended; see its message above")

    def open(self) -> None:
        """Start the fork server: a fresh interpreter that knows this module's folder and nothing of the caller's."""
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        entry = fork_server.__name__
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
        self.server = ours
        if receive_line(ours, START_S) != "ready":
            self.close()
            raise RuntimeError(
                "the grading worker did not start: are sympy and latex2sympy2-extended installed? its message is above"
            )

    def close(self) -> None:
        """End all workers and the fork server, by closing their sockets. Does nothing twice."""
        for worker in self.idle:
            worker.socket.close()
        self.idle = []
        if self.server is not None:
            self.server.close()
            self.server = None
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
        if self.server is not None:
            self.server.close()
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


def overdue(worker: Worker, elapsed_s: float, limit_s: float) -> bool:
    """Whether a worker that has not ended itself is given up by the clock: not while other work keeps it waiting."""
    if elapsed_s < BACKSTOP * limit_s:
        return False
    return elapsed_s > max(PATIENCE_S, BACKSTOP * limit_s) or worker.processor_s() > worker.used + FAIR * limit_s


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


def fork_server(number: int) -> None:
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
            if pid in children and message.startswith(b"-"):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                children.discard(pid)
            elif message.startswith(b"?"):
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid in children else -signal.SIGKILL
                children.discard(pid)
                caller.sendall(b"%d\n" % code)
            continue
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
            signal.setitimer(signal.ITIMER_PROF, timeout_s)  # its signal ends the process, whatever that computes
            try:
                status = judge(answer, gold, tolerance)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.sendall(status.encode() + b"\n")
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT > FULL_BYTES:
                return


OUT_OF_MEMORY = 3
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
LIMITS = (-signal.SIGPROF, OUT_OF_MEMORY, -signal.SIGSEGV, -signal.SIGABRT)  # endings that a text itself brings about


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
