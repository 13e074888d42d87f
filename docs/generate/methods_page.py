"""Writes docs/methods.md and its figures from the registry. No single method is described here.

python -m docs.generate.methods_page            write the files
python -m docs.generate.methods_page --check    exit status 1, naming the files, where they differ from the registry
"""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

from docs.generate.chooser import chooser
from docs.generate.comparison import comparison
from docs.generate.markdown import citation, text
from docs.generate.method_figures import FIGURES, render
from docs.generate.questions import FAMILIES, QUESTIONS, grouped, sections
from dynclip.methods.bounds import constant
from dynclip.methods.objective import GRPO_PIECES
from dynclip.methods.registry import METHODS
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import NEEDS
from dynclip.report.tables import markdown_rows
from dynclip.runtime.files import write_atomic

DOCS = Path(__file__).resolve().parents[1]
GRPO = GRPO_PIECES | {"bounds": constant}


# Role of a piece -> how it is called and what it gives. `tokens` is `dynclip.methods.types.Tokens`.
ROLE_CALLS = {
    "ratio": ("ratio(log_ratio, logprob, mask)", "logarithm of the ratio that is bounded, (B, T)"),
    "bounds": ("bounds(q, clock)", "(ε⁻, ε⁺): numbers, or tensors shaped like q"),
    "surrogate": ("surrogate(tokens)", "loss of every token, (B, T)"),
    "weights": ("weights(tokens)", "factors of that loss, (B, T), per mini-batch"),
    "rollout_weights": ("rollout_weights(tokens, total)", "factors of that loss, once per rollout batch"),
    "advantages": ("advantages(tokens, total)", "new advantages, (B, T), once per rollout batch"),
    "extra": ("extra(tokens)", "a term added to the loss of every token, (B, T)"),
    "reduction": ("reduction(logits)", "an input computed from full logits (..., V), (...)"),
    "controller": ("controller(total_steps=…)", "an object with `observe(step, entropy)` and `signal`"),
}

INTRODUCTION = """\
# Methods

There are {count} methods. Each is an entry of the registry ([dynclip/methods](../dynclip/methods)) and trains by its
name. `make docs` writes this page from the registry.

```python
from dynclip import method

loss = method("{example}", total_steps=400).loss(batch, step=0).loss
```

## All methods

{table}

## Which one to try

Differences are a method's minus GRPO's, brackets are 95 % intervals, and *decided* means what it means on the linked
page. All of it comes from tiny policies in synthetic worlds ([what one cannot conclude from
it](laptop.md#what-one-cannot-conclude-from-it)).

{chooser}
"""
MECHANICS = """\
## Notation

For one sampled token, p = π_θ(a|s) is its probability under the current policy and q = π_old(a|s) under the policy that
sampled it. r = p/q is the ratio, A the advantage, H the entropy over the whole vocabulary in nats. k counts rollout
batches from 0 to T (`step`, `total_steps`), not optimizer steps. sg(·) stops the gradient and σ is the sigmoid.
An equation is one token's objective, to be maximised, or the interval of r. The loss is its negative, averaged.

## How a loss is put together

    once per rollout batch   entropy → controller → signal; advantages, rollout_weights  (Method.observe, .prepare)
    for every mini-batch     ratio → bounds → surrogate → × weights → + extra → average  (Method.loss)

{roles}

Options are a piece's keyword arguments. A piece that a method does not name is GRPO's.

**`reference` and `detach`.** The paper's bounds are lines in the current probability, r ≤ 1 + αp + β; with
`reference="old"`, the default, p = r q is solved for r, which gives r ≤ (1 + β)/(1 − αq). `reference="current"` reads
the line at p: with `detach=True` it clips the same tokens and gives equal gradients, and only the value of a clipped
token's loss differs. With `detach=False` a clipped token keeps a gradient through its own threshold, which pushes a
good token down.

**Sources of the defaults.**

| source | meaning |
| --- | --- |
| paper, official | read in the public paper, code, script or configuration |
| second-hand | known from others' accounts of the source |
| open in the paper | the paper does not say, so a choice was made here |
| ours | chosen here, because the source does not disclose it |
| unverified | not found in public text |

## Adding a method

The [README](../README.md#adding-a-method) has a complete example, and [own_variant.md](own_variant.md) has the rules
for each piece.
"""


