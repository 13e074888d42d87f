"""docs/methods.md and its figures, written from the registry alone: nothing about a single method is said here.

python -m docs.generate.methods_page            write them anew
python -m docs.generate.methods_page --check    exit status 1, naming the files, where the registry says something else
"""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from docs.generate.method_figures import FIGURES, Grouped, render
from dynclip.methods.objective import Method
from dynclip.methods.registry import METHODS
from dynclip.methods.spec import ROLES, MethodSpec
from dynclip.methods.types import NEEDS
from dynclip.report.tables import markdown_rows
from dynclip.runtime.files import write_atomic

DOCS = Path(__file__).resolve().parents[1]
GRPO_PIECES = {field.name: field.default for field in fields(MethodSpec) if field.name in ROLES}


@dataclass(frozen=True)
class Family:
    """Methods whose difference from GRPO sits in the same piece."""

    title: str
    text: str


FAMILIES = {
    "constant": Family("Constant bounds", "The interval is the same for every token and at every step."),
    "probability": Family(
        "Bounds by probability",
        "The interval depends on the token's old probability q, and is the same at every step.",
    ),
    "training": Family(
        "Bounds that move over training", "The interval follows a schedule or is steered by the policy's entropy."
    ),
    "surrogate": Family(
        "Surrogates and ratios", "What becomes of a token beyond its bound, or what is compared with the bound."
    ),
    "weights": Family("Token weights", "Which tokens count, and how much: factors of the loss, without gradient."),
    "advantages": Family("Advantages", "Advantages are changed once per rollout batch, before the first update."),
    "extra": Family("Added terms", "A term is added to the loss of every token."),
}


def family(spec: MethodSpec) -> str:
    """The key in `FAMILIES` of the piece that carries a method: the last one in the loss that is not GRPO's."""
    if spec.extra:
        return "extra"
    if spec.advantages:
        return "advantages"
    if spec.weights or spec.rollout_weights:
        return "weights"
    if spec.surrogate is not GRPO_PIECES["surrogate"] or spec.ratio is not GRPO_PIECES["ratio"]:
        return "surrogate"
    # What a bounds function depends on is not declared anywhere: it is tried.
    method, q = Method(spec, 8, {}), torch.linspace(0.05, 1, 20, dtype=torch.float64)
    seen = [torch.stack(method.bounds(q, step, state)) for step in range(9) for state in (-1, 0, 1)]
    if any(not torch.equal(seen[0], bounds) for bounds in seen):
        return "training"
    return "constant" if (seen[0] == seen[0][:, :1]).all() else "probability"


def grouped(specs: dict[str, MethodSpec]) -> Grouped:
    """The specs by family, families and methods in the order of `FAMILIES` and of the registry."""
    families: Grouped = {key: [] for key in FAMILIES}
    for spec in specs.values():
        families[family(spec)].append(spec)
    return families


# Role of a piece -> how it is called and what it gives. `tokens` is `dynclip.methods.types.Tokens`.
ROLE_CALLS = {
    "ratio": ("ratio(log_ratio, logprob, mask)", "ln of the ratio that is bounded, (B, T)"),
    "bounds": ("bounds(q, clock)", "(ε⁻, ε⁺): numbers, or tensors shaped like q"),
    "surrogate": ("surrogate(tokens)", "loss of every token, (B, T)"),
    "weights": ("weights(tokens)", "factors of that loss, (B, T), per mini-batch"),
    "rollout_weights": ("rollout_weights(tokens, total)", "the same, once per rollout batch"),
    "advantages": ("advantages(tokens, total)", "new advantages, (B, T), once per rollout batch"),
    "extra": ("extra(tokens)", "a term added to the loss of every token, (B, T)"),
    "reduction": ("reduction(logits)", "the input that takes full logits (..., V) to make, (...)"),
    "controller": ("controller(total_steps=…)", "an object with `observe(step, entropy)` and `signal`"),
}

