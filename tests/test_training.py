"""The parts of a run that decide what is kept: state, metrics, sameness."""

import json
import shlex
from dataclasses import asdict, replace

import pytest
import torch

from dynclip.runtime import checkpoints, errors
from dynclip.runtime.checkpoints import publish_folder
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import sha256, write_atomic, write_json
from dynclip.runtime.progress import Progress, clock
from dynclip.studies.overrides import resolve
from dynclip.training import lifecycle
from dynclip.training.trl_run import config as trl_config
from dynclip.training.trl_run.session import earned
from evals.benchmarks.problem import Problem


def test_a_state_of_the_same_run_is_kept_and_another_is_deleted_with_its_reason(tmp_path):
    said, state = [], tmp_path / "state"
    lifecycle.reset_if_changed(state, {"seed": "1", "code": "a"}, said.append)
    (state / "metrics.jsonl").write_text("kept")
    lifecycle.reset_if_changed(state, {"seed": "1", "code": "a"}, said.append)
    assert (state / "metrics.jsonl").exists() and said == []
    lifecycle.reset_if_changed(state, {"seed": "1", "code": "b"}, said.append)
    assert not (state / "metrics.jsonl").exists()
    assert len(said) == 1 and said[0].startswith("starting over: code changed since")


@pytest.mark.parametrize(("done", "kept"), [(0, 0), (2, 2), (3, 3)])
def test_rewinding_drops_later_rows_and_half_written_lines(tmp_path, done, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i}) + "\n" for i in range(3)) + '{"step": 3, "train/rew')
    lifecycle.rewind(path, done)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(kept))


@pytest.mark.parametrize("spoilt", ["{", "{}", "3", '{"step": 7}', "\udcff"])
def test_a_damaged_row_of_a_step_that_is_not_trained_again_is_one_line(tmp_path, spoilt):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": 0}), spoilt, json.dumps({"step": 2})]
    path.write_text("\n".join(rows), errors="surrogateescape")
    with pytest.raises(UserError, match=rf"metrics.jsonl:2: .* the row of step 1, .* remove {tmp_path}$"):
        lifecycle.rewind(path, 3)
    path.unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl:1: missing"):
        lifecycle.rewind(path, 3)


@pytest.mark.parametrize("spoilt", ["", "{", "[]", "null", "\udcff"])
def test_a_damaged_file_of_a_training_s_state_is_one_line_with_the_way_out(tmp_path, spoilt):
    state = tmp_path / "state"
    lifecycle.reset_if_changed(state, {"seed": "1"}, print)
    (state / "fingerprint.json").write_text(spoilt, errors="surrogateescape")
    (state / "checkpoint-8").mkdir()
    (state / "checkpoint-old").mkdir()
    with pytest.raises(UserError, match=rf"fingerprint.json: missing or damaged, .* remove {state}$"):
        lifecycle.reset_if_changed(state, {"seed": "1"}, print)
    assert (state / "checkpoint-8").exists()  # it may be days of work
    assert checkpoints.latest(state) is None and checkpoints.numbered(state) == {8: state / "checkpoint-8"}
    (state / "checkpoint-8" / "dynclip.json").write_text(spoilt, errors="surrogateescape")
    with pytest.raises(UserError, match=rf"dynclip.json: missing or damaged, .* remove {state}$"):
        checkpoints.read_state(state / "checkpoint-8" / "dynclip.json")


def test_the_configuration_makes_the_scale_s_updates_per_rollout(tmp_path):
    study = resolve("facts")
    config = trl_config.trainer_config(study, 3, tmp_path)
    assert config.steps_per_generation * config.num_iterations == study.scale.updates_per_rollout
    assert config.generation_batch_size == study.scale.prompts_per_step * study.scale.group_size
    assert config.max_steps == study.steps * study.scale.updates_per_rollout
    assert config.save_steps % study.scale.updates_per_rollout == 0  # resume is exact only between rollout batches
    assert config.beta == 0 and config.seed == config.data_seed == 3


def test_the_learning_rate_rises_over_the_first_rollout_steps_and_then_stays(tmp_path):
    """The factor before each update is min(1, updates done / (rollout steps of warm-up x updates))."""
    from torch.optim import SGD
    from transformers import get_scheduler

    for name, steps in (("facts", 2), ("facts", 1), ("workstation_small", 0)):
        study = resolve(name)
        study = replace(study, scale=replace(study.scale, rate_warmup=steps))
        warm = steps * study.scale.updates_per_rollout
        config = trl_config.trainer_config(study, 0, tmp_path)
        optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = get_scheduler(config.lr_scheduler_type, optimizer, config.warmup_steps, config.max_steps)
        factors = []
        for _ in range(warm + 3):
            factors.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        assert factors == pytest.approx([min(1.0, done / warm) if warm else 1.0 for done in range(warm + 3)])
        settings = trl_config.protocol(study, config)
        assert settings["learning-rate warm-up"] == f"{study.scale.rate_warmup} rollout steps"
        assert settings["truncated completions"] == "graded as no answer, trained like the others"
        assert settings["trainer"] == study.scale.trainer


def test_settings_of_the_protocol_are_part_of_the_fingerprint():
    from dynclip.training.fingerprint import SETTINGS

    fields = set(vars(resolve("facts").scale))
    assert {"rate_warmup", "truncated", "trainer"} <= set(SETTINGS) <= fields


