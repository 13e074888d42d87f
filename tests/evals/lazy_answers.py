r"""Answers that a policy could give to every problem without reading it: what a reward must not pay for.

`lazy_answers(golds)` holds every gold of the benchmarks, numbers, constants, sets, words, and what once fooled a grader.
"""

SETS = (
    r"\emptyset \varnothing \{\} \{0\} \{1\} \{0,1\} \{1,2,3\} \{-1,1\} \mathbb{R} \mathbb{N} \mathbb{Z} \mathbb{Q} \mathbb{C} ℝ "
    r"(-\infty,\infty) (-\infty,+\infty) [-\infty,\infty] (0,\infty) [0,\infty) [1,\infty) (1,\infty) (2,\infty) (-\infty,0) (-\infty,0] "
    r"(-\infty,1) (\infty,\infty) (-\infty,-\infty) (\infty,-\infty) (0,\infty] [0,\infty] (0,1) [0,1] (0,1] [0,1) (-1,1) [-1,1] "
    r"(0,0) (1,1) (1,2) (2,1) (1,0) (0,1,2) (1,2,3) (x,y) (a,b) (x,x) (\infty,0) (0,NaN) (-\infty,0)\cup(0,\infty) "
    r"(-\infty,a) [a,b] x>0 x\ge0 x<0 x\ne0 x=x x\in\mathbb{R} n\in\mathbb{N} x<\infty x>-\infty |x|<\infty |x|\ge0 0<1 1=1 0=0 0=1"
).split()
WORDS = (
    "none", "None", "nothing", "no solution", "no solutions", "does not exist", "undefined", "impossible", "infinity", "infinite",
    "infinitely many", "all real numbers", "all integers", "any", "anything", "everything", "the answer", "answer", "gold", "correct",
    "true", "false", "yes", "no", "even", "odd", "east", "x", "y", "A", "B", "C", "D", "E", "(A)", "(B)", "(C)", "unknown", "null",
    "nan", "NaN", "inf", "-inf", "oo", "zoo", "Infinity", "-Infinity", "ComplexInfinity", "I", "pi", "E", "True", "False", "?", "...",
    "0 or 1", "1 or 2", "x or y", "not 0", "5 or anything", r"\text{any}", r"\text{see above}", r"\cdot", r"\ldots", "-", "+", "=", "%",
)  # fmt: skip
CONSTANTS = (
    r"\infty -\infty +\infty |\infty| |-\infty| 5\infty 0\cdot\infty \infty-\infty \frac{\infty}{\infty} \frac{1}{0} \frac{0}{0} -\frac{1}{0} "
    r"\frac{1}{\infty} \infty^0 2^\infty \sqrt{\infty} \infty! \sin\infty \tan90^\circ \tan\frac{\pi}{2} \log0 \ln0 0^0 0^{-1} "
    r"\sum_{n=1}^{\infty}n \sum_{n=1}^{\infty}1 \sum_{n=1}^{\infty}\frac{1}{n} \sum_{n=0}^{\infty}(-1)^n \int_0^{\infty}xdx \int_0^{\infty}1dx "
    r"\int_{-\infty}^{\infty}xdx \lim_{x\to\infty}x \lim_{x\to0}\frac{1}{x} \prod_{n=1}^{\infty}2 \infty\% \infty^\circ "
    r"10^{100} 10^{-100} 2^{1000} 2^{-1000} 100! 1000! \frac{1}{100!} \binom{100}{50} 10^{10^2} e^{100} e^{-100} \pi e i -i \sqrt{-1} "
    r"\sqrt2 \sqrt3 \sqrt5 \phi \gamma \Gamma \pi^2 e^{i\pi} \log2 \ln2 \ln10 \log_{10}2 1.0 0.0 -0 0.5 .5 1e3 1e-3 1e308 1e-308 "
    r"0.333333 0.666667 3.14 3.14159 2.71828 1.41421 0.1 0.01 99.9 0.999999 1.000001 0.\overline{3} 0.\overline{9} 10% 50% 100% 1:1 1:2 1:2:3 "
    r"x y n k a b p R r x+1 x-1 2x 2n 3n n+1 n-1 x^2 n^2 x^n f(x) f(x)=x f(x)=0 f(x)=1 f(n)=n y=x y=0 x=0 x=1 n=1 k=1 x=y x-x x/x n-n+1 "
    r"|x| \sqrt{x} \frac{1}{x} \frac{x}{x} \frac{n}{2} \frac{n(n+1)}{2} 2^n n! \binom{n}{k} \pm1 \pm2 1\pm1 0,1 1,2 1,2,3 1,-1 0,0 1,1 2,3 "
    r"\begin{pmatrix}0\\0\end{pmatrix} \begin{pmatrix}1\\\infty\end{pmatrix} \begin{pmatrix}1&0\\0&1\end{pmatrix} \begin{pmatrix}\infty\\\infty\end{pmatrix} "
    r"10_2 11_2 52_8 1_{10}"
).split()
HOSTILE = (
    r"9^{9^{9^9}}", "9999999!", r"((9!)!)!", r"\sum_{n=1}^{10000000}\frac{1}{n}", r"\int_0^{1000}e^{e^{e^x}}dx",
    "{" * 30 + "5" + "}" * 30, "1" * 200, "x+" * 200 + "x", r"\frac{" * 20, r"\left(" * 10 + "1" + r"\right)" * 10, "=" * 50, "," * 50,
    "5,6,7,8,9,10,11,12", " or ".join(str(i) for i in range(100)), ", ".join(str(i) for i in range(-10, 50)), r"\{" + ",".join("0123456789") + r"\}",
    r"x = 1 = 2 = 3 = 4 = 5", r"\text{the answer}", r"\phantom{5}", r"\boxed{}", r"\infty \text{ or } 5", r"\text{if } x=5 \text{ then } 5",
)  # fmt: skip


def lazy_answers(golds) -> list[str]:
    """At least 3,000 answers, `golds` first, each once."""
    numbers = [str(n) for n in range(1000)] + [str(-n) for n in range(1, 101)]
    fractions = [rf"\frac{{{a}}}{{{b}}}" for b in range(2, 41) for a in range(1, 2 * b, 1 + b // 16) if a % b]
    roots = [rf"{a or ''}\sqrt{{{b}}}" for a in (0, 2, 3, 4, 5, 10) for b in (2, 3, 5, 6, 7, 10, 11, 13)]
    multiples = [rf"{a}\pi" for a in range(2, 20)] + [rf"\frac{{\pi}}{{{a}}}" for a in range(2, 13)]
    degrees = [rf"{a}^\circ" for a in range(5, 185, 5)]
    pairs = [f"({a},{b})" for a in range(-2, 4) for b in range(-2, 4)] + [f"[{a},{b}]" for a in range(3) for b in range(3)]
    powers = [f"{a}^{{{b}}}" for a in (2, 3, 10) for b in range(2, 30)] + [f"{a}^{{{b}}}{c}1" for a in (2, 3) for b in range(40, 110, 10) for c in "+-"]
    everything = (*golds, *numbers, *fractions, *roots, *multiples, *degrees, *pairs, *powers, *SETS, *WORDS, *CONSTANTS, *HOSTILE)
    return list(dict.fromkeys(everything))
