r"""The decisions of grading with their reasons. test_grading.py tests the table, and docs/grading.md prints it.

Run `python tests/evals/grading_decisions.py` after a change to update the document.
"""

from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "grading.md"
BEGIN, END = "<!-- decisions -->", "<!-- end of decisions -->"


@dataclass(frozen=True)
class Decision:
    """A response, its gold answer, its verdict and the reason. A `text` without a mark is an answer and gets a box."""

    topic: str
    text: str
    gold: str
    status: str
    reason: str
    tolerance: str = ""

    @property
    def response(self) -> str:
        marked = any(mark in self.text for mark in ("boxed", "nswer", "####"))
        return self.text if marked else f"\\boxed{{{self.text}}}"


C, W, U, T = "correct", "wrong", "unparsable", "timed_out"
TABLE: dict[str, dict[str, list[tuple]]] = {  # topic -> reason -> (response, gold answer, status, tolerance or nothing)
    "Where the answer is": {
        "the last closed box with content is the answer, before every other mark": [
            (r"\boxed{4} so \boxed{5}", "5", C), (r"\boxed{4}\boxed{5}", "5", C), (r"\boxed{5} so \boxed{4}", "5", W),
            (r"\boxed{8} and Answer: 9", "8", C), (r"The final answer is 9. \boxed{8}", "9", W),
            (r"\boxed{} Answer: 9", "9", C), (r"\boxed{\boxed{5}}", "5", C), (r"\fbox{5}", "5", C),
            (r"$\boxed 7$ is the answer.", "7", C), (r"so \\boxed{7}", "7", C), ("$$\\boxed\n{7}$$", "7", C),
        ],
        "a box that is only mentioned, or holds a placeholder, does not count": [
            ("I shall use \\boxed for it.\nThe final answer is 18.", "18", C),
            (r"Put it into \boxed{answer}. The final answer is 18.", "18", C),
            ("\\boxed{17}\n\nCheck: \\boxed{}", "17", C),
        ],
        "a phrase that says where the answer stands does not count": [
            ("The answer is 40.\nThe final answer is within the specified box.", "40", C),
            ("The answer is 40.\nThe final answer is within \\boxed{}.", "40", C),
            ("The answer is given below.", "5", U),
            ("The answer is 40.\nThe answer is in (2,3).", "40", W),
            ("The answer is 40.\nThe answer is inadequate.", "40", W),
        ],
        "a box in the thinking counts only if no text follows; a response cut off in its thinking has no answer": [
            (r"<think>\boxed{4}? No.</think> The answer is 6.", "6", C),
            (r"first \boxed{4}, no </think> So \boxed{6}.", "6", C), (r"<think>\boxed{4}</think> It is six.", "4", U),
            (r"<think>It is \boxed{4}, or", "4", U), (r"<think>\boxed{4}</think>", "4", C),
        ],
        "a box that never closes was cut off, and its answer is unknown (`1` may be `12`)": [
            (r"\boxed{5", "5", U), (r"\boxed{4} then \boxed{5", "4", C),
        ],
        "without a box, “final answer is” comes first, then `Answer:`, `####`, “the answer is”, each time the last": [
            ("The final answer is $-3$. I hope it is correct.", "-3", C), ("Answer: 3\nThe final answer is 4.", "4", C),
            ("#### 4\nAnswer: 3", "3", C), ("**Answer:** 12", "12", C), ("#### 1,234", "1234", C),
            ("So the answer is 4.", "4", C), ("The answer is 5.\nAnswer: 6", "6", C),
            ("Answer: The largest $n$ is 34.", "34", C), ("Final Answer: 3 hours ago", "3", C),
            ("Answer: 5 or anything", "5", W), ("The answer is **58**!", "58", C), ("The answer is 5!", "120", W),
            ("The answer is $5!$.", "120", C), ("The answer is 7 2/9.", r"\frac{65}{9}", C),
            ("The answer is therefore $6$.", "6", C), ("The final answer is then 6.", "6", C),
        ],
        "a number in prose without a mark is no answer": [
            ("The answer! It must be 42", "42", U),
        ],
    },
    "Several boxes": {
        "boxes with only a comma or “and” between them are one answer if the gold answer has several parts": [
            (r"\boxed{1} and \boxed{-2}", "-2,1", C), (r"\boxed{3}, \boxed{5}, \boxed{7}", "3, 5, 7", C),
            (r"\boxed{1} and then \boxed{2}", "1,2", W), (r"\boxed{1}. So it is \boxed{2}", "1,2", W),
            (r"\boxed{1} and \boxed{2}", "2", C),
        ],
    },
    "How it is written": {
        "full stops, character widths, spaces, styles and delimiters do not matter": [
            ("5.", "5", C), ("$5$", "5", C), ("７５", "75", C), ("٥", "5", C), ("\u200f5\u200f", "5", C),
            ("−5", "-5", C), ("+5", "5", C), ("025", "25", C), ("27.0", "27", C), (".5", "0.5", C),
            (r"1\,234", "1234", C), ("1{,}234", "1234", C), ("1 234", "1234", C), (r"11,\! 111", "11111", C),
            (r"\mathbf{5}", "5", C), (r"9+5=\mathbf{1 4}", "14", C),
            (r"\frac{\mathbf{9}}{\mathbf{3 2}}", r"\frac{9}{32}", C),
            (r"\text{five}", "5", C), ("½", "0.5", C), ("3½", "7/2", C), ("√13", r"\sqrt{13}", C), ("x²", "x^2", C),
            ("1.5e3", "1500", C), (r"\left(\dfrac12\right)", r"\frac{1}{2}", C), ("sqrt(2)/2", r"\frac{\sqrt2}{2}", C),
            (r"7 \sin(\frac{\pi}{5}x)", "7*sin(pi*x/5)", C), ("10^-2", "0.01", C), (r"\textcolor{blue}{17}", "17", C),
            (r"\Large \mathbf{17}", "17", C), (r"\bf 17", "17", C), (r"\mathbf{\frac{1}{2}}", r"\frac12", C),
            (r"\text{Area: } 17", "17", C), (r"\begin{aligned} x &= 17 \end{aligned}", "17", C), ("{-}17", "-17", C),
            ("'36'", "36", C), (r"\nicefrac{3}{4}", r"\frac34", C), (r"{8 \choose 3}", "56", C),
            (r"{3 \over 4}", r"\frac34", C), ("∛8", "2", C), (r"\lg 100", "2", C),
        ],
        "upper and lower case are different symbols": [
            ("R", "r", W), ("x_1", "X_1", W), (r"\Delta", r"\delta", W), ("2R", "R+r", W), ("1", r"\frac{R}{r}", W),
            (r"\frac{e}{2}", r"\frac{E}{2}", W), ("I", "i", W), ("AB", "ab", W), ("f'(x)", "f(x)", W),
        ],
        "a comma before three digits groups thousands; before anything else, or with a space, it separates": [
            ("1,234", "1234", C), ("32, 349", "32349", W), ("12,34", "1234", W),
        ],
        "a decimal comma is read if the gold answer is one decimal; a list is never a decimal": [
            ("3,25", "3.25", C), ("1.3", "1,3", W),
        ],
    },
    "Numbers": {
        "equal values are equal, evaluated or not": [
            ("0.5", r"\frac{1}{2}", C), (r"\frac{2}{4}", r"\frac12", C), ("3+4", "7", C), ("2^{10}", "1024", C),
            ("5!", "120", C), (r"2\sqrt{2}", r"\sqrt{8}", C), (r"\log_{2} 8", "3", C), ("(1+i)^2", "2i", C),
            (r"1\frac{4}{5}", "1.8", C), ("7 2/9", r"\frac{65}{9}", C), ("-2 1/4", "-2.25", C),
            (r"0.\overline{36}", r"\frac{4}{11}", C), (r"0.1\dot{6}", r"\frac16", C), ("2(3)", "6", C),
            ("2(3)", "5", W), ("3", "-3", W),
        ],
        "equality is exact at every size": [
            ("100000000000000000001", "100000000000000000000", W), (r"\frac{1}{2006!}", r"\frac{1}{2004!}", W),
            ("5.0000001", "5", W), ("2^{100}", "2^{100}-1", W), ("100!", "100!+1", W),
            (r"\frac12+\frac1{2^{101}}", r"\frac12", W), (r"\binom{100}{50}+1", r"\binom{100}{50}", W),
            (r"\sqrt{10^{400}+1}", "10^{200}", W), (r"\sqrt2+\sqrt3", r"\sqrt{5+2\sqrt6}", C),
            (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1", C),
            (r"\cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{3\pi}{7}", r"\frac18", C), (r"\pi+10^{-30}", r"\pi", W),
            (r"3\ln 2", r"\ln 8", C), (r"\sqrt[3]{-8}", "-2", C),
        ],
        "an exact gold answer needs an exact answer; a rounded decimal is another number": [
            ("0.333333", r"\frac{1}{3}", W), ("3.141593", r"\pi", W), ("1.4142135623730951", r"\sqrt{2}", W),
            ("0.125", r"\frac18", C),
        ],
        "an infinity equals only itself, with its sign; a text without a value equals nothing": [
            (r"\infty", r"\infty", C), (r"-\infty", r"\infty", W), (r"\text{infinity}", r"\infty", C),
            (r"\infty", "5", W), ("5", r"\infty", W), (r"5\infty", "5", W), (r"|-\infty|", r"\infty", W),
            (r"\frac{1}{\infty}", "0", W), (r"\frac{1}{0}", "5", W), (r"\sum_{n=1}^{\infty} n", r"-\frac{1}{12}", W),
            (r"\sum_{n=1}^{\infty} \frac{1}{n^2}", r"\frac{\pi^2}{6}", C), (r"\int_0^\infty x dx", "5", W),
            ("NaN", "0", W),
        ],
        "a gold answer with four places and five digits is rounded; what rounds to it is correct": [
            ("3.14159", "3.1416", C), ("3.1414", "3.1416", W), ("16386.169", "16386.17", W),
        ],
        "only a tolerance stated by the benchmark is allowed": [
            ("4.25", "4.2", C, "1e-1"), ("4.2", "4.2", C, "1e-1"), ("4.31", "4.2", W, "1e-1"), ("4.25", "4.2", W),
            (r"(0.6,2.6667]", r"(\frac{3}{5},\frac{8}{3}]", C, "0.005"),
        ],
    },
    "Percent, money, degrees": {
        "28% is 0.28, and 28 where the question asks for a percentage; a bare number is never rescaled": [
            (r"28\%", "28", C), ("28", r"28\%", C), (r"28\%", "0.28", C), ("28 percent", r"28\%", C),
            (r"\frac{100}{3}\%", r"\frac{1}{3}", C), ("75", "0.75", W), (r"0.28\%", "0.28", C),
        ],
        "signs for money and degrees only repeat the question": [
            (r"\$18.90", "18.9", C), ("1,000.99€", "1000.99", C), (r"90^\circ", "90", C), ("74°", r"74^\circ", C),
            ("90 degrees", "90", C), (r"30^\circ 15'", r"30.25^\circ", C),
        ],
        "in a trigonometric function a degree is not a radian, and no unit is another one": [
            (r"\sin 30^\circ", r"\frac12", C), (r"4\sin 70^{\circ}", r"4\cos 20^{\circ}", C),
            (r"\sin 1", r"\sin 1^\circ", W), (r"36^\circ", r"\$36", W), (r"36\text{ cents}", r"\$36", W),
        ],
    },
    "Units": {
        "a unit may be left out or added, but must not be another one": [
            (r"5 \text{ cm}", "5", C), ("864", r"864 \mbox{ inches}^2", C), ("12 apples", "12", C),
            (r"5 \text{ meters}", r"5 \text{ m}", C), (r"5 \text{ m}", r"5 \text{ cm}", W),
            (r"15 \text{ cm}^3", r"15\mbox{ cm}^2", W), (r"0.5 \text{ h} = 30 \text{ min}", "30", C),
            (r"17 \frac{\text{km}}{\text{h}}", "17", C),
            (r"17 \mathrm{~kg} \cdot \mathrm{m} / \mathrm{s}^{2}", "17", C),
            (r"3:45 \text{ p.m.}", r"3:45 \text{ a.m.}", W), (r"1 \text{ million}", "1", W),
            (r"5 \text{ million dollars}", "5000000", C),
        ],
        "a letter after a number is a variable unless it is written as a unit": [
            ("5x", "5", W), ("6 m", "6", C), ("6", "6m", W), ("2s", "2t", W),
        ],
    },
    "Numerals with a base": {
        "the base is part of the answer; without it, or with another base, the numeral is different": [
            ("52_8", "52_8", C), ("52_{8}", "52_8", C), (r"52_{\text{eight}}", "52_8", C),
            (r"52 \text{ (base 8)}", "52_8", C), ("52", "52_8", W), ("42", "52_8", W), ("52_9", "52_8", W),
            ("255_{10}", "255", C), ("52_8", "52", W),
        ],
    },
    "Several answers": {
        "a list is correct in any order and with any set brackets, if it is complete and has no other part": [
            ("6,5", "5,6", C), ("5 and 6", "5,6", C), (r"\{5, 6\}", "5,6", C), ("5, 6, 5", "5,6", C),
            ("16, 3, 1, 3", "16, 3, 1, 1", W), ("16, 1, 3, 1", "16, 3, 1, 1", C), (r"\pm 2", "2,-2", C),
            (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}", C), ("(2,1),(1,2)", "(1,2),(2,1)", C),
            ("x=2, x=3", "3,2", C), (r"\{5\}", "5", C), ("5", "5,6", W), ("5,6,7", "5,6", W), ("2", r"\pm 2", W),
        ],
        "an answer with an alternative is wrong": [
            (r"5 \text{ or anything}", "5", W), ("5 or 6", "5", W), (r"\text{not } 5", "5", W),
        ],
        "values with names may come in any order; without names they need the order of the gold answer": [
            ("y=2, x=1", "x=1, y=2", C), ("1, 2", "x=1, y=2", C), ("2, 1", "x=1, y=2", W), ("x=1, y=2", "(1,2)", C),
            ("x=1, y=2", "(x,y)=(1,2)", C), ("(5,2),(7,2)", "p=5,q=2;p=7,q=2", C),
        ],
    },
    "Tuples, intervals, matrices": {
        "in brackets, order and brackets count; the entries are compared as answers": [
            ("(0.5, 2)", r"(\frac12,2)", C), ("(2,1)", "(1,2)", W), ("[1,2)", "[1,2]", W), ("1,2", "(1,2)", C),
            ("2,1", "(1,2)", W), (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty) \cup (-\infty,2)", C),
            (r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", C),
            (r"(1,2)", r"\begin{pmatrix}1\\2\end{pmatrix}", C),
            (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", W),
            (r"\langle 1,2\rangle", r"\begin{pmatrix}1\\2\end{pmatrix}", C), (r"(2,\infty)", "(2,7)", W),
            (r"\begin{pmatrix} 1 \\ 3\end{pmatrix}", r"\begin{pmatrix} 1 \\ \infty \end{pmatrix}", W),
        ],
        "sets of real numbers are compared as sets in any notation": [
            ("x<4", r"(-\infty, 4)", C), (r"\{x \mid x<4\}", r"(-\infty, 4)", C),
            (r"k<-3 \text{ or } k>3", r"k \in (-\infty,-3)\cup(3,+\infty)", C),
            (r"x \neq 2", r"(-\infty,2)\cup(2,\infty)", C), (r"|x| \le 2", "[-2,2]", C),
            (r"[1,3] \cup [2,5]", "[1,5]", C), (r"\text{all real numbers}", r"(-\infty,\infty)", C),
            ("(0,12)", r"(0,6) \cup (6,12)", W), (r"x \ge 4", r"(4,\infty)", W), (r"[3,\infty]", r"[3,\infty)", W),
            (r"n \ge 2", r"k \ge 2", W),
        ],
        "a ratio is equal up to a factor; a time is not": [
            ("2:4", "1:2", C), ("1:2", r"\frac12", C), ("1:2:4", "1:2:3", W), ("1:6", "1:2:3", W), ("1:00", "12:00", W),
        ],
        "an inequality equals its interval, unless the gold answer may be a point": [
            ("(1,2)", "1<x<2", C), (r"1 \le x < 2", "[1,2)", C), (r"-2 \le x \le 7", r"x \in [-2,7]", C),
            ("1<x<2", "(1,2)", W),
        ],
    },
    "Equations": {
        "a name before the value does not count, on either side": [
            ("x=5", "5", C), ("5", "x=5", C), ("5=x", "x=5", C), (r"\angle ABC = 90^\circ", "90", C),
            ("f(x)=x+1", "x+1", C), ("f(n)=n^2", "f(x)=x^2", C), (r"x \approx 11", "11", C), ("y=5", "x=5", W),
        ],
        "steps may be shown; equations between bare numbers must be true": [
            ("2+2=4", "4", C), ("x = 5+5+1 = 11", "11", C), ("4=5", "5", W), ("4=5", "4", W), ("3=4=5", "5", W),
            ("1 + 1 = 2 days", "2", C), ("time = 1 + 1 = 2 hours", "2", C), ("1 + 1 = 2 days", "1", W),
            ("4 = 5 days", "5", W), ("2 = 1 + 1 or 3 days", "2", W),
        ],
        "a rearranged equation is equal; one of its sides is not": [
            ("y-2x=3", "y=2x+3", C), ("10x+2=0", "5x+1=0", C), ("0", "a+3z=0", W), ("a+3z=0", "0", W),
            (r"x^2-9=y^2", r"\frac{x^2}{9}-\frac{y^2}{9}=1", C), ("x>5", "x<5", W), ("5<x", "x>5", C),
        ],
    },
    "Formulas": {
        "formulas are equal if they agree for all values of the same variables": [
            ("x+1", "1+x", C), ("(x-1)(x+1)", "x^2-1", C), (r"\tan^2 y + 1", r"\sec^2 y", C), ("x+1", "t+1", W),
            ("x+2", "x+1", W), (r"\sqrt{x^2}", "x", W), (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}", C),
            (r"\frac{(2n)!}{(n!)^2}", r"\binom{2n}{n}", C), ("(-1)^n", "1", W),
        ],
        "an answer must not have a variable that the gold answer lacks, even one that cancels out": [
            ("n+5-n", "5", W), ("x^2-x^2", "0", W),
        ],
    },
    "Words": {
        "words are compared without case, punctuation and markup": [
            (r"\text{Evelyn}", "Evelyn", C), ("evelyn.", r"\text{Evelyn}", C), (r"\text{odd}", "even", W),
            ("(C)", r"\text{(C)}", C), ("C", r"\text{(C)}", C), (r"\textbf{(C)}", "C", C),
            (r"\textbf{(B)}\ 12", "12", C), (r"\text{(B) } 12", r"\text{(C)}", W), ("D", r"\text{(C)}", W),
            (r"\text{no solution}", "0", W),
        ],
    },
    "What cannot be read": {
        "an answer that neither a rule nor the parser can read is unparsable": [
            ("???", "5", U), (r"\frac{1}{", "5", U), ("1" * 101 + ".5", "5", U), ("x+" * 600 + "x", "5", U),
            ("{" * 60 + "5" + "}" * 60, "5", U), ("no answer at all", "5", U),
        ],
    },
    "What cannot be computed": {
        "an answer beyond the limits is timed out, not wrong": [
            ("9^{9^{9^9}}", "5", T), ("9999999!", "5", T),
        ],
        "integers have no limit on their digits": [
            ("7" * 900, "7" * 900, C), ("7" * 900, "7" * 899 + "8", W),
        ],
    },
}  # fmt: skip
DECISIONS = [
    Decision(topic, text, gold, status, reason, *tolerance)
    for topic, reasons in TABLE.items()
    for reason, rows in reasons.items()
    for text, gold, status, *tolerance in rows
]


def table() -> str:
    """Return the decisions as Markdown tables."""
    lines, topic, reason = [], None, None
    for row in DECISIONS:
        if row.topic != topic:
            lines += ["", f"### {row.topic}", "", "| response | gold | verdict |", "| --- | --- | --- |"]
        if row.reason != reason:
            lines.append(f"| *{row.reason}* | | |")
        topic, reason = row.topic, row.reason
        gold = cell(row.gold) + (f" ± {row.tolerance}" if row.tolerance else "")
        lines.append(f"| {cell(row.text)} | {gold} | {row.status} |")
    return "\n".join(lines).strip() + "\n"


def cell(text: str) -> str:
    """Format a text as short code on one line, with invisible marks by their names."""
    text = text.replace("\n", " ⏎ ").replace("\u200f", "<U+200F>").replace("|", "\\|")
    return f"`{text}`" if len(text) <= 60 else f"`{text[:24]}…` ({len(text)} characters)"


def document(text: str) -> str:
    """Return the document with the current tables."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
