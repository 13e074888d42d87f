"""Time and memory of hostile outputs, and their effect on the answers in the same batch."""

import os
import signal
import sys
import time
import types
from pathlib import Path

import pytest
from hostile_outputs import HOSTILE

from evals.grading import TIMEOUT_S, grade_many, workers
from evals.grading.answers import extract, last_boxes
from evals.grading.cleaning import clean
from evals.grading.workers import MEMORY_BYTES, Pool

BUSY_S = 600  # limit for two seconds of work on a busy machine
ORDINARY = [
    (r"\boxed{x+1}", "1+x", "correct"),
    (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt2}", "correct"),
    (r"\boxed{2,1}", "1,2", "correct"),
    (r"\boxed{x}", "y", "wrong"),
    (r"\boxed{(1,2)}", "(2,1)", "wrong"),
    (r"\boxed{52}", "52_8", "wrong"),
    (r"\boxed{5}", "5", "correct"),
]


def test_there_are_enough_different_hostile_outputs():
    assert len(set(HOSTILE.values())) == len(HOSTILE) >= 188


def test_reading_hostile_outputs_is_linear():
    for name, text in HOSTILE.items():
        started = time.process_time()
        answer = extract(text)
        last_boxes(text)
        if answer and len(answer) <= 1000:
            clean(answer)
        assert time.process_time() - started < 20, name  # quadratic work on these texts would take minutes


def test_hostile_outputs_are_graded_and_change_no_other_verdict():
    pairs, expected = [], []
    for i, text in enumerate(HOSTILE.values()):
        pairs.append((text, ("5", "x + 1")[i % 2]))
        if i % 5 == 0:
            prediction, gold, status = ORDINARY[i // 5 % len(ORDINARY)]
            pairs.append((f"case {i}: {prediction}", gold))
            expected.append((len(pairs) - 1, status))
    started = time.perf_counter()
    verdicts = grade_many(pairs, timeout_s=0.7)
    assert time.perf_counter() - started < BUSY_S
    assert [(i, verdicts[i].status) for i, _ in expected] == expected
    ordinary = {i for i, _ in expected}
    hostile = [verdict for i, verdict in enumerate(verdicts) if i not in ordinary]
    assert len(hostile) == len(HOSTILE) and not any(verdict.correct for verdict in hostile)
    assert {verdict.status for verdict in hostile} == {"wrong", "unparsable", "timed_out"}


def test_one_runaway_answer_is_killed_at_its_limit():
    assert TIMEOUT_S < 2
    assert [v.status for v in grade_many([("\\boxed{x}", "y")])] == ["wrong"]  # starts the workers
    started = time.perf_counter()
    assert grade_many([(r"\boxed{9^{9^{9^9}}}", "5")])[0].status == "timed_out"
    assert TIMEOUT_S * 0.9 < time.perf_counter() - started < BUSY_S
    assert grade_many([("\\boxed{x+1}", "1+x")])[0].correct


def test_verdicts_do_not_depend_on_the_number_of_workers():
    pairs = [(f"{prediction[7:-1]}", gold, "") for prediction, gold, _ in ORDINARY[:-1]] * 4
    pools = Pool(), Pool()
    try:
        assert pools[0].map(pairs, 30, limit=1) == pools[1].map(pairs, 30, limit=3)
        assert len(pools[0].idle) == 1 and len(pools[1].idle) == 3
    finally:
        for pool in pools:
            pool.close()
            pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="limits and sizes of other processes are read from /proc")
def test_workers_are_small_limited_and_separate_from_the_caller():
    pool = Pool()
    try:
        pool.map([("x+1", "1+x", "")] * 3, 30)
        for worker in pool.idle:
            limits = Path(f"/proc/{worker.pid}/limits").read_text()
            address_space = next(line for line in limits.splitlines() if line.startswith("Max address space"))
            assert address_space.split()[3:5] == [str(MEMORY_BYTES)] * 2
            status = Path(f"/proc/{worker.pid}/status").read_text()
            peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
            assert peak * 1024 < MEMORY_BYTES
            assert "torch" not in Path(f"/proc/{worker.pid}/maps").read_text()
        assert MEMORY_BYTES <= 500_000_000
    finally:
        pool.close()


@pytest.fixture
def pool_of(monkeypatch, tmp_path):
    """Return a function that makes a pool whose workers run the given lines of code first."""
    pools = []

    def make(*lines):
        module = tmp_path / "changed.py"
        code = ["import time", "from evals.grading import equivalence, workers", "def changed(number):", *lines]
        module.write_text("\n".join([*code, "    workers.fork_server(number)", ""]))
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setattr(workers, "fork_server", types.SimpleNamespace(__name__="changed"))
        monkeypatch.setattr(workers, "__name__", "changed")
        pools.append(Pool())
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux")
def test_an_answer_that_takes_more_memory_than_allowed_is_counted_as_beyond_its_limits(pool_of):
    pool = pool_of("    equivalence.judge = lambda a, *_: 'wrong' if a == 'modest' else str(len(bytearray(10**9)))")
    pairs = [("modest", "5", ""), ("greedy", "5", ""), ("modest", "5", "")]
    assert pool.map(pairs, 30) == ["wrong", "timed_out", "wrong"]


