"""The base policy of a hub scale: a language model of the hub, fine-tuned first if the scale has that stage.

The result, in results/<scale>/base, is a plain Hugging Face folder in bfloat16. Its `base.json` holds the model's
source and the record of the supervised stage. A killed stage goes on from its checkpoint in
results/<scale>/.base.state.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dynclip.runtime import checkpoints, fast_imports
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from dynclip.runtime.locks import hold
from dynclip.runtime.text import say
from dynclip.studies.scales import HubPolicy, Scale
from dynclip.training.supervised import fine_tune
from evals.benchmarks.problem import Problem
from evals.engines.engine import end_tokens, load_tokenizer
from evals.sampling.models import FETCHED, Model, resolve
from evals.sampling.prompts import TEMPLATES, render

RECORD = "base.json"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_base(scale: Scale, problems: list[Problem], out: Path, log: Callable[[str], None] = say) -> dict:
    """Make the base policy of a hub scale and publish it in `out`; returns its record, the content of out/base.json.

    Raises UserError if the model cannot be loaded, has another architecture than the scale's plan, or has no token that
    the scale's prompt template needs. A lock keeps two processes from making the same policy.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with hold(out.with_name(f".{out.name}.lock"), f"the base policy {out}", log):
        return _make_base(scale, problems, out, log)


def _make_base(scale: Scale, problems: list[Problem], out: Path, log: Callable[[str], None]) -> dict:
    """`make_base` while this process holds the lock of `out`."""
    policy, state = scale.policy, out.with_name(f".{out.name}.state")
    with checkpoints.writing(out) as aside:
        record = {"template": TEMPLATES[scale.template].label}
        if policy.random:
            log(f"{policy.id}: random weights in its architecture at a tiny width, a tokenizer of its family")
            random_model(policy, problems, aside)
            record |= {"model": f"{policy.architecture.kind} with random weights", "revision": None}
        else:
            found = resolve(f"{policy.id}@{policy.revision}")
            check_architecture(policy, found)
            log(f"{policy.id}: {found.parameters / 1e6:.1f} M parameters at {found.revision}")
            copy_model(found.folder, aside)
            record |= {"model": policy.id, "revision": found.revision, "source_sha256": found.sha256}
        tokenizer = load_tokenizer(aside)
        check_template(scale, tokenizer)
        write_end_tokens(aside, tokenizer, TEMPLATES[scale.template].stops)
        if policy.supervised:
            record["supervised"] = fine_tune(scale, policy.supervised, problems, aside, log, state)
            write_end_tokens(aside, tokenizer, TEMPLATES[scale.template].stops)
        (aside / RECORD).write_text(json.dumps(record, indent=1))
    checkpoints.remove(state)
    return record


def check_architecture(policy: HubPolicy, found: Model) -> None:
    """Raise UserError if the hub's model has another architecture than the scale's plan."""
    differences = policy.architecture.differences(found.config)
    if differences:
        raise UserError(
            f"{policy.id}: its config.json has {differences[0]}; correct its entry in dynclip/studies/architectures.py"
        )


def check_template(scale: Scale, tokenizer) -> None:
    """Raise UserError if a mark of the prompt template is no token: the policy would learn it as text."""
    prompt = render("1 + 1 = ?", tokenizer, scale.template)
    vocabulary = tokenizer.get_vocab()
    for mark in SPECIAL[1:]:
        if mark in prompt and mark not in vocabulary:
            raise UserError(
                f"template {scale.template!r} writes {mark}, which is no token of {scale.policy.id}'s tokenizer; "
                "choose another one with template="
            )


def copy_model(source: Path, target: Path) -> None:
    """Copy the model's files. Weights are hard links where the disk allows them: a 7B model has 15 GB.

    The other files are copies, because what follows writes into them. Weights are replaced, never written into.
    """
    for pattern in FETCHED:
        for file in source.glob(pattern):
            copy = target / file.name
            if copy.exists() or file.name == RECORD:
                continue
            if file.suffix == ".safetensors":
                with suppress(OSError):
                    os.link(file.resolve(), copy)
                    continue
            shutil.copyfile(file, copy)


def write_end_tokens(folder: Path, tokenizer, stops: tuple[str, ...]) -> None:
    """Write generation_config.json with the tokens that end a response.

    Trainer and sampler read the file. It has no sampling defaults, because they would change both.
    """
    file = folder / "generation_config.json"
    own = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
    ends = end_tokens(tokenizer, own, stops)
    # Renamed into place: a base that an earlier version made may have a link into the hub's cache here.
    write_json(file, {"eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id})


def random_model(policy: HubPolicy, problems: list[Problem], folder: Path) -> None:
    """Save a model of the policy's architecture at a tiny width, and a byte-level BPE tokenizer with ChatML's marks."""
    fast_imports.skip_unused()
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((problem.problem for problem in problems[:2000]), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    architecture = policy.architecture
    groups = architecture.heads // architecture.kv_heads
    config = AutoConfig.for_model(
        architecture.kind,
        vocab_size=len(tokenizer),
        hidden_size=8 * groups,
        num_attention_heads=groups,
        num_key_value_heads=1,
        intermediate_size=16 * groups,
        num_hidden_layers=2,
        max_position_embeddings=architecture.context,
        tie_word_embeddings=architecture.tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
