r"""Prompt templates: how a problem's text becomes what a model reads. Versioned, and part of every sample's address.

To change a template's text, raise its version: samples drawn with the old one then stay apart from the new ones.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

from dynclip.runtime.errors import UserError

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
DATE = date(2026, 1, 1)  # for chat templates that write today's: a prompt must not depend on the day
DATED = re.compile(r"strftime_now|date_string")
DAPO_HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem."
)
DAPO_TAIL = 'Remember to put your answer on its own line after "Answer:".'


@dataclass(frozen=True)
class Template:
    """`build(problem text, tokenizer)` is the whole prompt as text.

    chat: the text goes through the tokenizer's chat template, where it has one. dated: that one writes the date, which
    is DATE then.
    stops: tokens that end a response besides the model's own end tokens, where the vocabulary has them. stop_texts:
    texts before which a response ends. examples: the text before every prompt, described by `shots`.
    """

    name: str
    version: int
    title: str
    build: Callable[[str, object], str]
    chat: bool = False
    stops: tuple[str, ...] = ()
    dated: bool = False
    stop_texts: tuple[str, ...] = ()
    examples: str = ""
    shots: dict | None = None

    @property
    def label(self) -> str:
        """Name and version as samples record them, e.g. `chat/1`, the date of a dated one, and which examples."""
        more = f" on {DATE}" if self.dated else ""
        more += f" with {self.shots['n']} of {self.shots['set']} {self.shots['digest']}" if self.shots else ""
        return f"{self.name}/{self.version}{more}"

    def adds_special_tokens(self, tokenizer) -> bool:
        """Whether tokenizing the text adds the tokenizer's own tokens, such as a start token. A chat template has
        written them already.
        """
        return not (self.chat and tokenizer.chat_template)


def plain(problem: str, tokenizer) -> str:
    return problem


def chat(problem: str, tokenizer) -> str:
    return _turn(f"{problem}\n\n{BOXED}", tokenizer)


def qwen_math(problem: str, tokenizer) -> str:
    # Written out: the prompt that the model was tuned and is reported with, whatever template a checkpoint carries.
    return f"<|im_start|>system\n{BOXED}<|im_end|>\n<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"


def dapo(problem: str, tokenizer) -> str:
    text = f"{DAPO_HEAD}\n\n{problem}\n\n{DAPO_TAIL}"
    return _turn(text, tokenizer) if tokenizer.chat_template else text


def few_shot(problem: str, tokenizer) -> str:
    return f"Problem:\n{problem}\n\nSolution:"


def _turn(text: str, tokenizer) -> str:
    import jinja2

    fixed = {"strftime_now": DATE.strftime, "date_string": f"{DATE:%d %b %Y}"}
    message = [{"role": "user", "content": text}]
    try:
        return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **fixed)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"the model's chat template cannot write one turn of a user ({reason}); use --template plain or qwen-math"
        ) from None


TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")
TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("plain", 1, "the problem's text as it is", plain),
        Template("chat", 1, "the model's chat template, asked for a \\boxed{} answer", chat, True, TURN_ENDS),
        Template("qwen-math", 1, "Qwen-Math's own system prompt", qwen_math, stops=("<|im_end|>", "<|endoftext|>")),
        # Version 1 left out the start token of models without a chat template.
        Template("dapo", 2, 'DAPO\'s prompt, which asks for a last line "Answer: …"', dapo, True, TURN_ENDS),
    )
}

# Not in TEMPLATES: it is chosen by --shots. A model without a sense of an end goes on with the next problem.
FEW_SHOT = Template("few-shot", 1, "worked examples before the problem", few_shot, stop_texts=("\nProblem:",))


def render(problem: str, tokenizer, template: Template | str) -> str:
    """The prompt for one problem's text. Raises UserError for "chat" with a tokenizer that has no chat template."""
    template = TEMPLATES[template] if isinstance(template, str) else template
    if template.name == "chat" and not tokenizer.chat_template:
        raise UserError("template 'chat': the model's tokenizer has no chat template; use --template dapo or plain")
    return template.examples + template.build(problem, tokenizer)


def choose_template(wanted: str, model_name: str, chat_template: str | None, kind: str) -> tuple[Template, str]:
    """The template for a model and a benchmark's kind ("generated" or "hub"), with the reason in words.

    `chat_template`: the text of the model's chat template, None where it has none. `wanted` is a name or "auto".
    Raises UserError for an unknown name.
    """
    template, why = _choice(wanted, model_name, chat_template, kind)
    return replace(template, dated=template.chat and bool(DATED.search(chat_template or ""))), why


def _choice(wanted: str, model_name: str, chat_template: str | None, kind: str) -> tuple[Template, str]:
    if wanted != "auto":
        if wanted not in TEMPLATES:
            raise UserError(f"unknown template {wanted!r}; the templates are: auto, {', '.join(TEMPLATES)}")
        if wanted == "chat" and not chat_template:
            raise UserError(f"template 'chat': {model_name} has no chat template; use --template dapo or plain")
        return TEMPLATES[wanted], "as asked"
    family = model_name.casefold()
    if "dapo" in family:
        return TEMPLATES["dapo"], "a DAPO model, by its name"
    # A checkpoint trained from Qwen-Math has another name but carries its chat template, and that this sentence.
    if BOXED in (chat_template or "") or ("qwen" in family and "math" in family):
        return TEMPLATES["qwen-math"], "a Qwen-Math model"
    if chat_template:
        return TEMPLATES["chat"], "the model has a chat template"
    if kind == "generated":
        return TEMPLATES["plain"], "no chat template, and problems that need no instruction"
    return TEMPLATES["dapo"], "no chat template: the text has to say how to answer"
