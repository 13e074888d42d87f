"""Which method to try: what a run shows, methods by registry key, the reason, and what this project's studies found.

A finding names the page (from docs/) that it comes from. tests/test_questions.py looks up every number on that page.
A line without findings says so on docs/methods.md; give it `Finding`s when a study has decided something.
"""

from dataclasses import dataclass

from dynclip.report.tables import markdown_rows

LAPTOP, STEERING = "laptop.md#findings", "steering.md"
STUDIES = "../results/reference/studies-2core/README.md"
FIELD_PATHS = "../results/reference/studies-2core/paths/studies/field/README.md"
FIELD = "../results/reference/field-2core/README.md"
RANKED = "../results/reference/field-2core/paths/studies/field/README.md"
FIELD_WORDED = "../results/reference/studies-2core/worded/studies/field/README.md"
SOURCES = {  # page -> how a link to it is called
    LAPTOP: "laptop",
    STEERING: "steering",
    STUDIES: "studies",
    FIELD_PATHS: "`field` in `paths`",
    FIELD_WORDED: "`field` in `worded`",
    FIELD: "field, stale rollouts, mismatch",
    RANKED: "`field` with 43 methods",
}
NONE = "No evidence of our own."


@dataclass(frozen=True)
class Finding:
    """Markdown with the numbers of one page. Differences are a method's minus GRPO's, brackets 95 % intervals."""

    text: str
    page: str


@dataclass(frozen=True)
class Advice:
    """A line of the chooser."""

    seen: str
    methods: tuple[str, ...]
    why: str
    found: tuple[Finding, ...] = ()


