"""vLLM inside the training process, on machines where TRL's own way of keeping it in step does not work: CPUs.

TRL writes new weights through the model's weight loaders, which vLLM's CPU build discards when it repacks the linear
layers. vLLM's own `reload_weights` takes the same names and tensors, and repacks.
"""

import os
from contextlib import contextmanager
from functools import partial

from dynclip.runtime.hardware import GIB, VLLM_CPU_CACHE_GIB


@contextmanager
def engine_options(on_cpu: bool, bf16: bool = False):
    """While TRL builds its engine: what a CPU needs. Uncompiled, it starts in 15 s instead of 75 s and loses a fifth of
    its speed; compiling pays on GPUs alone. It computes in the trainer's precision, where vLLM would take bfloat16 for
    whatever is stored in float32. No usage statistics are sent from anywhere."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not on_cpu:
        yield
        return
    import torch
    from trl.generation import vllm_generation

    engine, set_num_threads = getattr(vllm_generation, "LLM", None), torch.set_num_threads
    if engine is not None:
        options = {"enforce_eager": True, "kv_cache_memory_bytes": int(VLLM_CPU_CACHE_GIB * GIB)}
        options["dtype"] = "bfloat16" if bf16 else "float32"
        vllm_generation.LLM = partial(engine, **options)
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads  # vLLM's CPU build replaces it for the whole process
        if engine is not None:
            vllm_generation.LLM = engine


def sync_by_reloading(generation) -> None:
    """Give the engine of a TRL `VLLMGeneration` the trainer's weights, by vLLM's own reload.

    An output head that is tied to the input embeddings has no weights of its own to be reloaded, and would go on
    computing with the packed copy of the old ones: it is packed again.
    """
    runner = generation.llm.llm_engine.model_executor.driver_worker.model_runner
    runner.reload_weights(weights_iterator=((name, value.data) for name, value in generation._iter_named_params()))
    if generation.model.config.get_text_config().tie_word_embeddings:
        model = runner.get_model()
        model.lm_head.weight = model.model.embed_tokens.weight
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
    generation.llm.reset_prefix_cache()
