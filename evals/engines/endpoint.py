"""Sampling from a served model through the OpenAI-compatible interface of vLLM, SGLang, llama.cpp and others.

A server can be slow, overloaded or hostile. Every request has a deadline and a limit of size and is tried again with
growing pauses. What it returns is text and nothing else. The key comes from the environment, goes into a header and is
never stored.
"""

import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

from dynclip.runtime.errors import UserError
from dynclip.runtime.provenance import digest
from evals.engines.endings import ends_in_thinking
from evals.engines.engine import Engine, derived_seed
from evals.grading.answers import THINKING
from evals.sampling.prompts import BOXED, Template
from evals.sampling.settings import REPETITION, Chunk, Sample, Sampling

KEYS = ("DYNCLIP_API_KEY", "OPENAI_API_KEY")
CONCURRENCY = 16  # requests at the same time
TRIES, PAUSE_S, LONGEST_PAUSE_S = 7, 0.5, 30.0  # of one request; the pauses double
DEADLINE_S = 1800.0  # for one whole response, however slowly it drips
MOST_BYTES = 16 * 2**20  # of one response
CHUNK_SAMPLES, CHUNK_SECONDS = 64, 20.0  # how much is finished before a chunk is handed out: what a kill can cost
TRIED_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
TOO_LONG = re.compile(r"context (length|window|size)|maximum.{0,40}tokens|too (long|many tokens)", re.IGNORECASE)


def served(problem: str, tokenizer) -> str:
    return f"{problem}\n\n{BOXED}"


# The server applies the model's own chat template. Its version belongs to the server.
SERVED = Template("served", 1, "one turn of a user; the server has the template", served)


@dataclass(frozen=True)
class ServedModel:
    """A model behind `url`, an address that ends with /v1. It stands for `models.Model` in an evaluation."""

    name: str
    url: str
    sha256: None = None
    revision: None = None
    chat_template: None = None

    @property
    def digest(self) -> str:
        return digest({"served": self.name, "url": self.url})


