"""Sampling threads follow what other processes leave of the machine."""

import os
import subprocess
import sys
import time

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from evals.engines import process
from evals.engines.process import Threads
from evals.engines.transformers_engine import TransformersEngine
from evals.sampling.settings import Sampling


@pytest.fixture(autouse=True)
def threads_as_before():
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


class Machine:
    """A machine of four cores whose clock moves with every look: 3 s each, of which `others` cores are used."""

    def __init__(self, monkeypatch):
        self.clock, self.busy, self.own, self.others = 0.0, 0.0, 0.0, 0.0
        monkeypatch.setattr(process, "processor_times", self.look)
        monkeypatch.setattr(process.time, "monotonic", lambda: self.clock + 3.0)
        monkeypatch.setattr(process.time, "sleep", lambda _: None)

    def look(self):
        self.clock += 3.0
        self.own += 3.0 * 2  # this process keeps two cores busy
        self.busy += 3.0 * (2 + self.others)
        return 4, self.clock, self.busy, self.own


@pytest.mark.parametrize(
    ("others", "usable", "most", "count"),
    [
        (0, 4, 4, 4),
        (0.3, 4, 4, 4),
        (1, 4, 4, 3),
        (2.2, 4, 4, 2),
        (4, 4, 4, 1),
        (9, 4, 4, 1),
        (1, 2, 4, 2),
        (0, 4, 2, 2),
    ],
)
def test_the_first_look_decides_the_number(monkeypatch, others, usable, most, count):
    machine, said = Machine(monkeypatch), []
    machine.others = others
    threads = Threads(most, usable, said.append)
    assert threads.count == torch.get_num_threads() == count
    assert (said == []) == (count == most)
    if said and others == 1 and usable == 4:
        assert said == ["other processes use 1.0 of 4 cores: sampling with 3 threads"]


def test_fewer_at_once_and_more_after_two_looks_and_both_are_recorded(monkeypatch):
    machine, said = Machine(monkeypatch), []
    threads = Threads(4, 4, said.append)
    assert threads.record() == {"threads": 4}
    machine.others = 3
    threads.step()
    assert threads.count == torch.get_num_threads() == 1
    assert said == ["other processes use 3.0 of 4 cores: going on with 1 thread"]
    assert threads.record() == {"threads": "1 or 4", "repeatable": False} and threads.record() == {"threads": 1}
    machine.others = 0
    threads.step()
    assert threads.count == 1  # it may have been a pause
    threads.step()
    assert threads.count == 4 and len(said) == 2


@pytest.mark.parametrize(
    ("others", "count", "told"), [(0, 4, False), (0.3, 4, False), (1, 4, True), (1, 3, False), (9, 1, False)]
)
def test_a_job_whose_results_depend_on_its_threads_keeps_them_and_says_so(monkeypatch, others, count, told):
    machine, said = Machine(monkeypatch), []
    machine.others = others
    process.fix_threads(count, said.append)
    assert torch.get_num_threads() == count and bool(said) == told
    assert not told or said[0].startswith("other processes use 1.0 of 4 cores. This job keeps its 4 threads")


def test_beside_processes_that_compute_one_thread_samples():
    cores = os.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        time.sleep(0.5)
        assert Threads(cores, cores, lambda line: None, seconds=1.0).count == 1
    finally:
        for each in busy:
            each.kill()
            each.wait()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_engine_looks_once_a_token_and_says_which_threads_made_its_samples(temperature):
    tokenizer = tiny_tokenizer()
    engine = TransformersEngine(tiny_model(tokenizer).eval(), tokenizer)
    steps = []

    class Counted(Threads):
        def __init__(self):
            self.count, self.used = 1, {1, 2}

        def step(self):
            steps.append(1)

    sampling = Sampling(temperature, 1.0, 0, 12)
    before = engine.generate(["1 +2 ="], 2, sampling, 3)
    engine.threads = Counted()
    assert engine.generate(["1 +2 ="], 2, sampling, 3) == before
    assert len(steps) >= max(sample.tokens for sample in before[0]) - 1 > 0
    assert (engine.kept()["threads"], engine.kept()["repeatable"]) == ("1 or 2", True)
