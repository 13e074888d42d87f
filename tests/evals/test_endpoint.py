"""Served models: a hostile stub server, and a real `vllm serve`."""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browsing import free_port, running
from tiny_models import CHAT, save_tiny

from dynclip.cli.commands import main
from dynclip.runtime.errors import UserError
from evals import evaluation
from evals.engines import endpoint
from evals.engines.endpoint import EndpointEngine, served_model
from evals.engines.engine import installed_engines
from evals.sampling.settings import Sampling

SAMPLING = Sampling(temperature=0.5, top_p=0.9, top_k=0, max_tokens=8)


class Stub:
    """A server that answers with `plan`, one entry a request, then properly. `seen`: (path, body, key) of each."""

    def __init__(self):
        self.plan, self.seen, stub = [], [], self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.seen.append((self.path, body, self.headers.get("Authorization")))
                behave = stub.plan.pop(0) if stub.plan else good
                behave(self, body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def reply(handler, status, content, **headers):
    handler.send_response(status)
    for name, value in {"Content-Length": len(content), **headers}.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(content)


def completion(text, reason="stop", usage=True):
    record = {"choices": [{"message": {"content": text}, "text": text, "finish_reason": reason}]}
    return json.dumps(record | ({"usage": {"completion_tokens": 5}} if usage else {})).encode()


def good(handler, body):
    reply(handler, 200, completion(f"\\boxed{{{body['seed'] % 7}}}"))


def answer(status, content, **headers):
    return lambda handler, body: reply(handler, status, content, **headers)


def drip(handler, body):
    content = completion("slow")
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for byte in content:
        try:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.5)


