"""The parts of a run that decide what is kept: state, metrics, sameness."""

import json

import pytest

from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import sha256, write_atomic, write_json
from dynclip.runtime.progress import Progress, clock
from dynclip.studies.overrides import resolve
from dynclip.training import lifecycle
from dynclip.training.trl_run import config as trl_config


def test_a_state_of_the_same_run_is_kept_and_another_is_deleted_with_its_reason(tmp_path):
    said, state = [], tmp_path / "state"
    lifecycle.reset_if_changed(state, {"seed": "1", "code": "a"}, said.append)
    (state / "metrics.jsonl").write_text("kept")
    lifecycle.reset_if_changed(state, {"seed": "1", "code": "a"}, said.append)
    assert (state / "metrics.jsonl").exists() and said == []
    lifecycle.reset_if_changed(state, {"seed": "1", "code": "b"}, said.append)
    assert not (state / "metrics.jsonl").exists()
    assert len(said) == 1 and said[0].startswith("starting over: code changed since")


@pytest.mark.parametrize(("done", "kept"), [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_rewinding_drops_later_rows_and_half_written_lines(tmp_path, done, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i}) + "\n" for i in range(3)) + '{"step": 3, "train/rew')
    lifecycle.rewind(path, done)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(kept))


def test_the_configuration_makes_the_scale_s_updates_per_rollout(tmp_path):
    study = resolve("laptop")
    config = trl_config.trainer_config(study, 3, tmp_path)
    assert config.steps_per_generation * config.num_iterations == study.scale.updates_per_rollout
    assert config.generation_batch_size == study.scale.prompts_per_step * study.scale.group_size
    assert config.max_steps == study.steps * study.scale.updates_per_rollout
    assert config.save_steps % study.scale.updates_per_rollout == 0  # resume is exact only between rollout batches
    assert config.beta == 0 and config.lr_scheduler_type == "constant" and config.seed == config.data_seed == 3


def test_activations_are_recomputed_once_whoever_does_it(tmp_path):
    """FSDP2 does it itself; one process of a scale that is sharded on several is not sharded."""
    alone = trl_config.trainer_config(resolve("paper", gpus="1", sampler="transformers"), 0, tmp_path)
    assert alone.gradient_checkpointing and not alone.fsdp
    sharded = trl_config.sharding_options(resolve("paper").scale.execution)
    assert sharded["fsdp"] and sharded["fsdp_config"]["activation_checkpointing"]


def test_more_steps_than_problems_is_refused(tmp_path):
    from evals.benchmarks.registry import write_data

    write_data(tmp_path, "laptop", "laptop_train", ())
    base = tmp_path / "base"
    base.mkdir()
    write_json(base / "model.json", {"files": {}})
    with pytest.raises(
        UserError, match="3000 problems, but 1000 steps x 16 prompts need 16000; use steps=187 or fewer"
    ):
        lifecycle.train(resolve(steps=1000), "grpo", 0, base, tmp_path / "train.jsonl", tmp_path / "run")


def test_atomic_writes_leave_no_trace_and_replace_whole_files(tmp_path):
    path = write_atomic(tmp_path / "a" / "b.txt", "one")
    write_atomic(path, b"two")
    assert path.read_text() == "two" and [p.name for p in path.parent.iterdir()] == ["b.txt"]
    assert sha256(path) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    with pytest.raises(ValueError):
        write_json(path, {"x": float("nan")})
    assert path.read_text() == "two"


def test_progress_tells_speed_and_time_left_from_this_attempt_alone(tmp_path, capsys):
    progress = Progress("id seed 0", 10, tmp_path / "logs" / "x.log", every=0)
    progress.start(done=6)
    progress.started -= 4.0
    progress.step(8, "reward 0.50")
    line = (tmp_path / "logs" / "x.log").read_text().strip()
    assert line == "[id seed 0] 8/10  reward 0.50  0.50/s  0:04 left" == capsys.readouterr().err.strip()


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "0:04"), (61, "1:01"), (3600, "1:00:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("results/laptop/base/model.json", "snakemake --cores all --forcerun warmup -- results/laptop/base/model.json"),
        ("results/tiny/x", "snakemake --cores all --config scale=tiny --forcerun warmup -- results/tiny/x"),
    ],
)
def test_rebuild_commands_name_scale_and_file(path, command):
    assert rebuild_command("warmup", path) == command
