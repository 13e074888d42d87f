"""Prompt templates: their texts, their versions, the choice by model family."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import CHAT, tiny_tokenizer

from dynclip.runtime.errors import UserError
from evals.benchmarks.loading import load_problems, obtain
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS
from evals.sampling import shots
from evals.sampling.prompts import BOXED, FEW_SHOT, TEMPLATES, choose_template, render
from evals.sampling.shots import NUMBERS, with_shots

QWEN = "{%- if messages[0]['role'] != 'system' %}" + BOXED + "{% endif %}"

COPIES = Path(__file__).resolve().parents[3] / "shared" / "hub" / "datasets"


@pytest.fixture
def chatty():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


def test_plain_is_the_text_as_it_is(chatty):
    assert render("1+2=", chatty, "plain") == "1+2="


def test_chat_uses_the_models_own_template_and_asks_for_a_box(chatty):
    assert render("1+2=", chatty, "chat") == f"(1+2=\n\n{BOXED})="
    with pytest.raises(UserError, match="no chat template; use --template dapo or plain"):
        render("1+2=", tiny_tokenizer(), "chat")


def test_qwen_math_is_written_out_whatever_the_tokenizer(chatty):
    expected = f"<|im_start|>system\n{BOXED}<|im_end|>\n<|im_start|>user\nx?<|im_end|>\n<|im_start|>assistant\n"
    assert render("x?", chatty, "qwen-math") == render("x?", tiny_tokenizer(), "qwen-math") == expected
    assert "<|im_end|>" in TEMPLATES["qwen-math"].stops


def test_dapo_asks_for_a_last_answer_line_with_and_without_a_chat_template(chatty):
    text = render("x?", tiny_tokenizer(), "dapo")
    assert text.startswith("Solve the following") and text.endswith('line after "Answer:".') and "\n\nx?\n\n" in text
    assert render("x?", chatty, TEMPLATES["dapo"]) == f"({text})="


def test_templates_are_versioned():
    assert {name: template.label for name, template in TEMPLATES.items()} == {
        "plain": "plain/1", "chat": "chat/1", "qwen-math": "qwen-math/1", "dapo": "dapo/2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "model", "chat", "kind", "expected"),
    [
        ("auto", "Qwen/Qwen2.5-Math-7B", "other", "hub", "qwen-math"),
        ("auto", "checkpoints/step100", QWEN, "hub", "qwen-math"),
        ("auto", "Qwen/Qwen2.5-0.5B", CHAT, "hub", "chat"),
        ("auto", "BytedTsinghua-SIA/DAPO-Qwen-32B", CHAT, "hub", "dapo"),
        ("auto", "HuggingFaceTB/SmolLM2-135M-Instruct", CHAT, "generated", "chat"),
        ("auto", "results/laptop/base", None, "generated", "plain"),
        ("auto", "gpt2", None, "hub", "dapo"),
        ("plain", "Qwen/Qwen2.5-Math-7B", CHAT, "hub", "plain"),
    ],
)
def test_the_template_follows_the_family_and_can_be_overridden(wanted, model, chat, kind, expected):
    template, why = choose_template(wanted, model, chat, kind)
    assert template.name == expected and why


def test_a_template_that_cannot_be_used_is_refused_before_anything_is_loaded():
    with pytest.raises(UserError, match="unknown template 'cot'; the templates are: auto, plain, chat"):
        choose_template("cot", "m", CHAT, "hub")
    with pytest.raises(UserError, match="m has no chat template"):
        choose_template("chat", "m", None, "hub")


BOS_CHAT = "{{ bos_token }}" + CHAT  # as in the chat templates of Llama, Gemma and Mistral
KINDS = {  # family -> (start token that the tokenizer adds, chat template)
    "llama": ("<|begin_of_text|>", BOS_CHAT),
    "gemma": ("<bos>", BOS_CHAT),
    "mistral": ("<s>", BOS_CHAT),
    "qwen": (None, CHAT),
    "gpt2": (None, None),
}


def tokenizer_of(kind, chat):
    """A byte-level tokenizer that adds what those of the family add, with or without the family's chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    start, template = KINDS[kind]
    end = "<|endoftext|>"
    marks = [end, *([start] if start else [])]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [], trainers.BpeTrainer(vocab_size=300, special_tokens=marks, initial_alphabet=alphabet)
    )
    if start:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, backend.token_to_id(start))]
        )
    # GPT-2's start token is its end token, and the tokenizer does not add it.
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=start or end, eos_token=end)
    made.chat_template = template if chat else None
    return made


