r"""Worker processes that compare answers under a time and a memory limit.

The time limit counts processor time, measured by a timer in the worker, so a busy machine changes no verdict. Limits on
wall-clock time end a worker whose timer fails. If a worker dies of anything but its limits, its pair is asked again.

A fork server forks the workers. It is a new interpreter that has imported sympy and the parser. A killed worker is
therefore replaced in milliseconds, and the caller, with its threads and torch, is never forked. Each process ends when
the socket to its parent closes.
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

MEMORY_BYTES = 500_000_000  # address space of a worker
FULL_BYTES = 250_000_000  # peak memory (mostly caches) at which a worker is replaced after its answer
WORKERS = 4  # at most, one per core; at least two, so that one continues while another runs into its limit
WALL_FACTOR = 5  # wall-clock limit of a worker that got its share of a processor, in time limits
FAIR_SHARE = 0.5  # of the time limit; a worker that used less processor time is starved by other processes
STARVED_WALL_S = 60  # wall-clock limit of a starved worker
START_S = 120  # limit for the fork server's imports on a slow machine
MAX_STARTS = 5  # of the fork server, for one worker
MAX_DEATHS = 3  # of workers on one pair, limits apart, before the pair is given up
OUT_OF_MEMORY = 3  # exit code of a worker
LIMIT_CODES = (-signal.SIGPROF, OUT_OF_MEMORY, -signal.SIGSEGV, -signal.SIGABRT)  # a limit or the text caused it
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
# Messages to the fork server have eight bytes. FORK comes with a socket, "-" and a pid kills a worker, "?" and a pid
# asks for its exit code.
FORK = b"+0000000"


class Worker:
    """The caller's end of a worker process."""

    def __init__(self, pid: int, connection: socket.socket):
        self.pid = pid
        self.socket = connection
        self.used_s = 0.0  # processor time before the current pair

    def processor_s(self) -> float:
        """Return the processor time used so far, in seconds; infinite where the system does not report it."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("inf")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Pool:
    """Workers shared by all threads of a process. They start with the first pair and end with the process."""

    def __init__(self):
        self.lock = threading.Lock()
        self.server: socket.socket | None = None
        self.process: subprocess.Popen | None = None
        self.idle: list[Worker] = []

    def map(self, pairs: list[tuple[str, str, str]], timeout_s: float, limit: int | None = None) -> list[str]:
        """Return `judge`'s status of each (answer, gold, tolerance), or "timed_out" for a pair beyond a limit.

        `limit` bounds the number of workers. Raises RuntimeError if no worker can be started.
        """
        if not pairs:
            return []
        with self.lock:
            size = min(limit or min(WORKERS, max(cores(), 2)), len(pairs))
            while len(self.idle) < size:
                self.idle.append(self.start_worker())
            try:
                return self.run(pairs, timeout_s, size)
            except BaseException:  # busy workers would send their answers to the next batch
                self.close()
                raise

    def run(self, pairs: list[tuple[str, str, str]], timeout_s: float, size: int) -> list[str]:
        statuses: list[str] = [""] * len(pairs)
        deaths = [0] * len(pairs)
        waiting = deque(enumerate(pairs))
        busy: dict[socket.socket, tuple[Worker, int, float]] = {}
        while waiting or busy:
            while waiting and len(busy) < size:
                worker = self.idle.pop() if self.idle else self.start_worker()
                i, pair = waiting.popleft()
                worker.used_s = worker.processor_s()
                try:
                    worker.socket.sendall(json.dumps([*pair, timeout_s]).encode() + b"\n")
                    busy[worker.socket] = worker, i, time.monotonic()
                except OSError:
                    self.kill(worker)
                    waiting.appendleft((i, pair))
            ready = wait(list(busy), timeout_s)
            for key, (worker, i, began) in list(busy.items()):
                late = key not in ready
                if late and (not wall_limit_passed(worker, time.monotonic() - began, timeout_s) or wait([key], 0)):
                    continue  # a worker that died since then is looked at next time
                del busy[key]
                if key in ready and (status := receive_line(key, 1)):
                    statuses[i] = status
                    self.idle.append(worker)
                    continue
                code = None if late else self.exit_code(worker)
                self.kill(worker)
                exceeded = late or code in LIMIT_CODES
                deaths[i] += not exceeded and code != 0  # 0: it was full and ended after its last answer
                if exceeded or deaths[i] >= MAX_DEATHS:
                    statuses[i] = "timed_out"
                    if not exceeded:
                        print(f"grading: {MAX_DEATHS} workers died of {pairs[i][0][:80]!r}: timed_out", file=sys.stderr)
                else:  # at the end: who kills workers at random does not meet the same pair three times
                    waiting.append((i, pairs[i]))
        return statuses

    def exit_code(self, worker: Worker) -> int | None:
        """Return the exit code of a worker that closed its socket, or minus its signal; None if it is unknown."""
        try:
            self.server.sendall(b"?%07d" % worker.pid)
            return int(receive_line(self.server, START_S))
        except (OSError, AttributeError, ValueError):
            return None

    def kill(self, worker: Worker) -> None:
        """End a worker. The fork server sends the signal: the caller cannot tell whether the pid was reused."""
        worker.socket.close()
        with suppress(OSError, AttributeError):
            self.server.sendall(b"-%07d" % worker.pid)

    def start_worker(self) -> Worker:
        for _ in range(MAX_STARTS):  # the fork server may have been killed, now or since the last batch
            if self.server is None and not self.start_server():
                continue
            ours, theirs = socket.socketpair()
            try:
                socket.send_fds(self.server, [FORK], [theirs.fileno()])
                pid = receive_line(self.server, START_S)
            except OSError:
                pid = ""
            finally:
                theirs.close()
            if pid:
                return Worker(int(pid), ours)
            ours.close()
            self.close()
        raise RuntimeError("no grading worker could be started: the fork server ended; see its message above")

    def start_server(self) -> bool:
        """Start the fork server; False if it was killed meanwhile. Raises RuntimeError if it fails."""
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        entry = fork_server.__name__
        code = f"import sys; sys.path.insert(0, {root!r}); from {__name__} import {entry}; {entry}({theirs.fileno()})"
        command, null = [sys.executable, "-c", code], subprocess.DEVNULL
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        try:
            # In a session of its own the server gets no Ctrl-C. The caller gets it and closes the sockets.
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=null, stdout=null, env=environment, start_new_session=True
            )
        finally:
            theirs.close()
        self.server = ours
        if receive_line(ours, START_S) == "ready":
            return True
        if self.close() == -signal.SIGKILL:
            return False
        raise RuntimeError(
            "the grading worker did not start: are sympy and latex2sympy2-extended installed? its message is above"
        )

    def close(self) -> int | None:
        """End all workers and the fork server; its exit status. A second call does nothing."""
        self.close_sockets()
        process, self.process = self.process, None
        if process is None:
            return None
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None

    def close_sockets(self) -> None:
        for connection in filter(None, [*(worker.socket for worker in self.idle), self.server]):
            connection.close()
        self.idle, self.server = [], None

    def detach_after_fork(self) -> None:
        """Leave the workers to the parent. They end when the parent's sockets close, so the child closes its copies."""
        self.close_sockets()
        self.__init__()


