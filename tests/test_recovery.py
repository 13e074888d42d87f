"""Recovery: out of memory, dead workers, updates that are skipped."""

import logging

import pytest
import torch
from safetensors.torch import load_file
from tiny_trainer import train

from dynclip.runtime.errors import UserError
from dynclip.training.processes.recovery import OutOfMemory, WorkerDied, with_recovery


def test_out_of_memory_halves_the_micro_batch_until_it_fits():
    sizes, said = [], []

    def attempt(size):
        sizes.append(size)
        if (size or 8) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    assert with_recovery(attempt, 8, said.append) == {"micro_batch": 2, "restarts": 2}
    assert sizes == [None, 4, 2]
    assert said[0].startswith("out of memory: micro-batch 8 -> 4; the effective batch stays")


@pytest.mark.parametrize(
    "error", [OutOfMemory("x"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_never_suffices_ends_with_what_to_do(error):
    def attempt(size):
        raise error

    with pytest.raises(UserError, match="one completion at a time; use a larger GPU"):
        with_recovery(attempt, 4, lambda text: None)


def test_a_dead_worker_is_started_once_again_and_not_twice():
    deaths = []

    def dies(times):
        def attempt(size):
            deaths.append(size)
            if len(deaths) <= times:
                raise WorkerDied("a worker was ended by SIGKILL")

        return attempt

    assert with_recovery(dies(1), 4, lambda text: None) == {"micro_batch": None, "restarts": 1}
    deaths.clear()
    with pytest.raises(UserError, match="a worker died twice"):
        with_recovery(dies(2), 4, lambda text: None)


def test_other_errors_are_not_tried_again():
    with pytest.raises(ZeroDivisionError):
        with_recovery(lambda size: 1 / 0, 4, lambda text: None)


class Poison:
    """Makes the losses of some updates not a number, in front of the real one."""

    def __init__(self, monkeypatch, updates):
        from dynclip.trl.trainer import DynClipTrainer

        original, count = DynClipTrainer._compute_loss, iter(range(10**6))

        def compute_loss(trainer, model, inputs):
            loss = original(trainer, model, inputs)
            return loss * float("nan") if next(count) in updates else loss

        monkeypatch.setattr(DynClipTrainer, "_compute_loss", compute_loss)


def test_an_update_that_is_not_a_number_is_skipped_and_counted(tmp_path, monkeypatch, caplog):
    Poison(monkeypatch, {1, 2, 5})  # four updates a rollout step: two of the first, one of the second
    with caplog.at_level(logging.WARNING, logger="dynclip.trl"):
        built, rows = train(tmp_path, "grpo", rollout_steps=2)
    assert [row["train/skipped"] for row in rows] == [0.5, 0.25]
    assert all(torch.isfinite(value).all() for value in built.model.parameters())
    assert sum("update skipped" in record.message for record in caplog.records) == 3
    steps = {int(state["step"]) for state in built.optimizer.state.values()}
    assert steps == {5}  # of 8 updates: the moments were left alone too


def test_three_skipped_updates_in_a_row_stop_the_run_with_its_batch(tmp_path, monkeypatch):
    Poison(monkeypatch, {2, 3, 4})
    with pytest.raises(UserError, match=r"3 updates in a row had to be skipped .*gradient norm nan.*failed_batch"):
        train(tmp_path, "grpo", rollout_steps=2)
    batch = load_file(tmp_path / "failed_batch.safetensors")
    assert {"completion_ids", "advantages", "old_per_token_logps"} <= batch.keys()


def test_exploding_ratios_are_skipped_too(tmp_path, monkeypatch):
    monkeypatch.setattr("dynclip.trl.skipping.RATIO_LIMIT", 1.0001)  # as any ratio is after the first update
    with pytest.raises(UserError, match="3 updates in a row"):
        train(tmp_path, "grpo", rollout_steps=1)


def test_a_ratio_without_a_gradient_skips_nothing(tmp_path, monkeypatch):
    """Every token beyond 1.01 is clipped, by its bound or by the dual clip, so no ratio above the limit is live."""
    monkeypatch.setattr("dynclip.trl.skipping.RATIO_LIMIT", 1.02)
    _, rows = train(tmp_path, "grpo", {"eps_high": 0.01}, rollout_steps=1, delta=1.01)
    assert rows[0]["policy/ratio_max"] > 1.02 and rows[0]["train/skipped"] == 0
