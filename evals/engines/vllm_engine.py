"""Sampling with vLLM."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynclip.runtime.errors import UserError
from evals.engines.draws import DRAW_KEY
from evals.engines.endings import opens_thinking, sample_of
from evals.engines.engine import Engine, derived_seed, end_tokens, installed_engines, line, load_tokenizer
from evals.engines.process import quiet
from evals.sampling.settings import REPETITION, Chunk, Sample, Sampling

CHUNK_SAMPLES, CHUNK_SECONDS = 64, 20.0  # how much vLLM finishes before a chunk is handed out: what a kill can cost


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
                    logits_processors=["evals.engines.vllm_draws:Drawing"] if device == "cpu" else None,
                )
        except Exception as error:  # whatever vLLM makes of damaged or foreign files
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

    def stream(
        self, prompts, n, sampling, seed, first=0, state=b"", special_tokens=True, stop_texts=()
    ) -> Iterator[Chunk]:
        import torch

        greedy = sampling.temperature <= 0
        distinct = 1 if greedy else n
        ids = self.tokenizer(list(prompts), add_special_tokens=special_tokens)["input_ids"]
        opened = [opens_thinking(prompt) for prompt in prompts]
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
                    engine.add_request(
                        f"{i}-{j}", {"prompt_token_ids": row}, self._parameters(sampling, own, stop_texts)
                    )
                    waiting[f"{i}-{j}"] = i, j
        done: list[int] = []
        since = time.monotonic()
        try:
            while waiting:
                self.step()
                for output in engine.step():
                    if output.finished:
                        i, j = waiting.pop(output.request_id)
                        groups.setdefault(i, {})[j] = self._sample(output, stop_texts, opened[i])
                        if len(groups[i]) == distinct:
                            done.append(i)
                enough = len(done) * n >= CHUNK_SAMPLES or time.monotonic() - since > CHUNK_SECONDS
                if done and (enough or not waiting):
                    yield Chunk(done, [[groups[i][j] for j in range(distinct)] * (n // distinct) for i in done])
                    done, since = [], time.monotonic()
        finally:
            if waiting:
                engine.abort_request(sorted(waiting))

    def unfinished(self) -> list[int]:
        running = self.llm.llm_engine.engine_core.engine_core.scheduler.running
        return [request.num_output_tokens for request in running]

    def _parameters(self, sampling: Sampling, seed: int | None, stop_texts: Sequence[str]):
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

        drawing = {**sampling.rule, "seed": seed}
        if sampling.temperature <= 0:
            drawing = {"temperature": 0.0}
        elif self.device == "cpu":
            drawing = {"temperature": 0.0, "extra_args": {DRAW_KEY: (seed, *sampling.rule.values())}}
        return SamplingParams(
            **drawing,
            max_tokens=sampling.max_tokens,
            repetition_detection=RepetitionDetectionParams(**REPETITION) if sampling.stop_repetition else None,
            stop_token_ids=self.ends,
            stop=list(stop_texts),
            detokenize=bool(stop_texts),  # text is decoded once, at the end, where none ends a response
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _sample(self, output, stop_texts: Sequence[str], opened: bool) -> Sample:
        found = output.outputs[0]
        if found.finish_reason not in ("stop", "length", "repetition"):
            raise RuntimeError(f"vLLM ended a request with {found.finish_reason!r}")
        return sample_of(self.tokenizer, list(found.token_ids), found.finish_reason, stop_texts, opened)

    def close(self) -> None:
        import gc

        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        gc.collect()
        cleanup_dist_env_and_memory()
