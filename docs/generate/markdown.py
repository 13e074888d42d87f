"""Small pieces of GitHub Markdown."""

import re

from dynclip.methods.spec import MethodSpec


def text(plain: str) -> str:
    """Plain text as Markdown for a table cell: markup is escaped, `code` is kept."""
    parts = plain.split("`")
    parts[::2] = [re.sub(r"([*_|<\\\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(part.replace("|", r"\|") if i % 2 else part for i, part in enumerate(parts))


def anchor(title: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def citation(spec: MethodSpec) -> str:
    """A link to a method's paper."""
    return f"[arXiv {spec.arxiv}](https://arxiv.org/abs/{spec.arxiv})" if spec.arxiv else "no paper"