INTRODUCTION = """\
# Methods

Written by `make docs` from the registry ([dynclip/methods](../dynclip/methods)): change it there. {count}
methods; each is a line of Python and trains by its name.

```python
from dynclip import method

loss = method("{example}", total_steps=400).loss(batch, step=0).loss
```

## Notation

For one sampled token: p = π_θ(a|s) is its probability under the current policy, q = π_old(a|s) under the policy that
sampled it, r = p/q, A its advantage, H the entropy of the policy over the whole vocabulary, in nats. k counts rollout
batches from 0 to T (`step`, `total_steps`), not optimizer steps. sg(·) is a constant for the gradient, σ the sigmoid.
An equation is one token's objective, to be maximised, or the interval of r; the loss is its negative, averaged.

## How a loss is put together

    once per rollout batch   entropy → controller → signal; advantages, rollout_weights  (Method.observe, .prepare)
    for every mini-batch     ratio → bounds → surrogate → × weights → + extra → average  (Method.loss)

{roles}

Options are a piece's keyword arguments. A role that a method leaves out is GRPO's, or nothing. Where `prepare` was
not called, `loss` does its work on the mini-batch alone.

**`reference` and `detach`.** The paper writes its bounds as lines in the *current* probability, r ≤ 1 + αp + β. Put
in p = r q and solve for r: r ≤ (1 + β)/(1 − αq), a bound that the old probability decides. That is `reference="old"`,
the default. `reference="current"` reads the line off at p itself; as long as no gradient flows through it,
`detach=True`, the same tokens are clipped and all gradients are equal: only the value of a clipped token's loss
differs. `detach=False` differentiates the bound too: a clipped token keeps a gradient through its own threshold,
which pushes a good token down.

**Sources of the defaults.** "Paper" and "official" were read as such in public; "second-hand" is known from others'
accounts of the source; "ours" is a choice made here because the source discloses nothing.

## Adding a method

1. Write its piece, unless there is one: a pure function as in the table above, in the module of its role, with its
   options as keyword-only arguments. State between steps is a controller: a dataclass whose fields are its options.
2. Add a `MethodSpec` to the registry, `dynclip/methods/registry.py`: pieces, `defaults` with `evidence` for each,
   equation, what changes, `needs`, caveats. An option that no piece takes is an error at import.
3. `make docs` writes this page and its figures anew. Trainers, workflow, tables and the tests of the registry know
   the method by its name.

The [README](../README.md#adding-a-method) has a worked example that trains. `on_policy_grpo` says whether ratios of 1
make the method GRPO; a test holds every entry to it.

## Overview
"""


def page(specs: dict[str, MethodSpec]) -> str:
    """The Markdown of docs/methods.md for a registry."""
    by_family = grouped(specs)
    families = {spec.name: key for key, members in by_family.items() for spec in members}
    roles = [[f"`{role}`", f"`{call}`", text(gives), _home(role, specs)] for role, (call, gives) in ROLE_CALLS.items()]
    example = next(name for name, key in families.items() if key == "training")
    parts = [
        INTRODUCTION.format(
            count=len(specs), example=example, roles=markdown_rows(["piece", "called as", "gives", "written in"], roles)
        ),
        overview(specs, families),
    ]
    for key, members in by_family.items():
        if members:
            parts.append(f"## {FAMILIES[key].title}\n\n{FAMILIES[key].text}")
            parts += [
                f"![{name.replace('_', ' ')}](figures/{name}.svg)\n\n*{figure.caption}*"
                for name, figure in FIGURES.items()
                if figure.family == key
            ]
            parts += [section(spec) for spec in members]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def overview(specs: dict[str, MethodSpec], families: dict[str, str]) -> str:
    """One row per method, in the order of the registry."""
    rows = [
        [
            f"[`{spec.name}`](#{spec.name})",
            text(spec.title),
            _citation(spec),
            text(spec.change),
            f"[{FAMILIES[families[spec.name]].title}](#{_anchor(FAMILIES[families[spec.name]].title)})",
            ", ".join(f"`{need}`" for need in spec.needs) or "–",
            text(spec.keeps) or "–",
            "yes" if spec.on_policy_grpo else "no",
        ]
        for spec in specs.values()
    ]
    header = ["name", "method", "paper", "what changes against GRPO", "family", "needs", "keeps", "on policy, GRPO?"]
    note = (
        "*Needs*: inputs beyond log-probabilities, advantages and mask. *Keeps*: state between rollout steps, in every "
        "checkpoint. *On policy, GRPO?*: with one update per rollout batch the method is GRPO exactly."
    )
    return f"{markdown_rows(header, rows)}\n\n{note}"


