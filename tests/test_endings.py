"""The end of a training, killed before every operation on files: a rerun leaves what an undisturbed training leaves."""

import itertools
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict

import pytest

from dynclip.runtime import checkpoints
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_atomic, write_json
from dynclip.studies.overrides import resolve
from dynclip.training import company, lifecycle
from dynclip.training.company import train_company
from dynclip.training.loop import Loop
from dynclip.training.worlds.warm_start import warm_start
from evals.benchmarks.worlds import generate

OPERATIONS = ("replace", "rename", "link", "unlink", "rmdir", "mkdir", "fsync")


class Dead(BaseException):
    """The process was killed."""


def die_before(patch, operation: int) -> list[str]:
    """From operation number `operation` on nothing reaches the disk: neither it nor what handlers of errors clean up.

    Returns the list that collects the names of the operations before it.
    """
    done = []

    def dying(name, real):
        def call(*arguments, **options):
            if len(done) == operation:
                raise Dead
            done.append(name)
            return real(*arguments, **options)

        return call

    for name in OPERATIONS:
        patch.setattr(os, name, dying(name, getattr(os, name)))
    return done


def left_by(folder):
    """File -> content of everything under a run's folder, without times and with what depends on them left out."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".training.lock"):
        content = path.read_bytes()
        if path.name == "metrics.jsonl":
            rows = map(json.loads, content.splitlines())
            content = [{k: v for k, v in row.items() if not k.startswith(("time/", "sys/"))} for row in rows]
        elif path.name == "run.json":
            content = {
                k: v for k, v in json.loads(content).items() if k not in ("seconds", "metrics_sha256", "record_sha256")
            }
        found[str(path.relative_to(folder))] = content
    return found


def killed_everywhere(snapshot, train, tmp_path, monkeypatch, every=1):
    """Kill `train(copy of snapshot)` before its first operation, its second and so on, and run it again each time.

    Returns (what an undisturbed call leaves, what is left after each kill and rerun). every: of n operations, one.
    """
    monkeypatch.setattr(lifecycle, "environment", dict)  # asks git twice
    shutil.copytree(snapshot, whole := tmp_path / "whole")
    train(whole)
    ends = []
    for number in itertools.count(step=every):
        shutil.copytree(snapshot, folder := tmp_path / f"killed{number}")
        with monkeypatch.context() as patch:
            done = die_before(patch, number)
            with suppress(Dead):
                train(folder)
        if len(done) < number:  # it came to its end
            return left_by(whole), ends
        train(folder)
        ends.append(left_by(folder))
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """(study, folder) with little data, and a base policy that has learned little."""
    config, folder = resolve("miniature"), tmp_path_factory.mktemp("endings") / "miniature"
    problems = generate("facts", 200, 1, held_out=False)
    train = write_atomic(folder / "data" / "train.jsonl", "".join(json.dumps(asdict(p)) + "\n" for p in problems))
    files = {train.name: {"rows": len(problems), "sha256": sha256(train)}}
    write_json(folder / "data" / "manifest.json", {"files": files})
    warm_start(config.scale, problems, {0: folder / "base" / "seed0"}, print)
    return config, folder


def stopped(train, out, place, name):
    """Train into `out` and die at the first call of `place`.`name`; returns `out`."""

    def dying(*_):
        raise Dead

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Dead):
        patch.setattr(place, name, dying)
        train(out)
    return out


@pytest.fixture(scope="module")
def loop(miniature, tmp_path_factory):
    """(function that trains into a run's folder, such a folder of a training before anything of it is published)."""
    config, source = miniature

    def train(out):
        folder = out.parent / f"study of {out.name}"
        for place in (out, folder / "runs" / "od"):
            place.mkdir(parents=True, exist_ok=True)
        for place, target in (("data", source / "data"), ("base", source / "base"), ("runs/od/seed0", out)):
            if not (folder / place).is_symlink():
                (folder / place).symlink_to(target)
        train_company(config, "od", [0], folder)

    return train, stopped(train, tmp_path_factory.mktemp("loop") / "snapshot", company, "publish")


def test_a_training_in_the_loop_loses_nothing_when_it_is_published(loop, tmp_path, monkeypatch):
    train, snapshot = loop
    whole, ends = killed_everywhere(snapshot, train, tmp_path, monkeypatch)
    assert len(ends) > 30 and len(whole["metrics.jsonl"]) == 6
    assert [number for number, end in enumerate(ends) if end != whole] == []


def test_a_training_in_the_loop_loses_nothing_in_its_last_steps(loop, tmp_path, monkeypatch):
    train, _ = loop
    step = Loop.step

    def dying(training):
        if training.done == 5:
            raise Dead
        return step(training)

    snapshot = tmp_path / "snapshot"
    with monkeypatch.context() as patch, pytest.raises(Dead):
        patch.setattr(Loop, "step", dying)
        train(snapshot)
    whole, ends = killed_everywhere(snapshot, train, tmp_path, monkeypatch, every=7)
    assert len(ends) > 6 and [number for number, end in enumerate(ends) if end != whole] == []


@pytest.fixture(scope="module")
def trl(miniature, tmp_path_factory):
    """(function that trains, snapshot of a training through TRL before anything of it is published)."""
    _, source = miniature
    config = resolve("miniature", trainer="trl", steps="4")

    def train(out):
        return lifecycle.train(config, "od", 0, source / "base" / "seed0", source / "data" / "train.jsonl", out)

    return train, stopped(train, tmp_path_factory.mktemp("trl") / "snapshot", lifecycle, "publish")


def test_a_training_through_trl_loses_nothing_when_it_is_published(trl, tmp_path, monkeypatch):
    train, snapshot = trl
    whole, ends = killed_everywhere(snapshot, train, tmp_path, monkeypatch)
    assert len(ends) > 30 and len(whole["metrics.jsonl"]) == 4
    assert [number for number, end in enumerate(ends) if end != whole] == []


def test_published_files_that_are_deleted_are_published_again(trl, tmp_path, monkeypatch):
    """As Snakemake does it with the declared files of a job that was killed after its end."""
    train, snapshot = trl
    shutil.copytree(snapshot, out := tmp_path / "out")
    train(out)
    before = left_by(out)
    for path in (out / "metrics.jsonl", out / "run.json", *out.glob("checkpoints/*/model.json")):
        path.unlink()
    monkeypatch.setattr(lifecycle, "run_trainer", None)
    train(out)
    assert left_by(out) == before


def test_a_kill_between_the_last_policy_and_its_row_costs_no_row(trl, tmp_path):
    train, snapshot = trl
    shutil.copytree(snapshot, whole := tmp_path / "whole")
    shutil.copytree(snapshot, out := tmp_path / "out")
    metrics = out / "state" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    train(whole)
    train(out)
    assert left_by(out) == left_by(whole)


@pytest.mark.parametrize("name", ["loop", "trl"])
def test_a_policy_that_changes_while_it_waits_is_not_published_as_sound(name, request, tmp_path, monkeypatch):
    train, snapshot = request.getfixturevalue(name)
    shutil.copytree(snapshot, out := tmp_path / "out")
    record_of = lifecycle.record_of

    def damaging(*arguments):
        file = out / "state" / "exports" / "step4" / "model.safetensors"
        file = file if file.exists() else out / "state" / "exports" / "step6" / "model.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        return record_of(*arguments)

    monkeypatch.setattr(lifecycle, "record_of", damaging)
    train(out)
    assert [path for path in (out / "checkpoints").iterdir() if checkpoints.find_corruption(path)]
    monkeypatch.undo()
    train(out)
    assert not [path for path in (out / "checkpoints").iterdir() if checkpoints.find_corruption(path)]


@pytest.mark.parametrize("spoilt", ["", "{", "[]", "\udcff"])
def test_a_damaged_record_that_waits_is_written_again(spoilt, loop, tmp_path):
    train, snapshot = loop
    shutil.copytree(snapshot, out := tmp_path / "out")
    train(out)
    before = left_by(out)
    for path in (out / "run.json", out / "state" / "run.json"):
        path.write_text(spoilt, errors="surrogateescape")
    train(out)
    assert left_by(out) == before


def test_metrics_that_changed_after_the_training_are_made_again(loop, tmp_path):
    train, snapshot = loop
    shutil.copytree(snapshot, out := tmp_path / "out")
    train(out)
    before = left_by(out)
    metrics = out / "state" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"train/reward": 0.', '"train/reward": 1.', 1))
    train(out)
    assert left_by(out) == before
    assert json.loads((out / "run.json").read_text())["metrics_sha256"] == lifecycle.sha256(out / "metrics.jsonl")


def test_a_damaged_fingerprint_is_one_line(trl, tmp_path):
    train, snapshot = trl
    shutil.copytree(snapshot, out := tmp_path / "out")
    (out / "state" / "fingerprint.json").write_text("{")
    with pytest.raises(UserError, match=r"fingerprint\.json: missing or damaged, .* remove \S+/state$"):
        train(out)
