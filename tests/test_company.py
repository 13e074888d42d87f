"""Seeds trained and scored side by side: the same bits as alone, killed and resumed, and more seeds later."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from dynclip.report.records import read_score
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import is_sealed, write_json
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import Execution
from dynclip.training import loop
from dynclip.training.company import train_company
from dynclip.training.loop import Loop
from dynclip.training.worlds import draws, folders
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.scoring import path_success, score_company
from dynclip.training.worlds.tasks import PathTask, network_of, pairs_of, task_of
from dynclip.training.worlds.warm_start import warm_start
from evals.benchmarks.loading import read_problems, write_data

SEEDS = (0, 1, 2)


def prepared(folder, name, seeds):
    """(study, folder) with the data and the base policies of `seeds`."""
    config = resolve(name)
    scale = config.scale
    write_data(folder / "data", name, scale.train_set, scale.benchmarks)
    bases = {seed: folder / "base" / f"seed{seed}" for seed in seeds}
    warm_start(scale, read_problems(folder / "data" / "train.jsonl"), bases, lambda text: None)
    return config, folder


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("company") / "miniature", "miniature", SEEDS)


@pytest.fixture
def study(miniature, tmp_path):
    """(study, folder) with the same data and base policies, and no runs."""
    config, source = miniature
    folder = tmp_path / "miniature"
    folder.mkdir()
    for name in ("data", "base"):
        (folder / name).symlink_to(source / name)
    return config, folder


@pytest.fixture(scope="module")
def undisturbed(miniature):
    """OD, all seeds side by side: what every seed published."""
    config, folder = miniature
    train_company(config, "od", SEEDS, folder)
    return {seed: published(folder, "od", seed) for seed in SEEDS}


def published(folder, name, seed):
    """Weights of every checkpoint as bytes, and the metrics that do not depend on the machine."""
    run = folder / "runs" / name / f"seed{seed}"
    weights = {path.parent.name: path.read_bytes() for path in sorted(run.glob("checkpoints/*/model.safetensors"))}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return weights, [{k: v for k, v in row.items() if not k.startswith(("time/", "sys/"))} for row in rows]


def contents(folder):
    """Path -> (time of the last change, bytes) of all files."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_seeds_side_by_side_differ_and_are_the_seeds_trained_alone(undisturbed, study):
    config, folder = study
    assert len({weights["step6"] for weights, _ in undisturbed.values()}) == len(SEEDS)
    for seed in SEEDS:
        train_company(config, "od", [seed], folder)
        weights, rows = published(folder, "od", seed)
        assert set(weights) == {f"step{step}" for step in config.checkpoints.values()}
        assert (weights, rows) == undisturbed[seed] and len(rows) == config.steps


def test_a_cut_gradient_is_the_same_alone(study, monkeypatch):
    monkeypatch.setattr(loop, "MAX_NORM", 0.1)
    config, folder = study
    train_company(config, "grpo", SEEDS, folder)
    together = published(folder, "grpo", 1)
    assert max(row["train/grad_norm"] for row in together[1]) > 0.1
    shutil.rmtree(folder / "runs")
    train_company(config, "grpo", [1], folder)
    assert published(folder, "grpo", 1) == together


class Killed(Exception):
    pass


@pytest.fixture
def killed(monkeypatch):
    """Call a function and end it before rollout step 3."""

    def call(function, *arguments):
        step = Loop.step

        def dying(training):
            if training.done == 3:
                raise Killed
            return step(training)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Loop, "step", dying)
            function(*arguments)

    return call


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_bits(undisturbed, study, killed, capsys):
    config, folder = study
    killed(train_company, config, "od", SEEDS, folder)
    state = folder / "runs/od/seed1/state"
    assert (state / "checkpoint-2").is_dir() and not (folder / "runs/od/seed1/run.json").exists()
    assert len((state / "metrics.jsonl").read_text().splitlines()) == 3
    train_company(config, "od", SEEDS, folder)
    assert "resuming at step 2 of 6" in "".join(capsys.readouterr())
    assert {seed: published(folder, "od", seed) for seed in SEEDS} == undisturbed
    assert not list(folder.glob("runs/od/*/state/checkpoint-*"))


