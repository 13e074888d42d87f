"""What input, files, rights, disk and hub can cause is one line that names the thing, not a traceback."""

import errno
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from dynclip.cli.commands import caught, main
from dynclip.runtime import files, hub
from dynclip.runtime.errors import UserError, file_problem, one_line

sys.path.insert(0, str(Path(__file__).parent / "evals"))
from tiny_models import CHAT, save_tiny

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("--benchmark", "facts", "--k", "1", "--limit", "2", "--max-tokens", "4", "--engine", "transformers")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny", chat=CHAT)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def scored(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "out"
    assert main(["evaluate", "--model", str(tiny), *WORDS, "--out", str(out)]) == 0
    return out


def said(capsys, words) -> str:
    """The one line of a command that has to fail with status 2."""
    assert main([str(word) for word in words]) == 2
    text = capsys.readouterr().err
    (line,) = [line for line in text.splitlines() if line.startswith("dynclip: ")]
    assert text.endswith(f"{line}\n") and "Traceback" not in text and not list(Path(".").rglob("*.tmp"))
    return line


# Models


def put(name, text):
    return lambda folder: (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)


def edit(name, **values):
    return lambda folder: put(name, json.dumps(json.loads((folder / name).read_text()) | values))(folder)


def weights(change):
    def harm(folder):
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return harm