def hang_up(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.close()


@pytest.fixture
def stub():
    made = Stub()
    yield made
    made.server.shutdown()


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in endpoint.KEYS:
        monkeypatch.delenv(name, raising=False)


def engine(stub, chat=True, **more):
    return EndpointEngine(served_model(stub.url, "m"), chat, **{"concurrency": 1, "pause": 0.01, **more})


def test_samples_have_their_own_seeds_and_go_through_the_interface_of_the_template(stub, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    groups = engine(stub, concurrency=4).generate(["a", "b"], 3, SAMPLING, 7)
    assert [len(group) for group in groups] == [3, 3] and {s.tokens for g in groups for s in g} == {5}
    assert len({body["seed"] for _, body, _ in stub.seen}) == 6
    path, body, key = stub.seen[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and "top_k" not in body
    assert body["messages"][0]["role"] == "user" and (body["temperature"], body["max_tokens"]) == (0.5, 8)
    assert engine(stub).generate(["a", "b"], 3, SAMPLING, 7) == groups  # asked again with the same seeds
    engine(stub, chat=False).generate(["a"], 1, SAMPLING, 7)
    assert stub.seen[-1][0] == "/v1/completions" and stub.seen[-1][1]["prompt"] == "a"


@pytest.mark.parametrize("behave", [
    answer(429, b"slow down", Retry_After="0.05"), answer(500, b""), answer(503, b"\xff\xfe"), answer(200, b'{"choi'),
    answer(200, b"[]"), answer(200, b'{"choices": []}'), answer(200, completion(None)), answer(200, completion(5)),
    answer(200, b'{"choices": [{"message": null}]}'), hang_up,
], ids=range(10))  # fmt: skip
def test_what_another_try_may_mend_is_tried_again(stub, behave):
    stub.plan = [behave, behave]
    ((sample,),) = engine(stub).generate(["a"], 1, SAMPLING, 7)
    assert sample.text.startswith("\\boxed") and len(stub.seen) == 3


def test_a_slow_drip_and_a_flood_have_an_end(stub, monkeypatch):
    monkeypatch.setattr(endpoint, "MOST_BYTES", 10_000)
    stub.plan = [drip, answer(200, completion("x" * 20_000))]
    began = time.monotonic()
    ((sample,),) = engine(stub, deadline=0.5).generate(["a"], 1, SAMPLING, 7)
    assert sample.text.startswith("\\boxed") and len(stub.seen) == 3 and time.monotonic() - began < 40


def test_what_no_try_can_mend_is_one_line(stub, monkeypatch, capsys):
    monkeypatch.setenv("DYNCLIP_API_KEY", "secret")
    stub.plan = [answer(401, b"\x1b[31mno\nentry")]
    with pytest.raises(UserError, match=r"refused with status 401 \(\[31mno entry\); set DYNCLIP_API_KEY") as caught:
        engine(stub).generate(["a"], 1, SAMPLING, 7)
    assert "secret" not in str(caught.value) and "\x1b" not in str(caught.value)
    stub.plan = [answer(500, b"")] * endpoint.TRIES
    with pytest.raises(UserError, match=rf"no answer in {endpoint.TRIES} tries \(last: status 500\)"):
        engine(stub).generate(["a"], 1, SAMPLING, 7)
    assert capsys.readouterr().err.count("status 500; trying again") == 1


def test_limits_of_length_are_recorded_and_missing_counts_are_none(stub):
    stub.plan = [
        answer(200, completion("cut", "length", usage=False)),
        answer(400, b'{"message": "maximum context length is 2048 tokens"}'),
    ]
    ((cut,), (over,)) = engine(stub).generate(["a", "b"], 1, SAMPLING, 7)
    assert (cut.finish, cut.tokens, over.finish, over.text) == ("length", 0, "overflow", "")


def thought(text, reasoning=None, count=None, name="reasoning_content"):
    details = {} if count is None else {"completion_tokens_details": {"reasoning_tokens": count}}
    choice = {"message": {"content": text, name: reasoning}, "finish_reason": "stop"}
    return answer(200, json.dumps({"choices": [choice], "usage": {"completion_tokens": 9, **details}}).encode())


@pytest.mark.parametrize(("behave", "text", "thinking"), [
    (thought("4", "2+2", 6), "<think>2+2</think>4", 6),
    (thought("4", "2+2", name="reasoning"), "<think>2+2</think>4", None),
    (thought("4", None, 6), "4", 6), (thought("4", None, 60), "4", 9), (thought("4"), "4", 0),
    (thought(None, "2+2"), "<think>2+2", 9), (thought("", "2+2", 6), "<think>2+2", 9),
    (thought("<think>2+2</think>4"), "<think>2+2</think>4", None), (thought("<think>2+2"), "<think>2+2", 9),
    (thought("4", ["no text"], "many"), "4", 0), (thought("4", None, True), "4", 0),
], ids=range(11))  # fmt: skip
def test_thinking_that_the_server_took_out_is_kept_and_its_tokens_are_counted(stub, behave, text, thinking):
    stub.plan = [behave]
    ((sample,),) = engine(stub).generate(["a"], 1, SAMPLING, 7)
    assert (sample.text, sample.tokens, sample.thinking_tokens) == (text, 9, thinking) and len(stub.seen) == 1


def test_stop_texts_are_asked_for_and_cut_off_where_the_server_does_not(stub):
    stub.plan = [answer(200, completion("4\nProblem:\n5"))]
    ((sample,),) = engine(stub, chat=False).generate(["a"], 1, SAMPLING, 7, stop_texts=("\nProblem:",))
    assert sample.text == "4" and stub.seen[-1][1]["stop"] == ["\nProblem:"]
    engine(stub).generate(["a"], 1, SAMPLING, 7)
    assert "stop" not in stub.seen[-1][1]


def test_shots_go_through_completions_and_a_budget_is_refused(stub, tmp_path, capsys):
    words = ["evaluate", "--endpoint", stub.url, "--model", "m", "--benchmark", "facts", "--limit", "2", "--k", "1",
             "--out", str(tmp_path)]  # fmt: skip
    assert main([*words, "--shots", "3"]) == 0
    path, body, _ = stub.seen[-1]
    assert path == "/v1/completions" and body["prompt"].count("Solution:") == 4 and body["stop"]
    record = json.loads((tmp_path / "facts.json").read_text())
    assert record["shots"]["n"] == 3 and record["shots"]["digest"] in record["address"]["template"]
    assert main([*words, "--thinking-budget", "3"]) == 2
    assert "--thinking-budget goes with a local model" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x/v1", "http://me:hidden@x/v1", "http://x/v1?key=hidden"])
def test_addresses_that_are_none_or_hold_a_secret_are_refused(url):
    with pytest.raises(UserError, match="--endpoint") as caught:
        served_model(url, "m")
    assert "hidden" not in str(caught.value)


def test_an_evaluation_stops_at_a_refusal_and_continues_with_what_is_stored(stub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(endpoint, "CHUNK_SAMPLES", 4)
    words = ["evaluate", "--endpoint", stub.url, "--model", "m", "--benchmark", "facts", "--limit", "6", "--k", "2",
             "--concurrency", "1", "--out", str(tmp_path)]  # fmt: skip
    stub.plan = [good] * 8 + [answer(404, b"model m is gone")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "refused with status 404 (model m is gone)" in said and "Traceback" not in said
    assert main(words) == 0
    assert len(stub.seen) == 9 + 4  # 8 samples were on disk
    record = json.loads((tmp_path / "facts.json").read_text())
    assert record["engine"] == "endpoint" and record["samples"]["rows"] == 12
    made = record["guarantees"][0]
    assert (made["url"], made["repeatable"], made["model"]) == (stub.url, False, "m")
    assert record["address"]["template"] == "served/1" and record["model"]["sha256"] is None
    assert main(words) == 0 and len(stub.seen) == 13  # nothing is asked for again


@pytest.mark.slow  # a second start of vLLM: test_engines.py has the first
@pytest.mark.skipif(not installed_engines()["vllm"], reason="vLLM is not installed")
def test_a_real_vllm_server(tmp_path):
    folder, port = save_tiny(tmp_path / "tiny", chat=CHAT), free_port()
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1",
             "--served-model-name", "tiny", "--port", str(port), "--enforce-eager", "--dtype", "float32"]  # fmt: skip
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    try:
        with running(words, f"http://127.0.0.1:{port}/health", tmp_path):
            model = served_model(f"http://127.0.0.1:{port}/v1", "tiny")
            how = evaluation.Evaluation(k=2, limit=4, max_tokens=6)
            request = evaluation.Request(model, ("facts",), how, tmp_path / "out", tmp_path / "out")
            record = evaluation.evaluate(request)["facts"]
            first = EndpointEngine(model, chat=False).generate(["1 +2 ="], 2, SAMPLING, 3)
            assert EndpointEngine(model, chat=False).generate(["1 +2 ="], 2, SAMPLING, 3) == first
            with pytest.raises(UserError, match="refused with status 404"):
                EndpointEngine(served_model(model.url, "another"), True).generate(["1"], 1, SAMPLING, 3)
    finally:
        del os.environ["VLLM_CPU_KVCACHE_SPACE"]
    assert record["samples"]["rows"] == 8 and record["completion_tokens_mean"] > 0
