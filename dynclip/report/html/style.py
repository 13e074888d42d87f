"""What the HTML pages share: head and style, the table macro, and how they are rendered.

Jinja escapes every value in the template, because a model wrote the completions. The content security policy forbids
scripts and requests as a second protection.
"""

import base64
import re

from jinja2 import Environment, StrictUndefined

HEAD = """\
{% macro table(content, level) %}
<h{{ level }}>{{ content.title }}</h{{ level }}>
<div class="wide"><table><thead><tr>
{% for cell in content.header %}<th>{{ cell }}</th>{% endfor %}
</tr></thead><tbody>
{% for row in content.rows %}
<tr>{% for cell in row %}<td>{{ cell | unbroken }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div><p class="note">{{ content.note }}</p>
{% endmacro %}
{% macro heading(name) %}<h2 id="{{ name | lower }}">{{ name }}</h2>{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>
:root { --ink: #1c1c1c; --soft: #5f6368; --line: #dcdcdc; --warn: #8a4b00; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.5rem 5rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; } ul { padding-left: 1.2rem; margin: .3rem 0; } li { margin: .15rem 0; }
.soft, figcaption, .note { color: var(--soft); font-size: .875rem; }
nav a { margin-right: 1.1rem; color: inherit; }
dl { display: grid; grid-template-columns: 10rem 1fr; gap: .25rem 1rem; margin: 1.2rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
li.warning { color: var(--warn); } li.warning::marker { content: "!  "; font-weight: bold; }
figure { margin: 1.2rem 0 2.4rem; } figure img { width: 100%; height: auto; display: block; }
figcaption { margin-top: .4rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
td:first-child { white-space: nowrap; }
code, pre { font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
pre.command { background: #f5f5f3; padding: .7rem .9rem; border-radius: 4px; }
.sample { border-left: 3px solid #2e7d32; padding: .1rem 0 .1rem .9rem; margin: .8rem 0; }
.sample p { margin: 0; }
.sample.no { border-left-style: dashed; border-left-color: #b3261e; }
summary { cursor: pointer; margin: .6rem 0; }
@media print { body { max-width: none; padding: 0; } figure, .sample { break-inside: avoid; } }
</style></head><body>
"""


def render_page(template: str, **values) -> str:
    """The page of a template that starts with HEAD. Raises jinja2.UndefinedError for a missing value."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["unbroken"] = unbroken
    return environment.from_string(template).render(**values)


def unbroken(cell: str) -> str:
    """The cell with no-break spaces in an interval, around ± and in a difference."""
    return re.sub(r"\[[^]]*\]|\S+ [±−] \S+", lambda part: part[0].replace(" ", "\u00a0"), cell)


def image(svg: bytes) -> str:
    """A figure as the source of an <img>. As images, figures keep their element ids apart; inline SVGs would not."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
