"""The table of docs/methods.md that compares all methods, one row each, made for a width of 1000 pixels."""

import re
from pathlib import Path

from docs.generate.markdown import anchor, text
from docs.generate.questions import QUESTIONS, sections
from dynclip.methods.spec import LIBRARIES, MethodSpec
from dynclip.report.tables import markdown_rows

COST_PAGE = Path(__file__).resolve().parents[1] / "cost.md"
LONGEST = 58  # characters of the first sentence of `change`; more would wrap into a third line
HEADER = ["method", "what it changes", "needs", "state kept", "on policy = GRPO", "loss time", "shipped in"]


def comparison(specs: dict[str, MethodSpec]) -> str:
    """All methods by question, with the legend and the versions of the libraries below."""
    times, rows = costs(), []
    for question, families in sections(specs).items():
        asked = QUESTIONS[question]
        link = f"[{asked.title}](#{anchor(asked.title)})"
        rows.append([f"**{asked.word}**", f"**{link}**", *[""] * (len(HEADER) - 2)])
        rows += [row(spec, times.get(spec.name)) for members in families.values() for spec in members]
    notes = (
        "*Needs*: inputs beyond log-probabilities, advantages and mask; a method's section says what they are.",
        "*State kept*: what a checkpoint holds between rollout steps.",
        "*On policy = GRPO*: with one update per rollout batch the method is GRPO exactly.",
        "*Loss time*: forward and backward of the loss alone, divided by GRPO's, on one CPU thread "
        "([cost.md](cost.md)). A training step also samples and runs the model, which this leaves out. GRPO's own "
        "number is GRPO against itself: what the clock cannot tell apart. A dash means not measured.",
        f"*Shipped in*: {', '.join(LIBRARIES.values())}, as read in their source. Their defaults may differ "
        "([peers.md](peers.md)). Other libraries were not read.",
    )
    return markdown_rows(HEADER, rows) + "\n\n" + "\n".join(f"* {note}" for note in notes)


def row(spec: MethodSpec, cost: float | None) -> list[str]:
    """The cells of one method."""
    return [
        f"[{spec.name}](#{spec.name})",
        text(brief(spec) or spec.title),
        text(", ".join(map(input_name, spec.needs))) or "–",
        text(re.sub(r"\bthe ", "", spec.keeps)) or "–",
        "yes" if spec.on_policy_grpo else "no",
        f"{cost:.2f}" if cost else "–",
        libraries(spec.shipped),
    ]


def input_name(need: str) -> str:
    """A key of `NEEDS` in words; ∇ marks an input with its gradient."""
    return f"∇ {need.removesuffix('_gradient')}" if need.endswith("_gradient") else need.replace("_", " ")


def libraries(shipped: tuple[str, ...]) -> str:
    """The libraries in the order of `LIBRARIES`, or the one that is missing."""
    missing = [name for name in LIBRARIES if name not in shipped]
    if len(missing) < 2:
        return " but ".join(["all", *missing])
    return ", ".join(name for name in LIBRARIES if name in shipped) or "–"


def brief(spec: MethodSpec) -> str:
    """The first sentence of `change`, without its full stop. Raises ValueError where it is too long for the table."""
    sentence = spec.change.split(". ")[0].removesuffix(".")
    if len(sentence) > LONGEST:
        raise ValueError(
            f"method {spec.name!r}: the first sentence of `change` has {len(sentence)} characters, expected at most "
            f"{LONGEST}; shorten it in the entry"
        )
    return sentence


def costs() -> dict[str, float]:
    """Method -> median time of its loss over GRPO's, from the first table of docs/cost.md."""
    table = COST_PAGE.read_text().split("\n## ")[1]
    return {name: float(ratio) for name, ratio in re.findall(r"^\| \[`(\w+)`\]\S* \| ([\d.]+) \[", table, re.MULTILINE)}