def only(**content):
    def harm(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        for name, text in content.items():
            (folder / name.replace("__", ".")).write_text(text)

    return harm


def sharded(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    put("model.safetensors.index.json", json.dumps(index))(folder)


def encoder(folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=600, **sizes)).save_pretrained(folder)


def remove(name):
    return lambda folder: (folder / name).unlink()


NAN = float("nan")
MODELS = {
    "config is a list": (put("config.json", "[1]"), "config.json: damaged (no JSON object)"),
    "config is no text": (put("config.json", b"\xff\xfe"), "config.json: damaged (no UTF-8 text)"),
    "no model_type": (put("config.json", "{}"), "Should have a `model_type` key"),
    "unknown model_type": (edit("config.json", model_type="foonet"), "model type `foonet`"),
    "remote code": (
        edit("config.json", model_type="foonet", auto_map={"AutoConfig": "c.C"}),
        "custom code which must be executed",
    ),
    "way out": (edit("config.json", model_type="foonet"), "let it serve the model: --endpoint"),
    "text_config": (edit("config.json", text_config=[1]), "cannot load"),
    "heads": (edit("config.json", num_attention_heads="many"), "Validation error for field 'num_attention_heads'"),
    "no heads": (edit("config.json", num_attention_heads=0), "cannot load"),
    "dtype": (edit("config.json", dtype="float17"), "float17"),
    "context": (edit("config.json", max_position_embeddings="long"), "'max_position_embeddings' expected int"),
    "quantized": (
        edit("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "requires bitsandbytes",
    ),
    "tokenizer is missing": (remove("tokenizer.json"), "its tokenizer is not the one of the model"),
    "tokenizer is foreign": (edit("tokenizer.json", model={"type": "Foo"}), "its tokenizer cannot be loaded"),
    "tokenizer settings": (put("tokenizer_config.json", "[]"), "tokenizer_config.json: damaged (no JSON object)"),
    "chat template": (put("chat_template.jinja", b"\xff"), "chat_template.jinja: damaged (no UTF-8 text)"),
    "generation settings": (put("generation_config.json", "{"), "generation_config.json: damaged (Expecting"),
    "end token": (edit("generation_config.json", eos_token_id="x"), "has eos_token_id 'x'"),
    "weights of another shape": (
        weights(lambda w: w | {"model.embed_tokens.weight": torch.zeros(10, 64)}),
        "mismatched weights, by its config.json: 1 tensors, such as model.embed_tokens.weight",
    ),
    "weights are missing": (
        weights(lambda w: {name: value for name, value in w.items() if name != "model.norm.weight"}),
        "missing weights, by its config.json: 1 tensors, such as model.norm.weight",
    ),
    "weights of other names": (weights(lambda w: {f"x.{name}": w[name] for name in w}), "missing weights"),
    "weights are no numbers": (weights(lambda w: {name: w[name] * NAN for name in w}), "no numbers (NaN)"),
    "a shard is missing": (sharded, "model-00002-of-00002.safetensors is missing"),
    "an adapter": (
        only(adapter_config__json='{"base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}'),
        "an adapter (adapter_config.json) of the model Qwen/Qwen2.5-0.5B; merge the two",
    ),
    "GGUF": (only(model__gguf="GGUF"), "no readable config.json; expected a model in Hugging Face format; a server"),
    "an encoder": (encoder, "says BertForMaskedLM; expected a causal language model"),
    "a manifest": (put("model.json", '{"files": {"config.json": 3}}'), "model.json is not a checkpoint manifest"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_or_foreign_model(tiny, tmp_path, capsys, name):
    harm, line = MODELS[name]
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    harm(folder)
    assert line in said(capsys, ["evaluate", "--model", folder, *WORDS, "--out", "out"])


# Files


def folder_at(name):
    def harm(out):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).unlink(missing_ok=True)
        (out / name).mkdir()

    return harm


def file_at(name):
    def harm(out):
        shutil.rmtree(out / name)
        (out / name).write_text("")

    return harm


def looping(out):
    (out / "facts.parts" / "lock").unlink()
    (out / "facts.parts" / "lock").symlink_to("lock")


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (folder_at("facts.json"), "facts.json: Is a directory; move it away, or use another path"),
        (folder_at("facts.parquet"), "facts.parquet: Is a directory"),
        (file_at("facts.parts"), "facts.parts: File exists"),
        (folder_at("facts.parts/lock"), "lock: Is a directory"),
        (looping, "facts.parts/lock: Too many levels of symbolic links"),
    ],
)
def test_a_folder_of_results_with_something_else_in_it(tiny, scored, tmp_path, capsys, harm, line):
    out = Path(shutil.copytree(scored, tmp_path / "out"))
    harm(out)
    assert line in said(capsys, ["evaluate", "--model", tiny, *WORDS, "--out", out])


@pytest.mark.parametrize("name", ["facts.json", "facts.parts/*/address.json", "facts.parts/*/*.parquet"])
@pytest.mark.parametrize("text", ["[]", "[1", "\x00\xff"])
def test_damaged_results_are_made_again(tiny, scored, tmp_path, name, text):
    out = Path(shutil.copytree(scored, tmp_path / "out"))
    (path,) = out.glob(name)
    path.write_text(text)
    assert main(["evaluate", "--model", str(tiny), *WORDS, "--out", str(out)]) == 0
    records = [json.loads((place / "facts.json").read_text()) for place in (out, scored)]
    assert records[0]["per_problem"] == records[1]["per_problem"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["evaluate", "--model", "{tiny}", *WORDS, "--out", "a" * 300], f"{'a' * 300}/facts.parts: File name too long"),
        (["evaluate", "--model", "{tiny}", *WORDS, "--out", "file/x"], "file/x: cannot write results there (Not a dir"),
        (["evaluate", "--model", "{tiny}", *WORDS, "--log", "file/x"], "file: File exists; move it away"),
        (["evaluate", "--model", "{tiny}", *WORDS, "--log", "."], "Is a directory"),
        (["evaluate", "--model", "a" * 300, *WORDS], "File name too long"),
        (["evaluate", "--model", "/no\nsuch", *WORDS], r"/no\nsuch: no such folder"),
        (["samples", "a" * 300], "File name too long"),
        (["samples", "a/**b"], "a/**b: no samples there"),
        (["samples", "odd.parquet"], "odd.parquet: not a sample file (KeyError)"),
        (["data", "--scale", "facts", "--results", "file"], "Not a directory"),
        (["tables", "--scale", "facts", "--log", "file/x"], "file: File exists"),
        (["verify", "file"], "file: expected runs/"),
        (["diagnose", "."], ".: "),
        (["compare", "id", "od", "--results", "file"], "no finished run"),
        (["ui", "--results", "file"], "no run was imported"),
    ],
)
def test_a_path_that_cannot_be_used(tiny, capsys, words, line):
    import pandas

    Path("file").write_text("")
    pandas.DataFrame({name: [1] for name in ("index", "text", "tokens", "finish")}).to_parquet("odd.parquet")
    assert line in said(capsys, [word.format(tiny=tiny) for word in words])


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "x/y: No space left on device; free space there (df -h, df -i), or use another folder"),
        (errno.EDQUOT, "x/y: Disk quota exceeded; free space there"),
        (errno.EROFS, "x/y: Read-only file system; change its permissions, or use another folder"),
        (errno.EACCES, "x/y: Permission denied; change its permissions"),
        (errno.EIO, "x/y: Input/output error; check the disk"),
    ],
)
def test_a_disk_that_fails_leaves_no_part_and_is_named(monkeypatch, capsys, number, line):
    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    assert caught(files.write_atomic, "x/y", "text") == 2
    assert capsys.readouterr().err.startswith(f"dynclip: {line}")
    assert not list(Path("x").iterdir())


def test_a_mistake_in_the_code_shows_its_traceback():
    with pytest.raises(OSError, match="other"):
        caught(lambda: (_ for _ in ()).throw(OSError("other")))
    with pytest.raises(ZeroDivisionError):
        caught(lambda: 1 / 0)


