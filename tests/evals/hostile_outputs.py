# ruff: noqa: E501
r"""Hostile outputs that a policy may write. `HOSTILE` maps names to texts.

None is correct for the gold answers 5 and x + 1, and each is graded within the limits.
"""

import random


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def nested(opening: str, closing: str, depth: int, core: str = "1") -> str:
    return opening * depth + core + closing * depth


def texts():
    """Yield (name, text) of every hostile output."""
    # size: megabytes of one token before, inside and after boxes
    for name, unit in {
        "digits": "7", "letters": "a", "spaces": " ", "newlines": "\n", "backslashes": "\\", "open braces": "{",
        "closed braces": "}", "dollars": "$", "commas": ",", "plus signs": "+", "equals signs": "=", "primes": "'",
        "carets": "^", "underscores": "_", "ampersands": "&", "percent signs": "\\%", "NULs": "\0", "dots": ".",
    }.items():  # fmt: skip
        yield f"a megabyte of {name}", unit * (1_000_000 // len(unit))
        yield f"a box with 90,000 {name}", boxed("1" + unit * (90_000 // len(unit)))
    for name, unit in {
        "unclosed boxes": "\\boxed{", "unclosed boxes with digits": "\\boxed{1", "empty boxes": "\\boxed{}",
        "answer lines": "Answer:\n", "answer words": "answer", "GSM8K marks": "####\n", "phrases": "final answer is ",
        "weak phrases": "the answer is ", "inline formulas": "\\(", "display formulas": "\\[", "dollar pairs": "$$ ",
        "bare boxes": "\\boxed ", "escaped braces": "\\{", "line breaks": "\\\\ ",
    }.items():  # fmt: skip
        yield f"200,000 {name}", unit * 200_000
        yield f"an answer line of {name}", "Answer: " + unit * 5_000
    yield "20,000 boxes", "".join(boxed(str(i)) for i in range(20_000))
    yield "20,000 boxes joined by commas", ", ".join(boxed(str(i)) for i in range(20_000))
    yield "20,000 boxes joined by and", " and ".join(boxed("x") for i in range(20_000))
    yield "20,000 boxes with spaces between", (" " * 39).join(boxed("2") for i in range(2_000))
    yield "20,000 nested boxes", nested("\\boxed{", "}", 20_000)
    yield "2,000 nested boxes and an end", nested("\\boxed{", "}", 2_000, "1+1") + "Answer: 7"
    # depth of brackets
    for depth in (41, 300, 10_000):
        for name, opening, closing in (
            ("braces", "{", "}"),
            ("parentheses", "(", ")"),
            ("brackets", "[", "]"),
            ("fractions", "\\frac{1}{1+", "}"),
            ("roots", "\\sqrt{", "}"),
            ("powers", "2^{", "}"),
            ("indices", "x_{", "}"),
            ("sizes", "\\left(", "\\right)"),
            ("absolute values", "|", "|"),
            ("functions", "\\sin(", ")"),
            ("texts", "\\text{", "}"),
            ("sets", "\\{", "\\}"),
        ):
            yield f"{name} {depth} deep", boxed(nested(opening, closing, depth))
        yield f"an unclosed brace {depth} deep", boxed("{" * depth)
    # numbers with too many digits
    for tower in (
        "9^{9^{9^9}}", "2^{2^{2^{49}}}", "10^{10^{10}}", "9^9^9^9", "9**9**9", "(10^9)^{10^9}", "2^{10^{10}}-2^{10^{10}}+5",
        "9999999!", "10000000!", "((9!)!)!", "99999!!", "(10^6)!", "\\frac{10000000!}{9999999!}",
        "\\binom{100000000}{50000000}", "\\binom{10^7}{10^6}", "\\Gamma(10000000)", "\\sqrt{10^{10^8}}",
        "\\log_{2}{(2^{10^9})}", "\\sum_{n=1}^{10000000} \\frac{1}{n}", "\\sum_{n=1}^{\\infty} \\frac{1}{n^{n^n}}",
        "\\prod_{n=1}^{1000000} n", "\\int_0^{1000} e^{e^{e^x}} dx", "\\int \\sin(\\cos(\\tan(x^x))) dx",
        "\\lim_{x \\to 0} \\sin(x^{x^{x}})^{\\frac{1}{x}}", "10^{400000}", "7^{7^7} \\mod 10", "1e999999999", "1E-999999999",
        "1.5 \\times 10^{999999999}", "0." + "0" * 500 + "1", "5" + "0" * 99 + "^{99999}", "\\sin(10^{10^6})",
        "\\cos(9^{9^9})", "e^{e^{e^{e^e}}}", "\\lfloor \\pi^{10^7} \\rfloor", "\\gcd(2^{10^7}, 3^{10^7})",
        "2^{10^8} \\bmod 3", "100000007^{100000007}", "(1+\\sqrt{2})^{100000}", "\\sqrt[10^9]{2}^{10^9}",
    ):  # fmt: skip
        yield f"the number {tower[:40]}", boxed(tower)
    # algebra that never ends
    for name, formula in {
        "a power of a sum": "(x+y+z+w)^{200}-(x+y+z+w)^{200}",
        "a product of sums": "".join(f"(x+{i})" for i in range(60)),
        "a sum of roots": "+".join(f"\\sqrt{{{i}}}" for i in range(2, 80)),
        "a root of roots": "".join(f"\\sqrt{{{i}+" for i in range(2, 35)) + "x" + "}" * 33,
        "a long sum": "+".join(f"x_{{{i}}}" for i in range(120)),
        "a long product": "".join(f"x_{{{i}}}" for i in range(150)),
        "an endless fraction": "1+\\cfrac{1}{" * 30 + "2" + "}" * 30,
        "a long chain": "=".join(str(i) for i in range(250)),
        "a chain of names": "=".join(f"x_{i}" for i in range(150)),
        "a long inequality": "<".join(str(i) for i in range(200)),
        "a long union": "\\cup".join(f"({i},{i + 1})" for i in range(90)),
        "a long list": ",".join(map(str, range(300))),
        "a list of lists": ",".join(["(1,2,(3,4))"] * 80),
        "plus or minus": "\\pm 1" * 150,
        "a list of plus or minus": ",".join(["1 \\pm x"] * 90),
        "nested trigonometry": nested("\\sin(\\cos(", "))", 18, "x"),
        "an equation of high degree": "x^{37}+x^{31}+3x^{11}-7x+1=0",
        "a system": ",".join(f"x_{i}+x_{i + 1}={i}" for i in range(60)),
        "a sum of powers": "+".join(f"x^{{{i}}}" for i in range(100)),
        "a telescope": "\\frac{x^{800}-1}{x-1}-(" + "+".join(f"x^{{{i}}}" for i in range(90)) + ")",
        "a determinant": "\\begin{vmatrix}" + "\\\\".join("&".join("xyz"[(i * j) % 3] for j in range(9)) for i in range(9)) + "\\end{vmatrix}",
        "a power of a matrix": "\\begin{pmatrix}1&x\\\\y&1\\end{pmatrix}^{10000}",
        "an inverse": "\\begin{pmatrix}" + "\\\\".join("&".join(f"x^{{{i * j}}}" for j in range(8)) for i in range(8)) + "\\end{pmatrix}^{-1}",
        "a huge matrix": "\\begin{pmatrix}" + "\\\\".join("&".join("1" for j in range(60)) for i in range(60)) + "\\end{pmatrix}",
        "a ragged matrix": "\\begin{pmatrix}" + "\\\\".join("&" * i for i in range(40)) + "\\end{pmatrix}",
        "1,000 begins": "\\begin{matrix}" * 60,
        "logarithms of logarithms": nested("\\log(", ")", 38, "x"),
        "factorials of factorials": "5" + "!" * 300,
        "percent of percent": "5" + "\\%" * 300,
        "degrees of degrees": "\\circ" * 150,
        "primes": "f" + "'" * 500 + "(x)",
    }.items():  # fmt: skip
        yield name, boxed(formula)
    # characters
    for name, mark in {
        "right-to-left overrides": "‮", "zero-width joiners": "‍", "byte order marks": "﻿", "combining marks": "̸",
        "escapes": "\x1b[2J", "surrogates": "\ud800", "astral letters": "𝟚", "ligatures": "ﷺ", "half fractions": "½",
        "superscripts": "²", "roots": "√", "fractions slashes": "⁄", "ideographic stops": "。", "private use": "\ue000",
        "unassigned": "\U000e0fff", "emoji": "👩‍👩‍👧‍👦",
    }.items():  # fmt: skip
        yield f"many {name}", boxed("1" + mark * 400)
        yield f"100,000 {name} in a text", mark * 100_000 + boxed("7" + mark)
    # LaTeX and code
    for name, code in {
        "a macro that calls itself": "\\def\\a{\\a\\a}\\a", "a loop": "\\loop\\iftrue\\repeat", "an input": "\\input{/etc/passwd}",
        "a shell escape": "\\write18{touch marker}", "a new command": "\\newcommand{\\x}{\\x\\x}\\x", "csname": "\\csname x\\endcsname" * 30,
        "an import": "__import__('os').system('touch marker')", "subclasses": "().__class__.__base__.__subclasses__()",
        "a lambda": "(lambda f: f(f))(lambda f: f(f))", "an eval": "eval('9'*9)", "a sympy call": "Integer(9)**Integer(9)**Integer(9)",
        "a factorial call": "factorial(10**7)", "a print": "print(open('/etc/passwd').read())", "a format": "{0.__class__}" * 20,
        "a percent format": "%s%n" * 50, "a JSON": '{"a": [' * 30, "an XML bomb": '<!ENTITY a "&a;&a;">' * 20, "a regex": "(a+)+$" * 40,
        "a symbol": "Symbol('x', positive=True)", "a memory": "[0]*10**12", "a range": "list(range(10**12))",
    }.items():  # fmt: skip
        yield name, boxed(code)
    # random text with a fixed seed
    rng = random.Random(0)
    alphabet = ["\\frac", "\\sqrt", "{", "}", "(", ")", "^", "_", "1", "x", "\\text", "&", "\\\\", ",", "=", "<", "\\pm", "%", " ", "\\in", "\\cup"]  # fmt: skip
    for i in range(20):
        yield f"noise {i}", "\\boxed{" + "".join(rng.choices(alphabet, k=60)) + "}"


HOSTILE = dict(texts())
