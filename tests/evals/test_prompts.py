"""Prompt templates: their texts, their versions, the choice by model family."""

import pytest
from tiny_models import CHAT, tiny_tokenizer

from dynclip.runtime.errors import UserError
from evals.sampling.prompts import BOXED, TEMPLATES, choose_template, render

QWEN = "{%- if messages[0]['role'] != 'system' %}" + BOXED + "{% endif %}"


@pytest.fixture
def chatty():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


def test_plain_is_the_text_as_it_is(chatty):
    assert render("1+2=", chatty, "plain") == "1+2=" and TEMPLATES["plain"].special_tokens


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


def test_templates_are_versioned_and_only_plain_lets_the_tokenizer_add_a_start_token():
    assert {name: template.label for name, template in TEMPLATES.items()} == {
        "plain": "plain/1", "chat": "chat/1", "qwen-math": "qwen-math/1", "dapo": "dapo/1",
    }  # fmt: skip
    assert [name for name, template in TEMPLATES.items() if template.special_tokens] == ["plain"]


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