def wall_limit_passed(worker: Worker, elapsed_s: float, limit_s: float) -> bool:
    """Return whether a silent worker is given up. A worker that other processes starve gets more time."""
    if elapsed_s < WALL_FACTOR * limit_s:
        return False
    cpu_starved = worker.processor_s() <= worker.used_s + FAIR_SHARE * limit_s
    return not cpu_starved or elapsed_s > max(STARVED_WALL_S, WALL_FACTOR * limit_s)


def receive_line(connection: socket.socket, timeout_s: float) -> str:
    """Return the next line; "" if the other end closes first or `timeout_s` passes without data."""
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


# --- in the fork server and the workers ---------------------------------------------------------------------------


def fork_server(number: int) -> None:
    """Fork a worker for every socket that arrives at file descriptor `number`. End them all when it closes."""
    caller = socket.socket(fileno=number)
    from evals.grading.equivalence import judge, same

    same("x+1", "1+x")  # the parser builds its tables with the first formula
    caller.sendall(b"ready\n")
    children: set[int] = set()
    while True:
        message, received, _, _ = socket.recv_fds(caller, len(FORK), 1)
        if not message:
            break
        if message == FORK:
            pid = os.fork()
            if not pid:
                caller.close()
                serve(received[0], judge)
                os._exit(0)
            os.close(received[0])
            children.add(pid)
            caller.sendall(b"%d\n" % pid)
            continue
        pid = int(message[1:])
        if message.startswith(b"?"):
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid in children else -signal.SIGKILL
            caller.sendall(b"%d\n" % code)
        elif pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        children.discard(pid)
    for child in children:
        os.kill(child, signal.SIGKILL)
    os._exit(0)


def serve(number: int, judge) -> None:
    """Judge the pairs that arrive, one per line, until the caller closes its end."""
    end_with_parent()
    with suppress(ValueError, OSError):  # some systems refuse; the time limit and the size limits remain
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=number)
    with connection.makefile("rb") as lines:
        for line in lines:
            answer, gold, tolerance, timeout_s = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, timeout_s)  # SIGPROF ends the process whatever it computes
            try:
                status = judge(answer, gold, tolerance)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.sendall(status.encode() + b"\n")
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT > FULL_BYTES:
                return


def end_with_parent() -> None:
    """Let Linux kill this process when its parent ends. Elsewhere the timer and the closed socket end it later."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1:
            os._exit(1)


POOL = Pool()
atexit.register(POOL.close)
os.register_at_fork(after_in_child=POOL.detach_after_fork)