def page(specs: dict[str, MethodSpec]) -> str:
    """The Markdown of docs/methods.md for a registry."""
    roles = [
        [f"`{role}`", f"`{call}`", text(gives), f"`{GRPO[role].__name__}`" if role in GRPO else "–", _home(role, specs)]
        for role, (call, gives) in ROLE_CALLS.items()
    ]
    parts = [
        INTRODUCTION.format(
            count=len(specs),
            example=next(spec.name for spec in grouped(specs)["schedule"]),
            table=comparison(specs),
            chooser=chooser(),
        ),
        MECHANICS.format(roles=markdown_rows(["piece", "called as", "gives", "GRPO's", "file"], roles)),
    ]
    for question, families in sections(specs).items():
        parts.append(f"## {QUESTIONS[question].title}\n\n{QUESTIONS[question].text}")
        for key, members in families.items():
            if FAMILIES[key].title:
                parts.append(f"### {FAMILIES[key].title}\n\n{FAMILIES[key].text}")
            parts += [
                f"![{name.replace('_', ' ')}](figures/{name}.svg)\n\n*{figure.caption}*"
                for name, figure in FIGURES.items()
                if figure.family == key
            ]
            parts += [section(spec, level=4 if FAMILIES[key].title else 3) for spec in members]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def section(spec: MethodSpec, level: int) -> str:
    """The fields of one entry, with the pieces that are not GRPO's, under a heading of the given level."""
    options = [[f"`{name}`", f"`{value!r}`", text(spec.sources.get(name, ""))] for name, value in spec.defaults.items()]
    pieces = [[role, *_piece(piece)] for role, piece in spec.pieces.items() if piece is not GRPO.get(role)]
    parts = [f"{'#' * level} {spec.name}", f"**{text(spec.title)}** ({citation(spec)}). {text(spec.change)}"]
    if spec.equation:
        parts.append(f"```math\n{spec.equation}\n```")
    if options:
        parts.append(markdown_rows(["option", "default", "source of the default"], options))
    if pieces:
        parts.append(markdown_rows(["piece", "function", "what it does"], pieces))
    facts = [f"Needs `{need}`: {text(NEEDS[need])}." for need in spec.needs]
    if spec.controller:
        facts.append(f"Keeps {text(spec.keeps)}. Observes the rollout batch's mean `{spec.observes}`.")
    if spec.over_batch:
        facts.append("The loss of a token depends on other sequences of its batch.")
    facts += [text(caveat) for caveat in spec.caveats]
    if facts:
        parts.append("\n".join(f"* {fact}" for fact in facts))
    return "\n\n".join(parts)


def _piece(function: Callable) -> list[str]:
    return [f"[`{function.__name__}`]({_file(function)})", text(inspect.getdoc(function).splitlines()[0])]


def _file(function: Callable) -> str:
    place = f"../{function.__module__.replace('.', '/')}"
    return f"{place}/__init__.py" if (DOCS / place).is_dir() else f"{place}.py"


def _home(role: str, specs: dict[str, MethodSpec]) -> str:
    """Links to the modules that the role's pieces come from."""
    files = dict.fromkeys(_file(getattr(spec, role)) for spec in specs.values() if getattr(spec, role))
    return ", ".join(f"[{_shown(file)}]({file})" for file in files)


def _shown(file: str) -> str:
    """A file's name, of a package's own file the folder's."""
    path = Path(file)
    return path.parent.name if path.stem == "__init__" else path.name


def generated(specs: dict[str, MethodSpec]) -> dict[Path, str]:
    """The page and its figures: path -> content."""
    by_family = grouped(specs)
    figures = {DOCS / f"figures/{name}.svg": render(name, by_family).decode() for name in FIGURES}
    return {DOCS / "methods.md": page(specs), **figures}


def stale(specs: dict[str, MethodSpec]) -> list[Path]:
    """The files of docs/ that are missing or differ from the registry."""
    files = generated(specs).items()
    return [path for path, content in files if not (path.exists() and same(path.read_text(), content))]


def same(one: str, other: str) -> bool:
    """Whether two texts are equal. Numbers in drawings may differ by a tenth of a point, as processors round."""
    if not (one.startswith("<?xml") and other.startswith("<?xml")):
        return one == other
    number, name = re.compile(r"-?\d+\.\d+"), re.compile(r"\b[a-z]+[0-9a-f]{10}\b")  # the names hash the numbers
    if number.sub("", name.sub("", one)) != number.sub("", name.sub("", other)):
        return False
    pairs = zip(number.findall(name.sub("", one)), number.findall(name.sub("", other)), strict=True)
    return all(abs(float(a) - float(b)) < 0.1 for a, b in pairs)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(f"methods_page: expected no argument or --check, given {' '.join(arguments)}", file=sys.stderr)
        return 2
    if arguments:
        old = stale(METHODS)
        for path in old:
            print(f"{path.relative_to(DOCS.parent)}: differs from the registry; run `make docs`", file=sys.stderr)
        return 1 if old else 0
    for path, content in generated(METHODS).items():
        write_atomic(path, content)
        print(path.relative_to(DOCS.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
