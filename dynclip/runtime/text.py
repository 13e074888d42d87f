"""Text that others wrote, for terminals and pages: control characters are spelled out."""

import unicodedata

# Unicode categories that are spelled out: control, format (which includes changes of the writing direction), surrogate,
# private, unassigned, and line and paragraph separators.
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str) -> str:
    r"""`text` with everything but printable characters, tabs and newlines escaped, such as `\x1b` and `\u202e`."""
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in HIDDEN else c.encode("unicode_escape").decode() for c in text
    )


def say(text: str) -> None:
    """Print a line, with names of models, files and runs in it that could hold control characters."""
    print(visible(text))