def test_a_checkpoint_past_a_damaged_policy_is_not_resumed_from(undisturbed, study, killed):
    config, folder = study
    killed(train_company, config, "od", SEEDS[:2], folder)
    (export,) = (folder / "runs/od/seed0/state/exports").iterdir()
    (export / "model.safetensors").write_bytes(b"damaged")
    train_company(config, "od", SEEDS[:2], folder)
    for seed in SEEDS[:2]:
        assert published(folder, "od", seed) == undisturbed[seed]


def test_more_seeds_later_leave_the_finished_ones_alone(undisturbed, study):
    config, folder = study
    train_company(config, "od", [0, 2], folder)
    state = [folder / f"runs/od/seed{seed}/state" for seed in (0, 2)]
    before = [contents(each) for each in state]
    train_company(config, "od", SEEDS, folder)
    assert [contents(each) for each in state] == before
    assert {seed: published(folder, "od", seed) for seed in SEEDS} == undisturbed


@pytest.mark.parametrize("step", ["step2", "step6"])
def test_a_damaged_policy_is_made_again_and_not_published(step, undisturbed, study):
    config, folder = study
    train_company(config, "od", SEEDS[:2], folder)
    whole, path = undisturbed[1][0][step], folder / f"runs/od/seed1/state/exports/{step}/model.safetensors"
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    other = contents(folder / "runs/od/seed0/state")
    train_company(config, "od", SEEDS[:2], folder)
    assert published(folder, "od", 1) == undisturbed[1] and path.read_bytes() == whole
    assert contents(folder / "runs/od/seed0/state") == other


def test_deleted_results_are_published_again_without_training(undisturbed, study, monkeypatch):
    config, folder = study
    train_company(config, "od", [0], folder)
    run = folder / "runs/od/seed0"
    (run / "metrics.jsonl").unlink()
    (run / "run.json").unlink()
    monkeypatch.setattr(Loop, "step", None)
    train_company(config, "od", [0], folder)
    assert published(folder, "od", 0) == undisturbed[0] and is_sealed(json.loads((run / "run.json").read_text()))


def test_an_edited_record_that_waits_is_written_again(study):
    config, folder = study
    train_company(config, "od", [0], folder)
    run = folder / "runs/od/seed0"
    whole = json.loads((run / "run.json").read_text())
    write_json(run / "state/run.json", whole | {"steps": 7})
    train_company(config, "od", [0], folder)
    again = json.loads((run / "run.json").read_text())
    assert is_sealed(again) and again["steps"] == whole["steps"]


def test_a_method_with_statistics_over_its_batch_trains_each_seed_as_alone(study):
    config, folder = study
    train_company(config, "clip_cov@share=0.2@at_least=2", [0, 1], folder)
    (name,) = [path.name for path in (folder / "runs").iterdir()]
    together = [published(folder, name, seed) for seed in (0, 1)]
    assert together[0] != together[1]
    for seed in (0, 1):
        shutil.rmtree(folder / "runs")
        train_company(config, name, [seed], folder)
        assert published(folder, name, seed) == together[seed]


def scored(config, folder, name, seeds):
    """The score records of an arm and of the base policies, as the report reads them."""
    score_company(config, "base", seeds, {"final": 0}, folder)
    score_company(config, name, seeds, config.checkpoints, folder)
    files = sorted(folder.glob("scores/*/*/*/*.json"))
    assert len(files) == len(seeds) * (1 + len(config.checkpoints))
    return [read_score(file, folder) for file in files]


def test_the_report_accepts_sampled_scores(study):
    config, folder = study
    small = replace(config.scale, evaluation=replace(config.scale.evaluation, k=4, limit=20))
    config = replace(config, scale=small)
    train_company(config, "grpo", [0, 1], folder)
    records = scored(config, folder, "grpo", [0, 1])
    assert all(record["n_problems"] == 20 and record["samples"]["rows"] == 80 for record in records)
    assert len({record["model"]["sha256"] for record in records}) == len(records)
    alone = {file: file.read_bytes() for file in folder.glob("samples/grpo/seed1/*/*.parquet")}
    score_company(config, "grpo", [1], config.checkpoints, folder)
    assert all(file.read_bytes() == content for file, content in alone.items()), "alone as beside others"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("company") / "paths_rehearsal", "paths_rehearsal", (0, 1))