CHOICES = (
    Advice(
        "Entropy collapses, most tokens are neutral",
        ("dynamic_upper", "clip_higher"),
        "With several epochs a looser upper bound gives rare tokens more pushes up.",
        (
            Finding("`worded`, mean entropy: `dynamic_upper` +0.341 nats [+0.080, +0.602], decided.", STUDIES),
            Finding(
                "`clip_higher` ends 0.42 nats above GRPO [+0.21, +0.63], decided. No difference in pass@1 is.", LAPTOP
            ),
        ),
    ),
    Advice(
        "Entropy collapses, every token decides",
        ("gspo", "dynamic_upper"),
        "Looser fixed bounds lower entropy there. `dynamic_upper` needs the steeper line, `upper=(-0.5, 0.5)`.",
        (
            Finding("`paths`, mean entropy: `clip_higher` −0.024 nats [−0.034, −0.015], decided.", LAPTOP),
            Finding(
                "`gspo` ends at +0.127 nats [+0.091, +0.162], decided, and −6.0 points of reward [−12.3, +0.3], "
                "undecided.",
                FIELD_PATHS,
            ),
            Finding("Mean entropy under the steeper line: +0.053 nats [+0.037, +0.069].", STUDIES),
        ),
    ),
    Advice(
        "Entropy explodes",
        ("od", "dynamic_lower"),
        "A looser lower bound gives rare tokens more pushes down.",
        (
            Finding("`worded`, mean entropy: `od` 0.315 nats below GRPO's [−0.393, −0.237], decided.", LAPTOP),
            Finding("`dynamic_lower` −0.355 [−0.594, −0.116], undecided: sign flips do not agree.", STUDIES),
            Finding("Entropy falls under GRPO in all three worlds: an explosion was not studied.", LAPTOP),
        ),
    ),
    Advice(
        "Entropy has to follow a target",
        ("entropic", "thermostat", "par"),
        "A controller reacts to the entropy of every rollout batch. How near it keeps the target was not measured.",
        (
            Finding(
                "Entropy at the end: `entropic` −0.174 nats [−0.224, −0.124], decided; `thermostat` −0.122 [−0.177, "
                "−0.067] and `par` −0.006 [−0.068, +0.056], undecided.",
                FIELD_PATHS,
            ),
            Finding("All three undecided.", FIELD_WORDED),
        ),
    ),
    Advice(
        "A rollout batch is gone over once",
        ("ent_reg",),
        "Bounds hardly act: take more epochs first, or a method that does not act through the ratio.",
        (
            Finding(
                "With one epoch 0 of 49 cells differ from GRPO at the end, with 4 × 4 updates 41 of 49. `ent_reg` was "
                "not in it.",
                STEERING,
            ),
        ),
    ),
    Advice(
        "One update already overshoots the bound",
        ("dynamic_upper",),
        "Take the steeper line, `upper=(-0.5, 0.5)`, or a lower learning rate. The effect of the published line turns.",
        (
            Finding("At κ = 5.5 ln 1.2 the published one lowers entropy in 11 of 14 kinds of regime.", STEERING),
            Finding(
                "Tiny language models at rate 1.2e-3 (± standard error): −0.11 ± 0.18 nats, undecided; steeper "
                "+0.57 ± 0.19, decided.",
                STEERING,
            ),
        ),
    ),
    Advice(
        "Gradients vanish: many tokens are clipped",
        ("cispo", "ce_gppo"),
        "A clipped token keeps a gradient.",
        (
            Finding("GRPO's bounds remove the gradient of 8.4 % of the tokens in `paths`.", LAPTOP),
            Finding(
                "Reward at the end: `ce_gppo` −19.2 points [−25.6, −12.8], decided; `cispo` −7.9 [−14.6, −1.3], "
                "undecided after the correction.",
                FIELD_PATHS,
            ),
        ),
    ),
    Advice(
        "Many neutral tokens lose their entropy",
        ("dynamic_upper", "high_entropy"),
        "The one lets rare tokens rise, the other trains only tokens of high entropy.",
        (
            Finding(
                "Tiny language models at rate 3e-4: `dynamic_upper` +0.73 nats [+0.38, +1.08] on neutral tokens, "
                "decided; reward −0.01 [−0.06, +0.05], undecided.",
                STEERING,
            ),
            Finding(
                "`high_entropy` +0.789 nats [+0.291, +1.288] and −25.9 points of reward [−36.0, −15.8], undecided "
                "after the correction.",
                FIELD_WORDED,
            ),
        ),
    ),
    Advice(
        "Reward is rare",
        ("dro", "maxrl"),
        "Few successes carry the gradient: do not clip them away, or give each more advantage.",
        (
            Finding("`paths` starts at 3 % success: `dro` +8.0 points at half time [+5.4, +10.5], decided.", FIELD),
            Finding(
                "Reward at the end: `dro` +10.2 pt [+3.4, +16.9] and `maxrl` +3.7 pt [-2.3, +9.7], undecided after the "
                "correction.",
                RANKED,
            ),
        ),
    ),
    Advice(
        "The sampler is stale",
        ("grpo", "clip_higher", "did"),
        "Keep a bound on the ratio to the policy that sampled. A weight without a bound does not survive.",
        (
            Finding(
                "`paths`, pass@1 with rollouts 4 steps old: GRPO 37.3 % [34.4, 40.2], CISPO 20.6 [16.8, 24.5], no "
                "clipping 15.5 [13.1, 17.9], decided.",
                FIELD,
            ),
            Finding("Clip-Higher, DID and DPPO do not differ decidedly from GRPO at any age.", FIELD),
        ),
    ),
    Advice(
        "Sampler and trainer differ",
        ("grpo", "clip_higher"),
        "The method matters less than the correction: do not take the ratio to a sampler that is off.",
        (
            Finding(
                "`paths`, 0.20 nats apart, GRPO's pass@1: ignored 37.1 % [34.3, 39.9], truncated importance sampling "
                "35.5 [30.9, 40.1], ratio to the sampler 28.2 [24.7, 31.7].",
                FIELD,
            ),
        ),
    ),
    Advice(
        "Responses are long",
        ("gspo", "gmpo", "cppo"),
        "A sequence has one ratio, or the drift of a token's prefix counts.",
    ),
    Advice(
        "Only held-out success matters",
        ("clip_higher",),
        "It is the simplest method, and no schedule was decidedly better.",
        (
            Finding(
                "`paths`, pass@1: +3.3 points [+1.6, +5.0], decided; in a second run of the seeds +1.7 [+0.2, +3.2], "
                "undecided.",
                LAPTOP,
            ),
        ),
    ),
)


def chooser() -> str:
    """The Markdown table of all lines."""
    rows = [
        [advice.seen, ", ".join(f"[{name}](#{name})" for name in advice.methods), f"{advice.why}<br>{evidence(advice)}"]
        for advice in CHOICES
    ]
    return markdown_rows(["the run", "try", "because, and what our studies found"], rows)


def evidence(advice: Advice) -> str:
    """What the studies found about a line, each finding on a line of the cell with a link to its page."""
    return "<br>".join(f"{one.text} ([{SOURCES[one.page]}]({one.page}))" for one in advice.found) or f"**{NONE}**"
