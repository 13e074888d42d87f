"""Models to evaluate: identity, facts read from files, one-line errors."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tiny_models import CHAT, save_tiny

from dynclip.runtime import checkpoints
from dynclip.runtime.checkpoints import publish_folder
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256
from evals.evaluation import default_out
from evals.sampling import models
from evals.sampling.models import published, resolve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tiny(tmp_path):
    return save_tiny(tmp_path / "tiny")


def test_facts_come_from_the_files_alone(tiny, tmp_path):
    model = resolve(str(tiny))
    assert (model.context, model.chat_template, model.revision) == (96, None, None)
    assert 20_000 < model.parameters < 80_000 and model.stored_float32
    assert model.cache_bytes_per_token == 4 * 1 * 2 * 32
    assert resolve(str(save_tiny(tmp_path / "chatty", chat=CHAT))).chat_template == CHAT


def test_the_identity_follows_what_shapes_samples_and_nothing_else(tiny, tmp_path):
    first = resolve(str(tiny))
    same = resolve(str(shutil.copytree(tiny, tmp_path / "copy")))
    assert same.digest == first.digest and same.sha256 == first.sha256
    (tiny / "notes.txt").write_text("anything")
    assert resolve(str(tiny)).digest == first.digest
    (tiny / "chat_template.jinja").write_text(CHAT)
    assert resolve(str(tiny)).digest != first.digest and resolve(str(tiny)).sha256 == first.sha256
    assert resolve(str(save_tiny(tmp_path / "other", seed=1))).digest != first.digest


def test_a_sealed_checkpoint_is_verified_and_has_the_same_identity(tiny, tmp_path):
    plain = resolve(str(tiny))
    sealed = publish_folder(tiny, tmp_path / "sealed")
    assert resolve(str(sealed)).digest == plain.digest and resolve(str(sealed)).sha256 == plain.sha256
    weights = sealed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        resolve(str(sealed))


def test_a_checkpoint_is_read_once_to_verify_it(tiny, tmp_path, monkeypatch):
    folder = publish_folder(tiny, tmp_path / "step3")
    hashed = []
    monkeypatch.setattr(checkpoints, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    monkeypatch.setattr(models, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    found = published(folder)
    assert sorted(hashed) == sorted(path.name for path in folder.iterdir() if path.name != checkpoints.MANIFEST)
    assert found.digest == resolve(str(folder)).digest
    (folder / checkpoints.MANIFEST).unlink()
    with pytest.raises(UserError, match=r"model\.json is missing; rebuild it with: snakemake .*--forcerun train"):
        published(folder)


def remove(name):
    return lambda folder: (folder / name).unlink()


def shorten(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def garble(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def untokenized(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def bare(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (remove("config.json"), "no readable config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: damaged"),
        (untokenized, "no tokenizer files"),
        (bare, "no other format is loaded"),
        (shorten, r"model\.safetensors: damaged"),
        (garble, r"model\.safetensors: damaged"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_an_error_of_one_line(tiny, harm, text):
    harm(tiny)
    with pytest.raises(UserError, match=text) as error:
        resolve(str(tiny))
    assert str(tiny) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a b", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_said(name):
    with pytest.raises(UserError, match="no such folder, and not a hub id"):
        resolve(name)


class Refusing(http.server.BaseHTTPRequestHandler):
    """A hub that knows neither this token nor this caller."""

    def do_GET(self):
        self.send_response(401)
        self.send_header("X-Error-Message", "Invalid user token.")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *words):
        """Stays silent."""


def test_a_token_that_the_hub_refuses_is_named(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_address[1]}"
        done = subprocess.run(
            [sys.executable, "-c", "from evals.sampling.models import resolve; resolve('owner/name')"], cwd=ROOT,
            env=os.environ | {"HF_ENDPOINT": place, "HF_HOME": str(tmp_path), "HF_TOKEN": "x", "HF_HUB_OFFLINE": "0"},
            capture_output=True, text=True,
        )  # fmt: skip
        server.shutdown()
    last = done.stderr.strip().splitlines()[-1]
    assert f"and the hub at {place} refuses (401); HF_TOKEN or the login is not valid" in last


def test_the_default_folder_is_one_name():
    assert str(default_out("owner/name@main")) == "results/evaluations/owner--name@main"
    assert str(default_out("/tmp/x y/")) == "results/evaluations/tmp--x--y"
    assert json.dumps(str(default_out("../.."))) == '"results/evaluations/model"'