def section(spec: MethodSpec) -> str:
    """What a reader should know about one method: every field of its registry entry."""
    evidence = spec.evidence if isinstance(spec.evidence, dict) else dict.fromkeys(spec.defaults, spec.evidence)
    options = [[f"`{name}`", f"`{value!r}`", text(evidence.get(name, ""))] for name, value in spec.defaults.items()]
    pieces = [[role, *_piece(role, getattr(spec, role))] for role in spec.pieces]
    parts = [f"### {spec.name}", f"**{text(spec.title)}** ({_citation(spec)}). {text(spec.change)}"]
    if spec.equation:
        parts.append(f"```math\n{spec.equation}\n```")
    parts.append(f'```python\nmethod("{spec.name}", total_steps=400)\n```')
    if options:
        parts.append(markdown_rows(["option", "default", "source of the default"], options))
    parts.append(markdown_rows(["piece", "function", "what it does"], pieces))
    facts = [f"Needs `{need}`: {text(NEEDS[need])}." for need in spec.needs]
    if spec.controller:
        facts.append(f"Keeps {text(spec.keeps)}. Observes the rollout batch's mean `{spec.observes}`.")
    on_policy = "it is GRPO exactly" if spec.on_policy_grpo else "it is not GRPO"
    facts.append(f"With one update per rollout batch {on_policy}.")
    facts += [text(caveat) for caveat in spec.caveats]
    parts.append("\n".join(f"* {fact}" for fact in facts))
    return "\n\n".join(parts)


def text(words: str) -> str:
    """Plain words as Markdown that may stand in a table: what looks like markup is escaped, `code` is kept."""
    parts = words.split("`")
    parts[::2] = [re.sub(r"([*_|<\\\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(part.replace("|", r"\|") if i % 2 else part for i, part in enumerate(parts))


def _citation(spec: MethodSpec) -> str:
    return f"[arXiv {spec.arxiv}](https://arxiv.org/abs/{spec.arxiv})" if spec.arxiv else "no paper"


def _piece(role: str, function: Callable) -> list[str]:
    said = "as GRPO" if function is GRPO_PIECES[role] else text(inspect.getdoc(function).splitlines()[0])
    return [f"[`{function.__name__}`]({_file(function)})", said]


def _file(function: Callable) -> str:
    return f"../{function.__module__.replace('.', '/')}.py"


def _home(role: str, specs: dict[str, MethodSpec]) -> str:
    """Links to the modules that the role's pieces come from."""
    files = dict.fromkeys(_file(getattr(spec, role)) for spec in specs.values() if getattr(spec, role))
    return ", ".join(f"[{Path(file).name}]({file})" for file in files)


def _anchor(title: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def written(specs: dict[str, MethodSpec]) -> dict[Path, str]:
    """What belongs in docs/: path -> content of the page and of its figures."""
    by_family = grouped(specs)
    figures = {DOCS / f"figures/{name}.svg": render(name, by_family).decode() for name in FIGURES}
    return {DOCS / "methods.md": page(specs), **figures}


def stale(specs: dict[str, MethodSpec]) -> list[Path]:
    """Files of docs/ that are missing or say something else than the registry."""
    return [path for path, content in written(specs).items() if not (path.exists() and same(path.read_text(), content))]


def same(one: str, other: str) -> bool:
    """Whether two texts agree, numbers in drawings to a tenth of a point: another processor may round otherwise."""
    if not (one.startswith("<?xml") and other.startswith("<?xml")):
        return one == other
    number, name = re.compile(r"-?\d+\.\d+"), re.compile(r"\b[a-z]+[0-9a-f]{10}\b")  # the names hash the numbers
    if number.sub("", name.sub("", one)) != number.sub("", name.sub("", other)):
        return False
    pairs = zip(number.findall(name.sub("", one)), number.findall(name.sub("", other)), strict=True)
    return all(abs(float(a) - float(b)) < 0.1 for a, b in pairs)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(f"catalogue: expected no argument or --check, given {' '.join(arguments)}", file=sys.stderr)
        return 2
    if arguments:
        old = stale(METHODS)
        for path in old:
            print(f"{path.relative_to(DOCS.parent)}: not what the registry gives; run `make docs`", file=sys.stderr)
        return 1 if old else 0
    for path, content in written(METHODS).items():
        write_atomic(path, content)
        print(path.relative_to(DOCS.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
