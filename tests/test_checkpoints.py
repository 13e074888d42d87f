"""Checkpoint folders: complete, or reported with the damaged file."""

import errno
import json

import pytest

from dynclip.runtime import checkpoints
from dynclip.runtime.errors import UserError


@pytest.fixture
def sealed(tmp_path):
    aside = tmp_path / ".aside"
    (aside / "sub").mkdir(parents=True)
    (aside / "model.safetensors").write_bytes(b"weights")
    (aside / "sub" / "config.json").write_text("{}")
    return checkpoints.publish_folder(aside, tmp_path / "step3")


def keep_listed(folder, name):
    manifest = folder / "model.json"
    manifest.write_text(json.dumps({"files": {name: json.loads(manifest.read_text())["files"][name]}}))


def test_a_sealed_folder_is_whole_and_the_aside_is_gone(sealed, tmp_path):
    assert checkpoints.find_corruption(sealed) is None
    assert not (tmp_path / ".aside").exists()
    assert checkpoints.verify(sealed, "make it") == sealed
    assert len(checkpoints.weights_sha256(sealed)) == 64


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: (d / "model.safetensors").write_bytes(b"weight"), "has 6 bytes, expected 7"),
        (lambda d: (d / "model.safetensors").write_bytes(b"weightz"), "does not have the SHA-256"),
        (lambda d: (d / "sub" / "config.json").unlink(), "config.json is missing"),
        (lambda d: (d / "model.json").unlink(), "model.json is missing"),
        (lambda d: (d / "model.json").write_text('{"files": '), "not a checkpoint manifest"),
        (lambda d: (d / "model.json").write_text('{"files": {}}'), "model.json lists no weights"),
        (lambda d: keep_listed(d, "sub/config.json"), "model.json lists no weights"),
        (lambda d: keep_listed(d, "model.safetensors"), "model.json lists none of config.json"),
    ],
)
def test_damage_names_the_file_and_the_command(sealed, harm, words):
    harm(sealed)
    with pytest.raises(UserError, match=words) as error:
        checkpoints.verify(sealed, rebuild="snakemake --forcerun train")
    assert "rebuild it with: snakemake --forcerun train" in str(error.value)
    assert "\n" not in str(error.value)


def test_sealing_over_an_older_folder_replaces_it(sealed, tmp_path):
    aside = tmp_path / ".again"
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(b"other")
    checkpoints.publish_folder(aside, sealed)
    assert (sealed / "model.safetensors").read_bytes() == b"other" and not (sealed / "sub").exists()


def test_latest_passes_over_damaged_checkpoints_and_prune_keeps_the_newest(tmp_path):
    for number in (8, 16, 104):
        aside = tmp_path / ".writing" / f"checkpoint-{number}"
        aside.mkdir(parents=True)
        (aside / "model.safetensors").write_text(str(number))
        (aside / "dynclip.json").write_text("{}")
        checkpoints.publish_folder(aside, tmp_path / aside.name)
    assert checkpoints.latest(tmp_path).name == "checkpoint-104"
    (tmp_path / "checkpoint-104" / "model.safetensors").write_text("10")
    assert checkpoints.latest(tmp_path).name == "checkpoint-16"
    checkpoints.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-104", "checkpoint-16"]
    assert checkpoints.latest(tmp_path / "none") is None


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_and_the_old_one(sealed, tmp_path):
    with pytest.raises(OSError, match="full"), checkpoints.writing(sealed) as aside:
        (aside / "model.safetensors").write_bytes(b"half")
        raise OSError("disk is full")
    assert checkpoints.find_corruption(sealed) is None and [*tmp_path.iterdir()] == [sealed]


def test_links_to_a_checkpoint_that_cannot_be_made_leave_the_older_ones(sealed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    target = tmp_path / "links"
    checkpoints.publish_links(sealed, target)
    assert checkpoints.find_corruption(target) is None and (target / "model.json").stat().st_nlink == 1
    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError, match=r"model\.json"):
        checkpoints.publish_links(sealed, target)
    assert checkpoints.find_corruption(target) is None and not [*tmp_path.glob(".*"), *target.glob(".*")]


def test_a_disk_without_hard_links_gets_copies(sealed, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(checkpoints.os, "link", refused)
    checkpoints.publish_links(sealed, tmp_path / "copies")
    assert checkpoints.find_corruption(tmp_path / "copies") is None


def test_links_to_a_changed_file_do_not_make_it_valid(sealed, tmp_path):
    (sealed / "model.safetensors").write_bytes(b"changed")
    checkpoints.publish_links(sealed, tmp_path / "links")
    assert "does not have the SHA-256" in checkpoints.find_corruption(tmp_path / "links")


def test_a_folder_is_removed_as_a_whole_and_what_a_kill_left_of_it_is_swept(sealed, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.os, "rmdir", killed)
        checkpoints.remove(sealed)
    assert not sealed.exists() and (tmp_path / ".step3.removed").exists()
    for name in (".x.writing", ".model.json.7.tmp", ".kept"):
        (tmp_path / name).write_text("")
    checkpoints.sweep(tmp_path, tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == [".kept"]
    checkpoints.remove(sealed)