@pytest.mark.parametrize("chat", [False, True], ids=["base", "chat"])
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_start_token_is_there_exactly_once_for_models_that_have_one(kind, name, chat):
    tokenizer, template = tokenizer_of(kind, chat), TEMPLATES[name]
    if name == "chat" and not tokenizer.chat_template:
        pytest.skip("refused: no chat template")
    text = render("1+2=", tokenizer, template)
    ids = tokenizer(text, add_special_tokens=template.adds_special_tokens(tokenizer))["input_ids"]
    expected = 1 if KINDS[kind][0] else 0
    assert ids.count(tokenizer.bos_token_id) == expected and (ids[0] == tokenizer.bos_token_id) == bool(expected)


DATED = "Today is {{ strftime_now('%d %b %Y') }}, or {{ date_string }}: {{ messages[0]['content'] }}"


def test_a_template_that_writes_the_date_writes_a_fixed_one_which_is_in_the_address(chatty):
    chatty.chat_template = DATED
    template, _ = choose_template("chat", "m", DATED, "hub")
    assert render("1+2=", chatty, template).startswith("Today is 01 Jan 2026, or 01 Jan 2026: 1+2=")
    assert template.label == "chat/1 on 2026-01-01" and choose_template("chat", "m", CHAT, "hub")[0].label == "chat/1"
    assert choose_template("plain", "m", DATED, "hub")[0].label == "plain/1"


@pytest.mark.parametrize(
    "text", ["{{ raise_exception('a system message comes first') }}", "{% for %}", "{{ messages[0]['content'] + 1 }}"]
)
def test_a_template_that_fails_is_one_line_with_the_way_out(chatty, text):
    chatty.chat_template = text
    with pytest.raises(UserError, match=r"cannot write one turn of a user \(.+\); use --template plain or qwen-math"):
        render("1+2=", chatty, "chat")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    if not COPIES.is_dir():
        pytest.skip(f"no local copies: {COPIES} is missing")
    monkeypatch.setenv("DYNCLIP_HUB", str(COPIES))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)


def test_examples_have_the_form_of_the_problem_and_are_in_the_label(chatty):
    facts = load_problems(BENCHMARKS["facts"])[:5]
    template = with_shots(BENCHMARKS["facts"], 2, facts)
    first, second = (obtain(TRAIN_SETS["facts_train"])[0][number - 1] for number in NUMBERS[:2])
    expected = "".join(f"Problem:\n{p.problem}\n\nSolution:\n\\boxed{{{p.answer}}}\n\n" for p in (first, second))
    text = render("1+2=", chatty, template)
    assert text == expected + "Problem:\n1+2=\n\nSolution:" == render("1+2=", tiny_tokenizer(), template)
    assert template.shots["ids"] == [first.id, second.id] and template.stop_texts == ("\nProblem:",)
    assert template.label == f"few-shot/1 with 2 of facts_train {template.shots['digest']}"
    labels = {with_shots(BENCHMARKS[name], n, facts).label for name, n in (("facts", 2), ("facts", 3), ("worded", 2))}
    assert len(labels) == 3 and FEW_SHOT.label not in labels


def test_an_example_that_occurs_in_the_benchmark_is_refused(monkeypatch):
    facts = load_problems(BENCHMARKS["facts"])[:5]
    monkeypatch.setattr(shots, "obtain", lambda entry: (facts * 8, {}))
    with pytest.raises(UserError, match="--shots: the example facts-0001 occurs in facts"):
        with_shots(BENCHMARKS["facts"], 1, facts)


def test_benchmarks_of_the_hub_have_the_worked_solutions_of_gsm8ks_training_split(hub):
    training = obtain(TRAIN_SETS["gsm8k_train"])[0]
    short = [p for p in training if p.level >= 2 and len(p.problem + p.solution) <= 400]
    for name in ("gsm8k", "math500"):
        template = with_shots(BENCHMARKS[name], 8, load_problems(BENCHMARKS[name]))
        assert template.shots["ids"] == [p.id for p in short[:8]] and template.shots["set"] == "gsm8k_train"
        assert template.shots["digest"] == "d17a98ba346740cc"
        assert template.examples.count("\\boxed{") == 8 and "<<" not in template.examples
        assert len(template.examples) < 3000
    text = render("x?", None, replace(template, examples=template.examples[:20]))
    assert text.startswith("Problem:\nNatalia") and text.endswith("Problem:\nx?\n\nSolution:")
