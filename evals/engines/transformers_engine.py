"""Sampling with transformers, one batch of prompts after the other."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from dynclip.runtime import fast_imports
from dynclip.runtime.errors import UserError
from evals.engines.draws import draw
from evals.engines.endings import opens_thinking, sample_of
from evals.engines.engine import Engine, derived_seed, end_tokens, line, load_tokenizer
from evals.engines.process import keep_freed_memory, random_state, set_random_state
from evals.sampling.settings import REPETITION, Chunk, Sample, Sampling, repeats

LOOK_REPEATED = 16  # tokens between two looks whether a response repeats itself
MOST_REPEATED = REPETITION["max_pattern_size"] * REPETITION["min_count"]
LOOK_STOPPED = 8  # tokens between two looks for a text that ends a response


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
        if self.context:
            model.register_forward_pre_hook(self._stay_in_window, with_kwargs=True)

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
        fast_imports.skip_unused()
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        tokenizer = load_tokenizer(path)
        # On a CPU the fused attention is the slower one for single tokens: 26 s against 18 s for 64 x 128 of them.
        attention = {"attn_implementation": "eager"} if device == "cpu" else {}
        if device == "cpu":
            keep_freed_memory()
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                ignore_mismatched_sizes=True, output_loading_info=True, **attention,
            )  # fmt: skip
        except Exception as error:  # whatever the library makes of damaged or foreign files
            raise UserError(
                f"{path}: transformers cannot load it as a causal language model ({line(error)}); where another "
                "program can, let it serve the model: --endpoint"
            ) from None
        # transformers would fill these with random numbers.
        for what in ("missing", "mismatched"):
            names = sorted(name if isinstance(name, str) else name[0] for name in found[f"{what}_keys"])
            if names:
                raise UserError(
                    f"{path}: {what} weights, by its config.json: {len(names)} tensors, such as {names[0]}; "
                    "download or save the model again"
                )
        if tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings:
            tokenizer.pad_token_id = 0  # padding is masked, but it is looked up
        ends = end_tokens(tokenizer, model.generation_config.eos_token_id, stops)
        # The model's own defaults (a repetition penalty, say) would silently change what `Sampling` describes.
        model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
        model = model.eval().to(device)
        with torch.inference_mode():
            if model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device)).logits.isnan().any():
                raise UserError(f"{path}: its weights give no numbers (NaN); download or save the model again")
        return cls(model, tokenizer, batch_size, ends)

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

    def stream(
        self, prompts, n, sampling, seed, first=0, state=b"", special_tokens=True, stop_texts=()
    ) -> Iterator[Chunk]:
        import torch

        torch.manual_seed(derived_seed(seed, first))
        if state:
            set_random_state(state, self.model.device)
        distinct = n if sampling.temperature > 0 else 1
        per_batch = max(1, self.batch_size // distinct)
        for start in range(0, len(prompts), per_batch):
            batch = list(prompts[start : start + per_batch])
            groups = self._batch(batch, distinct, sampling, special_tokens, stop_texts)
            groups = [group * (n // distinct) for group in groups]
            yield Chunk(list(range(start, start + len(batch))), groups, random_state(self.model.device))

    def _batch(
        self, prompts: list[str], n: int, sampling: Sampling, special_tokens: bool, stop_texts: Sequence[str]
    ) -> list[list[Sample]]:
        """`n` samples for each prompt of one batch; prompts that leave no room for a response get "overflow"."""
        rooms = [sampling.max_tokens] * len(prompts)
        if self.context is not None:
            ids = self.tokenizer(prompts, add_special_tokens=special_tokens)["input_ids"]
            rooms = [min(sampling.max_tokens, self.context - len(row)) for row in ids]
        fitting = [i for i, room in enumerate(rooms) if room > 0]
        groups = [[Sample("", 0, "overflow")] * n for _ in prompts]
        if fitting:
            kept = [prompts[i] for i in fitting]
            found = self._draw(kept, [rooms[i] for i in fitting], n, sampling, special_tokens, stop_texts)
            for i, group in zip(fitting, found, strict=True):
                groups[i] = group
        return groups

    def _stay_in_window(self, _model, given: tuple, named: dict) -> tuple[tuple, dict]:
        """A row that has used its window goes on with its batch. Learned positions have no row for what it draws then,
        and `draw_ids` cuts that off."""
        if named.get("position_ids") is not None:
            named["position_ids"] = named["position_ids"].clamp(max=self.context - 1)
        return given, named

    def _draw(
        self,
        prompts: list[str],
        rooms: list[int],
        n: int,
        sampling: Sampling,
        special_tokens: bool,
        stop_texts: Sequence[str],
    ) -> list[list[Sample]]:
        completions, finishes = self.draw_ids(prompts, rooms, n, sampling, special_tokens, stop_texts)
        opened = [opens_thinking(prompt) for prompt in prompts for _ in range(n)]
        samples = [
            sample_of(self.tokenizer, ids, finish, stop_texts, begins)
            for ids, finish, begins in zip(completions, finishes, opened, strict=True)
        ]
        return [samples[i : i + n] for i in range(0, len(samples), n)]

    def draw_ids(
        self,
        prompts: list[str],
        rooms: list[int],
        n: int,
        sampling: Sampling,
        special_tokens: bool = True,
        stop_texts: Sequence[str] = (),
    ) -> tuple[list[list[int]], list[str]]:
        """`n` completions of each prompt in one batch, as token ids with the end token, and why each one ended.

        A prompt's completions have at most its number of `rooms`, and go on a few tokens after one of `stop_texts`.
        Draws follow torch's global random state.
        """
        import torch

        encoded = self.tokenizer(
            prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=special_tokens
        )
        known = self.model.get_input_embeddings().num_embeddings
        if not encoded["input_ids"].numel() or int(encoded["input_ids"].max()) >= known:
            raise UserError(
                f"{self.model.name_or_path}: its tokenizer is not the one of the model, which has {known} "
                "tokens; download or save the tokenizer again"
            )
        encoded = encoded.to(self.model.device)

        start, repeating = encoded["input_ids"].shape[1], set()
        ends = torch.tensor(self.ends, device=self.model.device)

        def drawn(ids, scores):
            self.step()
            if sampling.stop_repetition and (ids.shape[1] - start) % LOOK_REPEATED == 0:
                running = ~torch.isin(ids[:, start:], ends).any(dim=1)
                last = ids[:, start:][:, -MOST_REPEATED:].tolist()
                repeating.update(i for i in running.nonzero().flatten().tolist() if repeats(last[i]))
            closing = sorted(repeating)
            if sampling.temperature <= 0:
                scores[closing, self.ends[0]] = torch.inf
                return scores
            tokens = draw(scores, torch.rand(len(scores)).to(scores.device), **sampling.rule)
            tokens[closing] = self.ends[0]
            return scores.scatter(1, tokens.unsqueeze(1), torch.inf)

        def shown(ids, _, **__):
            new = ids[:, start:]
            if not stop_texts or new.shape[1] % LOOK_STOPPED:
                return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
            # A text has at most a token for each of its characters.
            tails = new[:, -LOOK_STOPPED - max(map(len, stop_texts)) :]
            texts = self.tokenizer.batch_decode(tails, skip_special_tokens=True)
            return torch.tensor([any(stop in text for stop in stop_texts) for text in texts], device=ids.device)

        with torch.inference_mode():
            output = self.model.generate(
                **{name: rows.repeat_interleave(n, dim=0) for name, rows in encoded.items()},
                do_sample=False,  # the likeliest token, which is the drawn one once `drawn` has raised it
                logits_processor=[drawn],
                stopping_criteria=[shown],
                max_new_tokens=max(rooms),
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.ends,
            )
        completions = output[:, start:]
        ended = torch.isin(completions, ends)
        lengths = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, completions.shape[1])
        limits = torch.tensor(rooms, device=completions.device).repeat_interleave(n)
        stopped = (ended.any(dim=1) & (lengths <= limits)).tolist()
        # A row that begins to repeat itself beyond its own room was cut off before.
        ended_by = ["repetition" if i in repeating else "stop" for i in range(len(stopped))]
        finishes = [why if stop else "length" for why, stop in zip(ended_by, stopped, strict=True)]
        lengths = torch.minimum(lengths, limits).tolist()
        return [ids[:length] for ids, length in zip(completions.tolist(), lengths, strict=True)], finishes