def test_the_report_accepts_exact_scores(paths):
    config, folder = paths
    train_company(config, "grpo", [0, 1], folder)
    records = scored(config, folder, "grpo", [0, 1])
    for record in records:
        assert record["headline"] == "exact" and record["engine"] == "exact" and 0 < record["avg_at_k"]["value"] < 1
        assert record["n_problems"] == config.scale.evaluation.limit
        assert {problem["n"] for problem in record["per_problem"]} == {1}


def test_exact_success_is_what_walks_show(paths):
    """pass@1 against the share of 20 000 walks of each seed that meet the goal, within 4 standard errors."""
    config, folder = paths
    problems, seeds = read_problems(folder / "data" / "train.jsonl"), (0, 1)
    pairs = tuple(each[:50] for each in pairs_of(problems, seeds))
    scale = replace(config.scale, prompts_per_step=50, group_size=400)
    task = PathTask(scale, seeds, network_of(scale.policy, 100), pairs)
    weights = stack([folders.load(folder / "base" / f"seed{seed}", task.network) for seed in seeds])
    with torch.no_grad():
        exact = path_success(task, weights, pairs)
        walks = task.rollout(weights, 0)
    for r, success in enumerate(exact):
        error = (success * (1 - success) / 400).mean().div(50).sqrt()  # every pair is walked 400 times
        assert success.mean() > 0 and (walks.rewards[r].mean() - success.mean()).abs() < 4 * error


def test_a_pass_stays_on_one_device():
    """The device "meta" computes shapes alone, and a tensor of the CPU in between raises. It stands in for a GPU."""
    scale, seeds = resolve("paths").scale, (0, 1)
    with torch.device("meta"):
        network = network_of(scale.policy, 100)
        weights = stack([network.start(draws.generator(seed, 3)) for seed in seeds])
        task = PathTask(scale, seeds, network, (torch.zeros(50, 2, dtype=torch.long),) * 2)
        walks = task.rollout(weights, 0)
        assert walks.tokens.device.type == walks.rewards.device.type == "meta"
        assert network.logits(weights, walks.inputs).shape == torch.stack(walks.logits, 2).shape
        language = network_of(resolve("facts").scale.policy, 40)
        weights = stack([language.start(draws.generator(seed, 3)) for seed in seeds])
        prompts, seen = torch.zeros(2, 3, 6, dtype=torch.long), torch.ones(2, 3, 6, dtype=torch.bool)
        uniforms = torch.stack([draws.uniform((12, 1), seed, 0) for seed in seeds])
        tokens = language.sample(weights, prompts, seen, uniforms, 1)
        ids = torch.cat([prompts.repeat_interleave(4, 1), tokens], -1)
        inputs = {"ids": ids, "attend": torch.ones_like(ids, dtype=torch.bool), "prompt": 6}
        assert language.logits(weights, inputs).shape == (2, 12, 1, 40)


def test_a_gpu_that_is_not_there_is_one_line(study, monkeypatch):
    config, folder = study
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = replace(config, scale=replace(config.scale, execution=Execution(gpus=1)))
    with pytest.raises(UserError, match="miniature: needs a CUDA GPU, and torch sees none; use gpus=0"):
        train_company(asked, "od", SEEDS[:1], folder)


@pytest.mark.parametrize("name", ["paths_rehearsal", "miniature"])
def test_the_logits_of_a_rollout_are_those_of_a_whole_pass(name, tmp_path):
    """The sampler reads each token alone, with keys and values of those before it."""
    config, folder = prepared(tmp_path, name, (0, 1))
    bases = {seed: folder / "base" / f"seed{seed}" for seed in (0, 1)}
    task = task_of(config.scale, (0, 1), bases, read_problems(folder / "data" / "train.jsonl"))
    weights = stack([folders.load(base, task.network) for base in bases.values()])
    with torch.no_grad():
        found = task.rollout(weights, 0)
        whole = task.network.logits(weights, found.inputs)
    assert torch.allclose(torch.stack(found.logits, 2)[found.mask], whole[found.mask], atol=1e-5)