def served_model(url: str, name: str) -> ServedModel:
    """The model `name` behind `url`. Raises UserError for an address that is none, or that holds a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--endpoint {url}: expected an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise UserError(f"--endpoint: no name, password or query in the address; the key goes into {KEYS[0]}")
    return ServedModel(name, url.rstrip("/"))


class NoTokenizer:
    """What templates see of a served model: it has no chat template here."""

    chat_template = None


class TryAgain(Exception):
    """A request failed in a way that another try may mend. pause: seconds that the server asked for."""

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.pause = pause


@dataclass
class EndpointEngine(Engine):
    """Samples of a served model, one request each, `concurrency` at a time.

    chat: through /chat/completions, else the prompt's text through /completions.
    """

    model: ServedModel
    chat: bool
    concurrency: int = CONCURRENCY
    deadline: float = DEADLINE_S
    pause: float = PAUSE_S
    warned: bool = False  # once is enough; many requests fail together
    tokenizer: NoTokenizer = field(default_factory=NoTokenizer)

    name = "endpoint"
    seeds_each = True  # every sample asks for a seed of its own; whether the server follows it is the server's affair

    def guarantees(self) -> dict:
        return {
            "engine": self.name, "url": self.model.url, "model": self.model.name, "version": None, "device": None,
            "dtype": None, "threads": None, "seeded": "asked for, per sample; the server decides",
            "repeatable": False, "batch_invariant": False, "continues": False,
        }  # fmt: skip

    def stream(
        self, prompts, n, sampling, seed, first=0, state=b"", special_tokens=True, stop_texts=()
    ) -> Iterator[Chunk]:
        """As `Engine.stream`. Raises UserError where the server refuses a request, or fails at every try."""
        import httpx

        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        client = httpx.Client(headers=headers, limits=limits, timeout=httpx.Timeout(self.deadline, connect=10.0))
        work, results = SimpleQueue(), SimpleQueue()
        for i, prompt in enumerate(prompts):
            for j in range(n):
                work.put((i, j, prompt, derived_seed(seed, 0, prompt) + first + j))
        stopped = threading.Event()

        def serve() -> None:
            with suppress(Empty):
                while not stopped.is_set():
                    i, j, prompt, own = work.get_nowait()
                    try:
                        results.put((i, j, self._sample(client, prompt, sampling, own, stop_texts)))
                    except Exception as error:
                        stopped.set()
                        results.put((i, j, error))

        # Daemons: after an error or a Ctrl-C nobody waits for answers that are still on their way.
        for _ in range(min(self.concurrency, len(prompts) * n)):
            threading.Thread(target=serve, daemon=True).start()
        groups: dict[int, dict[int, Sample]] = {}
        done, since = [], time.monotonic()
        try:
            for left in reversed(range(len(prompts) * n)):
                i, j, found = results.get()
                if isinstance(found, Exception):
                    raise found
                groups.setdefault(i, {})[j] = found
                if len(groups[i]) == n:
                    done.append(i)
                enough = len(done) * n >= CHUNK_SAMPLES or time.monotonic() - since > CHUNK_SECONDS
                if done and (enough or not left):
                    yield Chunk(done, [[groups[i][j] for j in range(n)] for i in done])
                    done, since = [], time.monotonic()
        finally:
            stopped.set()
            client.close()

    def _sample(self, client, prompt: str, sampling: Sampling, seed: int, stop_texts: Sequence[str]) -> Sample:
        body = {
            "model": self.model.name, "n": 1, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "seed": seed % 2**31,
        }  # fmt: skip
        body |= {"top_k": sampling.top_k} if sampling.top_k else {}  # no part of OpenAI's interface
        body |= {"repetition_detection": REPETITION} if sampling.stop_repetition else {}  # vLLM's alone
        body |= {"stop": list(stop_texts)} if stop_texts else {}
        body |= {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        place = f"{self.model.url}/{'chat/completions' if self.chat else 'completions'}"
        reason = ""
        for attempt in range(TRIES):
            try:
                return self._ask(client, place, body)
            except TryAgain as error:
                reason = str(error)
                if attempt == 1 and not self.warned:
                    self.warned = True
                    print(f"{place}: {reason}; trying again, {TRIES} times in all", file=sys.stderr, flush=True)
                longest = min(LONGEST_PAUSE_S, max(error.pause, self.pause * 2**attempt))
                if attempt + 1 < TRIES:
                    time.sleep(longest * random.uniform(0.5, 1.0) if not error.pause else longest)
        raise UserError(f"{place}: no answer in {TRIES} tries (last: {reason}); the same command continues")

    def _ask(self, client, place: str, body: dict) -> Sample:
        """One try. Raises TryAgain, or UserError where another try cannot help."""
        import httpx

        began, content = time.monotonic(), bytearray()
        try:
            with client.stream("POST", place, json=body) as answer:
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > MOST_BYTES:
                        raise TryAgain(f"more than {MOST_BYTES >> 20} MiB")
                    if time.monotonic() - began > self.deadline:
                        raise TryAgain(f"not complete after {self.deadline:g} s")
        except httpx.HTTPError as error:
            raise TryAgain(type(error).__name__) from None
        if answer.status_code != 200:
            return self._refused(place, answer, content)
        try:
            found = json.loads(content)
            choice = found["choices"][0]
            message = choice["message"] if self.chat else {"content": choice["text"]}
            usage = found.get("usage") or {}
            tokens, details = usage.get("completion_tokens"), usage.get("completion_tokens_details") or {}
            text, reasoning = message["content"], message.get("reasoning_content") or message.get("reasoning")
            thinking = details.get("reasoning_tokens")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise TryAgain("no JSON with a choice") from None
        if isinstance(reasoning, str):  # the server took the thinking out of the text; it is kept as models write it
            text = f"<think>{reasoning}</think>{text}" if text else f"<think>{reasoning}"
        if not isinstance(text, str):
            raise TryAgain("a choice without text")
        for stop in body.get("stop", ()):
            text = text.partition(stop)[0]
        counted = _count(tokens) or 0
        if ends_in_thinking(text):
            thinking = counted
        elif _count(thinking) is not None:
            thinking = min(thinking, counted)
        else:  # in the text without a number, or not there
            thinking = None if THINKING.search(text) else 0
        finish = choice.get("finish_reason")
        return Sample(text, counted, finish if finish in ("length", "repetition") else "stop", thinking)

    def _refused(self, place: str, answer, content: bytes) -> Sample:
        said = " ".join(content[:2000].decode(errors="replace").split())
        said = "".join(c for c in said if c.isprintable())[:200]
        if answer.status_code in TRIED_AGAIN:
            pause = 0.0
            with suppress(ValueError):
                pause = min(LONGEST_PAUSE_S, max(0.0, float(answer.headers.get("Retry-After", 0))))
            raise TryAgain(f"status {answer.status_code}", pause)
        if answer.status_code == 400 and TOO_LONG.search(said):
            return Sample("", 0, "overflow")
        remedy = f"; set {KEYS[0]}" if answer.status_code in (401, 403) else ""
        raise UserError(f"{place}: refused with status {answer.status_code} ({said or 'no text'}){remedy}")


def _count(value) -> int | None:
    """`value` where it is a number of tokens."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def engine_of(model: ServedModel, templates: Sequence[Template], concurrency: int | None) -> EndpointEngine:
    """The engine of a served model. Raises UserError for templates of which some need the chat interface."""
    kinds = {template.name == SERVED.name for template in templates}
    if len(kinds) > 1:
        raise UserError("--endpoint: these benchmarks use different interfaces; evaluate them one by one")
    return EndpointEngine(model, chat=kinds.pop(), concurrency=concurrency or CONCURRENCY)
