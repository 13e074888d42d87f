"""Options of a method from outside: `id@switch=0.35@phase2=prose` is the arm `id` with two options.

The name alone defines the arm. It lists the options that differ from the arm's own, in the order of the registry entry,
with the shortest digits of each number, so that one arm has one name, one folder and one fingerprint. A `Line` is
written slope:intercept, a tuple with its items joined by colons.
"""

import math
import re

import torch

from dynclip.methods.objective import Method
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Line, TokenBatch
from dynclip.runtime.errors import UserError

SEPARATOR = "@"
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
TEXT = re.compile(r"[\w.+-]+")  # of a string value: it becomes part of a path and of shell commands


def parse_options(name: str, defaults: dict, items: list[str]) -> dict:
    """The options of `items`, each NAME=VALUE, read by the types of `defaults` and without those equal to a default.

    `name`: the arm's, for error messages. Raises UserError for an unknown option, a value of another type or an option
    that is given twice.
    """
    found: dict = {}
    for item in items:
        key, given, text = item.partition("=")
        if not given or key not in defaults:
            what = f"unknown option {key!r}" if given else f"option {item!r} is not NAME=VALUE"
            raise UserError(f"method {name!r}: {what}; its options are: {format_options(defaults, ', ') or 'none'}")
        if key in found:
            raise UserError(f"method {name!r}: option {key!r} is given twice")
        found[key] = parse_value(f"method {name!r}, option {key!r}", text.strip(), defaults[key])
    return {key: found[key] for key, default in defaults.items() if key in found and found[key] != default}


def parse_value(what: str, text: str, default):
    """`text` as a value of the type of `default`. Raises UserError, starting with `what`, for anything else."""
    try:
        if isinstance(default, bool) and text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
        if isinstance(default, Line):
            slope, intercept = map(_finite, text.split(":"))
            return Line(slope, intercept)
        if isinstance(default, tuple):
            return tuple(parse_value(what, part, like) for part, like in zip(text.split(":"), default, strict=True))
        if isinstance(default, str) and TEXT.fullmatch(text):
            return text
        if isinstance(default, int) and not isinstance(default, bool):
            return int(text)
        if isinstance(default, float):
            return _finite(text)
    except UserError:
        raise
    except ValueError:
        pass
    kind = "slope:intercept" if isinstance(default, Line) else type(default).__name__
    raise UserError(f"{what}: expected {kind}, such as {format_value(default)}, given {text!r}")


def format_value(value) -> str:
    """The one spelling of a value, which `parse_value` reads back."""
    if isinstance(value, Line):
        value = (value.slope, value.intercept)
    if isinstance(value, tuple):
        return ":".join(map(format_value, value))
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value).lower() if isinstance(value, bool) else str(value)


def format_options(options: dict, separator: str = SEPARATOR) -> str:
    """`options` as NAME=VALUE, joined by `separator`."""
    return separator.join(f"{key}={format_value(value)}" for key, value in options.items())


def try_options(name: str, spec: MethodSpec, options: dict) -> None:
    """Compute one loss on four tokens with `options`. Raises UserError with the method's own message where it fails."""
    values = torch.full((2, 2), -0.7, requires_grad=True)
    fixed = values.detach()
    batch = TokenBatch(
        values, fixed, torch.tensor([1.0, -1.0]), torch.ones(2, 2), entropy=-values, old_entropy=-fixed,
        old_baseline=fixed, clamped_entropy=-values, success=torch.tensor([0.5, 0.5]),
        group=torch.tensor([0, 0]),
    )  # fmt: skip
    try:
        Method(spec, 2, options).loss(batch, step=0)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"method {name!r}: {str(error).removeprefix(f'method {spec.name!r}, ')}") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value + 0.0  # −0.0 becomes 0.0: one spelling of one number