def test_activations_are_recomputed_once_whoever_does_it(tmp_path):
    """FSDP2 does it itself; one process of a scale that is sharded on several is not sharded."""
    alone = trl_config.trainer_config(resolve("paper", gpus="1", sampler="transformers"), 0, tmp_path)
    assert alone.gradient_checkpointing and not alone.fsdp
    sharded = trl_config.sharding_options(resolve("paper").scale.execution)
    assert sharded["fsdp"] and sharded["fsdp_config"]["activation_checkpointing"]


def test_more_steps_than_problems_is_refused(tmp_path):
    """Where a run may not see a problem twice."""
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(asdict(Problem(str(i), "1+1", "2", 1, ""))) + "\n" for i in range(50)))
    write_json(tmp_path / "manifest.json", {"files": {train.name: {"rows": 50, "sha256": sha256(train)}}})
    base = tmp_path / "base"
    (tmp_path / "aside").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "aside" / name).write_text("")
    publish_folder(tmp_path / "aside", base)
    with pytest.raises(UserError, match="50 problems, but 24 steps x 4 prompts need 96; use steps=12 or fewer"):
        lifecycle.train(resolve("workstation_small"), "grpo", 0, base, train, tmp_path / "run")


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


@pytest.fixture
def called_with():
    """Sets what the process was called with, and forgets it."""
    yield errors.remember_call
    errors.remember_call({})


@pytest.mark.parametrize(
    ("path", "rule", "target"),
    [
        ("data/train.jsonl", "data", "data/train.jsonl"),
        ("base/model.json", "warmup", "base/model.json"),
        ("base/seed3", "warmup", "base/seed3/model.json"),
        ("runs/od/seed3/checkpoints/step6", "train", "runs/od/seed3/checkpoints/step6/model.json"),
        ("runs/id@switch=0.35/seed3/metrics.jsonl", "train", "runs/id@switch=0.35/seed3/metrics.jsonl"),
        ("scores/od/seed3/final/facts.json", "evaluate", "scores/od/seed3/final/facts.json"),
        ("scores/base/seed3/final/facts.json", "evaluate_base", "scores/base/seed3/final/facts.json"),
        ("samples/base/seed0/final/gsm8k.parquet", "evaluate", "samples/base/seed0/final/gsm8k.parquet"),
        ("studies/a b/signs.json", "agreement", "'{}studies/a b/signs.json'"),
    ],
)
@pytest.mark.parametrize("parent", ["results", "results/data/base/runs/of a"])
def test_rebuild_commands_name_folder_study_and_file(parent, path, rule, target, tmp_path, monkeypatch, called_with):
    results = tmp_path / parent / "results"
    (results / "tiny" / "base" / "seed3").mkdir(parents=True)
    (results.parent / "Snakefile").write_text("")
    called_with({"methods": "od,id", "steps": 12, "seeds": "3,4", "mismatch": "a b", "force": None})
    given = "--config scale=tiny steps=12 seeds=3,4 'mismatch=a b'"
    place = "results/tiny/"
    target = target.format(place) if "{}" in target else f"{place}{target}"
    command = f"snakemake --cores all {given} --forcerun {rule} -- {target}"
    assert rebuild_command(rule, results / "tiny" / path) == f"cd {shlex.quote(str(results.parent))} && {command}"
    monkeypatch.chdir(results.parent)
    assert rebuild_command("another", f"results/tiny/{path}") == command


def test_a_rebuild_command_repeats_the_steps_of_a_run_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text("")
    write_json(tmp_path / "results/tiny/runs/od/seed7/run.json", {"steps": 5})
    assert rebuild_command("evaluate", "results/tiny/scores/od/seed7/final/x.json").startswith(
        "snakemake --cores all --config scale=tiny steps=5 seeds=7 --forcerun evaluate -- results/tiny/"
    )


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("data/train.jsonl", "data --scale tiny --steps 12 --seeds 3,4 --set gpus=0"),
        ("base/seed3", "warmup --scale tiny --steps 12 --seeds 3,4 --set gpus=0"),
        ("runs/od/seed3/run.json", "train --method od --seed 3 --scale tiny --steps 12 --set gpus=0"),
        (
            "scores/od/seed3/final/x.json",
            "evaluate --method od --seed 3 --checkpoint final --scale tiny --steps 12 --set gpus=0",
        ),
    ],
)
def test_without_a_workflow_dynclip_makes_a_file_again(path, words, tmp_path, called_with, monkeypatch):
    for results in (tmp_path / "a b", tmp_path / "results"):
        called_with({"steps": 12, "seeds": "3,4", "gpus": 0}, results)
        place = shlex.quote(str(results))
        assert rebuild_command("", results / "tiny" / path) == f"dynclip {words} --results {place}"
    monkeypatch.chdir(tmp_path)
    called_with({}, "own")
    assert rebuild_command("", "own/tiny/data/x") == f"dynclip data --scale tiny --results {tmp_path / 'own'}"
    assert rebuild_command("warmup", "else where/x") == "snakemake --cores all --forcerun warmup -- 'else where/x'"


def test_a_completion_earns_its_reward_if_it_ended_and_solves_the_problem():
    texts, ids = ["\\boxed{32}", "\\boxed{32}", "\\boxed{2^5}", "\\boxed{2^5}"], [[1, 9], [1, 2], [1, 9], [1, 9]]
    problems = ["What is $2^5$?", "What is $2^5$?", "What is $2^5$?", "Write 32 as a power of two."]
    assert earned("correct", texts, ids, {9}, ["32"] * 4, problems) == [1.0, 0.0, 0.0, 1.0]