def test_a_reader_that_leaves_is_no_error(capsys):
    def leave():
        raise BrokenPipeError

    assert caught(leave) == 141 and capsys.readouterr().err == ""


def test_other_numbers_than_the_systems_are_no_file_problem():
    import ssl

    assert file_problem(ssl.SSLError(1, "wrong version number")) is None
    assert one_line("a\nb\x1b[31m é ×") == r"a\nb\x1b[31m é ×"


@pytest.mark.skipif(not shutil.which("localedef"), reason="needs localedef")
def test_files_are_utf8_in_any_locale(tmp_path):
    place = tmp_path / "locales" / "de_DE.ISO-8859-1"
    place.parent.mkdir()
    subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", place], capture_output=True)
    if not place.exists():
        pytest.skip("no source of the locale")
    Path("ü→").write_text("größe →", encoding="utf-8")
    code = "import sys; from dynclip.cli.commands import use_utf8; use_utf8(); print(open(sys.argv[1]).read())"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"}
    done = subprocess.run(
        [sys.executable, "-c", code, "ü→"], capture_output=True, text=True, encoding="utf-8",
        env=clean | {"LOCPATH": str(place.parent), "LC_ALL": place.name, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "größe →\n", done.stderr


# The hub


class Moody(http.server.BaseHTTPRequestHandler):
    """A hub that answers about the model `mood/<status>` with this status, and about `mood/<text>` with that text."""

    def do_GET(self):
        mood = self.path.split("/")[4]
        self.send_response(int(mood) if mood.isdigit() else 200)
        self.end_headers()
        self.wfile.write({"html": b"<html>", "list": b"[]"}.get(mood, b""))

    do_HEAD = do_GET

    def log_message(self, *words):
        """Stays silent."""


MOODS = {
    "401": "refuses (401); HF_TOKEN or the login is not valid there",
    "403": "refuses (403); HF_TOKEN",
    "404": "does not have it (404)",
    "429": "asks for fewer requests (429); wait some minutes, or set HF_TOKEN",
    "500": "failed (status 500); try again later",
    "html": "did not answer as a hub does: JSONDecodeError",
    "list": "did not answer as a hub does: ",
}
ASK = """
import json
from dynclip.runtime.errors import UserError
from evals.benchmarks import hub, registry
from evals.sampling.models import resolve
from dataclasses import replace
found = {}
for mood in MOODS:
    entry = replace(registry.BENCHMARKS["gsm8k"], id="mood/" + mood)
    for ask in (lambda: resolve(entry.id), lambda: hub.fetch(entry)):
        try: ask()
        except UserError as error: found.setdefault(mood, []).append(str(error))
print(json.dumps(found))
"""


def ask(moods, tmp_path, endpoint):
    done = subprocess.run(
        [sys.executable, "-c", f"MOODS = {list(moods)}{ASK}"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ
        | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_TOKEN": "x", "HF_HUB_OFFLINE": "0"}
        | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_what_the_hub_answers_is_said_with_the_way_out(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        found = ask(MOODS, tmp_path, endpoint)
        plain = ask(["x"], tmp_path, endpoint.replace("http:", "https:"))["x"]
        server.shutdown()
    for mood, line in MOODS.items():
        assert len(found[mood]) == 2
        for text in found[mood]:
            assert line in text and endpoint in text and "HF_ENDPOINT" in text and "\n" not in text
    assert all("SSL" in text for text in plain)


def test_no_hub_at_all_is_said(tmp_path):
    for text in ask(["x"], tmp_path, "http://127.0.0.1:9")["x"]:
        assert "Connection refused" in text


def test_a_full_disk_is_not_the_hubs_fault():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("download failed") from error
    except RuntimeError as error:
        with pytest.raises(OSError, match="No space left on device: 'HF_HOME"):
            hub.hub_problem(error)


def test_a_lock_that_is_waited_for_is_named(tmp_path, monkeypatch, capsys):
    from filelock import FileLock, Timeout

    monkeypatch.setattr(hub, "PATIENCE_S", 0.0)
    with FileLock(tmp_path / "lock"), hub.telling_of_locks(), pytest.raises(Timeout):
        FileLock(tmp_path / "lock", is_singleton=False).acquire(timeout=0.3)
    said = capsys.readouterr().err
    assert said.startswith(f"waiting for the hub's cache: {tmp_path / 'lock'} is held by process {os.getpid()}: ")
    assert said.count("\n") == 1


def test_a_user_error_is_one_line(capsys):
    def fail():
        raise UserError("a\nb")

    assert caught(fail) == 2 and capsys.readouterr().err == "dynclip: a\\nb\n"
