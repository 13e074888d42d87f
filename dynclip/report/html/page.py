"""How the HTML pages are rendered: one file each, which loads nothing and works without its script.

A model wrote the completions, so they are hostile input: control characters are spelled out, Jinja escapes every value,
JSON is embedded without "<", the script builds elements and never HTML, and the content security policy allows the
page's own two scripts alone, by their hashes.
"""

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dynclip.runtime.text import visible

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **values) -> str:
    """The page of a file in templates/. Raises jinja2.UndefinedError for a missing value."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, finalize=spelled,
    )  # fmt: skip
    environment.filters["unbroken"] = unbroken
    environment.policies["json.dumps_function"] = lambda value, **_: json.dumps(spelled(value), separators=(",", ":"))
    scripts = {"library": library(), "script": (TEMPLATES / "page.js").read_text()}
    policy = {name: f"'sha256-{_hash(text)}'" for name, text in scripts.items()}
    return environment.get_template(template).render(**scripts, policy=policy, **values) + "\n"


def spelled(value):
    """`value` with the control characters of its texts spelled out; markup is the page's own."""
    if isinstance(value, dict):
        return {spelled(name): spelled(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(each) for each in value]
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


VEGA_LITE = "6.1"  # 6.4 shows "undefined" as the values under the pointer (vega-lite, pull request 9707)


@cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed as one script that defines `vegaEmbed`."""
    import vl_convert

    return vl_convert.javascript_bundle(vl_version=VEGA_LITE).replace("</script", "<\\/script")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def unbroken(cell: str) -> str:
    """The cell with no-break spaces in an interval, around ± and in a difference."""
    return re.sub(r"\[[^]]*\]|\S+ [±−] \S+", lambda part: part[0].replace(" ", "\u00a0"), cell)


def image(content: bytes, form: str = "svg+xml") -> str:
    """A figure as the source of an <img>. As images, figures keep their element ids apart; inline SVGs would not."""
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"
