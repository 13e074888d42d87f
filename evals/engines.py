"""Sampling engines: prompts in, completions out, with the reason each one ended.

One interface for every engine: `generate(prompts, n, sampling, seed, progress) -> list of n samples per prompt`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dynclip import lean


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `top_k=0` and `top_p=1` leave the distribution whole; `max_tokens` counts new tokens."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


@dataclass(frozen=True)
class Sample:
    """One completion: its text, its length in tokens (with the end token) and "stop" or "length" (cut off)."""

    text: str
    tokens: int
    finish: str


class TransformersEngine:
    """Batched `transformers` generation, on the CPU or one GPU.

    Determinism: the same (model, prompts, n, sampling, seed, batch size, thread count) gives the same samples on the
    same machine; another batch size gives other draws.
    """

    name = "transformers"

    def __init__(self, model, tokenizer, batch_size: int = 512):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    @classmethod
    def load(cls, path: Path | str, batch_size: int = 512) -> "TransformersEngine":
        """From a local folder in Hugging Face format: safetensors only, no remote code, no network."""
        lean.prepare()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        return cls(model.eval(), tokenizer, batch_size)

    def generate(
        self,
        prompts: list[str],
        n: int,
        sampling: Sampling,
        seed: int,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> list[list[Sample]]:
        """`n` samples for each prompt, in order. `progress(prompts done, prompts, tokens so far)` after each batch."""
        import torch

        torch.manual_seed(seed)
        results, tokens = [], 0
        per_batch = max(1, self.batch_size // n)
        for start in range(0, len(prompts), per_batch):
            batch = prompts[start : start + per_batch]
            samples = self._batch(batch, n, sampling)
            tokens += sum(sample.tokens for group in samples for sample in group)
            results += samples
            if progress:
                progress(len(results), len(prompts), tokens)
        return results

    def _batch(self, prompts: list[str], n: int, sampling: Sampling) -> list[list[Sample]]:
        import torch

        encoded = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(self.model.device)
        with torch.inference_mode():
            output = self.model.generate(
                **encoded,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_new_tokens=sampling.max_tokens,
                num_return_sequences=n,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        completions = output[:, encoded["input_ids"].shape[1] :]
        ended = completions == self.tokenizer.eos_token_id
        stopped = ended.any(dim=1).tolist()
        lengths = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, completions.shape[1]).tolist()
        texts = self.tokenizer.batch_decode(
            [ids[:length] for ids, length in zip(completions.tolist(), lengths, strict=True)], skip_special_tokens=True
        )
        samples = [
            Sample(text, length, "stop" if stop else "length")
            for text, length, stop in zip(texts, lengths, stopped, strict=True)
        ]
        return [samples[i : i + n] for i in range(0, len(samples), n)]