def test_waiting_without_processor_time_changes_no_verdict(pool_of):
    pool = pool_of("    equivalence.judge = lambda a, *_: time.sleep(2) or 'correct'")
    assert pool.map([("x", "y", "")] * 2, 0.1) == ["correct"] * 2


def test_an_answer_that_kills_workers_is_given_up_and_reported(pool_of, capfd):
    pool = pool_of(
        "    equivalence.judge = lambda a, *_: 'wrong' if a == 'mild' else workers.os.kill(workers.os.getpid(), 9)"
    )
    assert pool.map([("mild", "5", ""), ("deadly", "5", ""), ("mild", "5", "")], 30) == ["wrong", "timed_out", "wrong"]
    assert "3 workers died of 'deadly'" in capfd.readouterr().err


def test_a_worker_with_full_memory_is_replaced_and_loses_no_answer(pool_of):
    pool = pool_of("    workers.FULL_BYTES = 1")
    assert pool.map([("x+1", "1+x", ""), ("x", "y", "")] * 10, 30) == ["correct", "wrong"] * 10


def test_a_worker_or_fork_server_that_was_killed_is_replaced():
    pool = Pool()
    question = [("x+1", "1+x", "")] * 2
    try:
        assert pool.map(question, 30) == ["correct"] * 2
        for worker in pool.idle:
            os.kill(worker.pid, signal.SIGKILL)
        assert pool.map(question, 30) == ["correct"] * 2  # a killed worker's pair is asked again
        pool.process.kill()
        pool.process.wait()
        assert pool.map(question, 30) == ["correct"] * 2
    finally:
        pool.close()


def test_verdicts_of_a_batch_whose_workers_and_fork_server_are_killed_are_those_of_an_undisturbed_one(monkeypatch):
    pool, calls, wait, popen = Pool(), iter(range(10**6)), workers.wait, workers.subprocess.Popen
    pairs = [(f"x+{i}", f"{i}+x" if i % 2 else f"{i}-x", "") for i in range(60)]

    def kill_now_and_then(sockets, timeout):
        call = next(calls)
        if call == 10:
            pool.process.kill()
        elif call in (3, 6, 15):  # early: the pairs that are asked again come last
            children = Path(f"/proc/{pool.process.pid}/task/{pool.process.pid}/children").read_text().split()
            for child in children[:1]:
                os.kill(int(child), signal.SIGKILL)
        return wait(sockets, timeout)

    def start_killed(*arguments, **options):
        monkeypatch.setattr(workers.subprocess, "Popen", popen)
        process = popen(*arguments, **options)
        process.kill()
        return process

    try:
        undisturbed = pool.map(pairs, 30)
        assert set(undisturbed) == {"correct", "wrong"}
        pool.close()
        monkeypatch.setattr(workers, "wait", kill_now_and_then)
        monkeypatch.setattr(workers.subprocess, "Popen", start_killed)  # the first fork server dies while it starts
        assert pool.map(pairs, 30) == undisturbed
    finally:
        pool.close()


def test_a_slow_worker_that_dies_while_others_are_looked_at_is_asked_again(pool_of, monkeypatch):
    pool, wait, began = pool_of("    equivalence.judge = lambda a, *_: time.sleep(1) or 'correct'"), workers.wait, []

    def kill_after_the_wall_limit(sockets, timeout):
        if timeout and not began:
            began.append(time.sleep(0.8))
            pool.process.kill()
            wait(sockets, 30)  # the worker ends with the fork server
            return []
        return wait(sockets, timeout)

    monkeypatch.setattr(workers, "wait", kill_after_the_wall_limit)
    monkeypatch.setattr(workers.Worker, "processor_s", lambda self: float("inf") if began else 0.0)  # as of a dead one
    assert pool.map([("x", "y", "")], 0.1) == ["correct"]


def test_an_interrupted_batch_leaves_no_answers_for_the_next(monkeypatch):
    pool = Pool()
    try:
        assert pool.map([("x+1", "1+x", "")], 30) == ["correct"]

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(workers, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.map([("x", "x+1-1", "")] * 3, 30)
        assert pool.map([("x", "y", ""), ("x+1", "1+x", "")], 30) == ["wrong", "correct"]
    finally:
        pool.close()


def test_a_worker_that_cannot_start_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = Pool()
    with pytest.raises(RuntimeError, match="latex2sympy2"):
        pool.map([("x", "y", "")], 1)
