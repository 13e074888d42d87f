"""Claims as code: the sentence, the runs that can decide it, and the rule for the verdict.

Most are the paper's. Statements of this project, which the paper does not make, have `ours` and are listed apart.

A claim has parts. Each part is a number with its interval and the side on which the claim expects it. Reproduced: every
part is significantly on its side. Negligible: every part is equivalent to zero within a tenth of GRPO's own change, by
two one-sided tests, whatever its sign. Contradicted: one part is significantly on the other side, and not negligible,
in runs with the claim's precondition: entropy collapses under GRPO, and the bounds act. Not testable here: the runs
lack that, or what the claim is about. Not run: no run exists. Inconclusive: everything else.
Significant means `Difference.claim`: every interval excludes the null value, also after Holm's correction over the
claim's parts, with more than three seeds. `dynclip.report.claims.page` writes the verdicts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dynclip.report.claims.parts import (
    AS_CLAIMED,
    ENTROPY,
    NEGLIGIBLE,
    OPPOSITE,
    OURS,
    REWARD,
    Part,
    Parts,
    accuracy,
    areas,
    at_equal_reward,
    changes,
    clipped_late,
    halves,
    not_collapsed,
    not_in_force,
    od_not_triggered,
    own_change,
    pass_gap,
    reward_gaps,
    same_run,
    sized,
    slopes,
    swings,
)
from dynclip.report.claims.published import cell
from dynclip.report.evidence import Evidence
from dynclip.studies.arms import PHASES, UPDATES
from evals.stats import falls_rises_falls, rises_then_falls

VERDICTS = REPRODUCED, CONTRADICTED, NEGLIGIBLE, INCONCLUSIVE, NOT_TESTABLE, NOT_RUN = (
    "reproduced", "contradicted", NEGLIGIBLE, "inconclusive", "not testable here", "not run"
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, or of this project (`ours`). study, arms: its runs. statistic: the number per seed.
    paper: what the paper shows for it. parts: runs -> parts. decide: parts -> verdict. obstacle: runs -> why they
    cannot test the claim, "" if they can. margin, of claims about what bounds change: runs -> the size below which an
    effect is negligible.
    """

    id: str
    sentence: str
    study: str
    arms: tuple[str, ...]
    statistic: str
    paper: str
    parts: Parts
    decide: Callable[[Sequence[Part]], str]
    obstacle: Callable[[Evidence], str] = lambda evidence: ""
    margin: Callable[[Evidence], float] | None = None
    ours: bool = False


@dataclass(frozen=True)
class Decision:
    """A claim with its verdict and parts. reason: why the runs cannot test it, for NOT_TESTABLE."""

    claim: Claim
    verdict: str
    parts: tuple[Part, ...]
    reason: str = ""

    @property
    def seeds(self) -> int:
        """Number of seeds of the part with the fewest."""
        return min((part.n for part in self.parts), default=0)


def decide(claim: Claim, evidence: Evidence | None) -> Decision:
    """The verdict from the runs of the claim's arms. evidence: None where no run exists."""
    parts = tuple(claim.parts(evidence)) if evidence else ()
    if not any(part.n for part in parts):
        return Decision(claim, NOT_RUN, parts)
    reason = claim.obstacle(evidence)
    if claim.margin:
        parts = tuple(sized(part, claim.margin(evidence)) for part in parts)
        if claim.decide(parts) == CONTRADICTED:
            reason = reason or not_in_force(evidence)
    verdict = claim.decide(parts)
    return Decision(claim, NOT_TESTABLE if reason else verdict, parts, reason)


# Rules


def all_parts(parts: Sequence[Part]) -> str:
    """Every part as claimed; contradicted by a single opposite one; negligible if every part is."""
    findings = {part.finding for part in parts}
    if OPPOSITE in findings:
        return CONTRADICTED
    if findings == {NEGLIGIBLE}:
        return NEGLIGIBLE
    return REPRODUCED if findings == {AS_CLAIMED} else INCONCLUSIVE


RULES = {
    all_parts: "reproduced if every part is as claimed, contradicted if one is the opposite, negligible if each one is",
}


# The claims


def _scores_of(methods: Sequence[str], benchmark: str = "AIME24", model: str = "Qwen2.5-Math-7B") -> str:
    shown = ", ".join(f"{name} {cell(model, name, benchmark).text}" for name in methods)
    return f"{benchmark}, {model}, one run each, intervals from problems alone: {shown}"


_SIGNS = {"E1": ("lowers", -1), "E2": ("raises", 1), "E3": ("raises", 1), "E4": ("lowers", -1)}
_AREA = "mean entropy over training, paired difference"
_FIGURE = "a figure, one run"
_MEAN = "avg@k of the last checkpoint, mean over benchmarks, paired difference"
# From the steepest slope against the probability to the reversed one, at equal mean looseness.
_UPPER_TILTS = ("upper_tilt2", "dynamic_upper", "dynamic_upper_mean", "upper_tilt_back")
_LOWER_TILTS = ("lower_tilt2", "dynamic_lower", "dynamic_lower_mean", "lower_tilt_back")
_NATS, _POINTS = own_change(ENTROPY), own_change(REWARD, 100)

_ENTRIES = (
    Claim(
        "entropy_falls", "Policy entropy falls under GRPO.", "collapse", ("grpo",), "entropy, last 5 % − first 5 % of "
        "the steps", _FIGURE, changes(ENTROPY, ("grpo",), -1, "nats"), all_parts,
    ),
    Claim(
        "entropy_collapses", "It collapses: to less than half of where it began.", "collapse", ("grpo",),
        "ln(last 5 % / first 5 %) of entropy, against ln ½", _FIGURE, halves(ENTROPY), all_parts, not_collapsed,
    ),
    Claim(
        "gradient_falls", "The gradient norm falls with it.", "collapse", ("grpo",),
        "gradient norm, last 5 % − first 5 % of the steps", _FIGURE, changes("train/grad_norm", ("grpo",), -1, ""),
        all_parts, not_collapsed,
    ),
    *(
        Claim(
            f"{region}_alone", f"Training on the tokens of {region} alone {verb} entropy.", "regions",
            ("grpo", f"only_{region}_surprisal"), "entropy, last 5 % − first 5 % of the steps, minus GRPO's",
            "derivation and " + _FIGURE,
            changes(ENTROPY, (f"only_{region}_surprisal",), sign, "nats", against="grpo"), all_parts,
        )
        for region, (verb, sign) in _SIGNS.items()
    ),
    *(
        Claim(
            f"{region}_wider", f"A clip widened to 0.7-1.3 for the tokens of {region} {verb} entropy.", "regions",
            ("grpo", f"wide_{region}_probability"), _AREA, _FIGURE,
            areas(((f"wide_{region}_probability", "grpo"),), sign), all_parts, margin=_NATS,
        )
        for region, (verb, sign) in _SIGNS.items()
    ),
    Claim(
        "upper_raises", "The dynamic upper bound raises entropy.", "thresholds", ("grpo", "dynamic_upper"), _AREA,
        _FIGURE, areas((("dynamic_upper", "grpo"),), 1), all_parts, margin=_NATS,
    ),
    Claim(
        "upper_raises_at_equal_reward", "The dynamic upper bound raises entropy also at equal reward.", "thresholds",
        ("grpo", "dynamic_upper"), "entropy where half of the slowest run's gain is reached", "not shown",
        at_equal_reward("dynamic_upper", 1), all_parts, margin=_NATS, ours=True,
    ),
    Claim(
        "upper_above_fixed", "The dynamic upper bound keeps more entropy than fixed ones.", "thresholds",
        ("grpo", "clip_higher", "upper_0.4", "dynamic_upper"), _AREA, _FIGURE,
        areas((("dynamic_upper", "clip_higher"), ("dynamic_upper", "upper_0.4")), 1), all_parts, margin=_NATS,
    ),
    Claim(
        "lower_lowers", "The dynamic lower bound lowers entropy.", "thresholds", ("grpo", "dynamic_lower"), _AREA,
        _FIGURE, areas((("dynamic_lower", "grpo"),), -1), all_parts, margin=_NATS,
    ),
    Claim(
        "lower_lowers_at_equal_reward", "The dynamic lower bound lowers entropy also at equal reward.", "thresholds",
        ("grpo", "dynamic_lower"), "entropy where half of the slowest run's gain is reached", "not shown",
        at_equal_reward("dynamic_lower", -1), all_parts, margin=_NATS, ours=True,
    ),
    Claim(
        "lower_below_fixed", "The dynamic lower bound keeps less entropy than fixed ones.", "thresholds",
        ("grpo", "clip_lower", "lower_0.4", "dynamic_lower"), _AREA, _FIGURE,
        areas((("dynamic_lower", "clip_lower"), ("dynamic_lower", "lower_0.4")), -1), all_parts, margin=_NATS,
    ),
    Claim(
        "id_curve", "Under ID entropy rises, then falls.", "curves", ("grpo", "id"), "slope before and after half time",
        _FIGURE, slopes("id", rises_then_falls), all_parts, not_collapsed,
    ),
    Claim(
        "did_curve", "Under DID entropy falls, rises, and falls.", "curves", ("grpo", "did"), "slope in each third",
        _FIGURE, slopes("did", falls_rises_falls), all_parts, not_collapsed,
    ),
    Claim(
        "od_curve", "Under OD entropy oscillates with decaying amplitude.", "curves", ("grpo", "od"),
        "switches between OD's thresholds; growth of the log amplitude", _FIGURE, swings, all_parts, od_not_triggered,
    ),
    Claim(
        "id_clips_late", "ID clips few tokens early and many late.", "curves", ("grpo", "id"),
        "clipped share of tokens, second half − first half, minus GRPO's", _FIGURE, clipped_late, all_parts,
    ),
    Claim(
        "reward_early", "The schedules earn less reward than GRPO early.", "curves", ("grpo", *OURS),
        "mean reward over the first 30 %, paired difference", _FIGURE,
        reward_gaps(15, 30, [(arm, "grpo") for arm in OURS], -1, "reward, first 30 %"), all_parts, margin=_POINTS,
    ),
    Claim(
        "reward_late", "The schedules earn more reward than GRPO late.", "curves", ("grpo", *OURS),
        "mean reward over the last 30 %, paired difference", _FIGURE,
        reward_gaps(85, 30, [(arm, "grpo") for arm in OURS], 1, "reward, last 30 %"), all_parts, margin=_POINTS,
    ),
    Claim(
        "accuracy_grpo", "The schedules solve more than GRPO.", "main_table", ("grpo", *OURS),
        _MEAN, _scores_of(("grpo", *OURS)), accuracy, all_parts,
    ),
    Claim(
        "accuracy_clip_higher", "The schedules solve more than Clip-Higher.", "main_table", ("clip_higher", *OURS),
        _MEAN, _scores_of(("clip_higher", *OURS)), accuracy, all_parts,
    ),
    Claim(
        "pass_gap", "The gap to GRPO grows with K.", "pass_at_k", ("grpo", *OURS),
        "(pass@K − pass@1), mean over benchmarks, paired difference", _FIGURE + ", K to 32", pass_gap, all_parts,
    ),
    *(
        Claim(
            f"{name}_phase", f"φ = 0.5 is the best place for {name.upper()}'s switch.", "phase_ratio",
            (name, *(f"{name}_phase{phase}" for phase in PHASES)), "mean reward over the last fifth, paired difference",
            _FIGURE, reward_gaps(90, 20, [(name, f"{name}_phase{phase}") for phase in PHASES], 1, "reward, last fifth"),
            all_parts,
        )
        for name in ("id", "did")
    ),
    Claim(
        "constants_collapse", "With constants in place of H(p) and M(p) the schedules keep less entropy.", "ablations",
        ("grpo", *(each for arm in OURS for each in (arm, f"{arm}_mean"))), _AREA,
        "a figure, one run: \"still collapses\"",
        areas([(f"{arm}_mean", arm) for arm in OURS], -1), all_parts, margin=_NATS,
    ),
    Claim(
        "steep_raises", "A steeper upper bound, 0.5 − 0.5 p, raises entropy.", "thresholds", ("grpo", "upper_steep"),
        _AREA, "not shown", areas((("upper_steep", "grpo"),), 1), all_parts, margin=_NATS, ours=True,
    ),
    Claim(
        "upper_tilt_raises", "Of upper bounds that are as loose on average, the steeper one keeps more entropy.",
        "thresholds", ("grpo", "upper_tilt_back", "dynamic_upper_mean", "dynamic_upper", "upper_tilt2"), _AREA,
        "not shown", areas(tuple(pairwise(_UPPER_TILTS)), 1), all_parts, margin=_NATS, ours=True,
    ),
    Claim(
        "lower_tilt_lowers", "Of lower bounds that are as loose on average, the steeper one keeps less entropy.",
        "thresholds", ("grpo", "lower_tilt_back", "dynamic_lower_mean", "dynamic_lower", "lower_tilt2"), _AREA,
        "not shown", areas(tuple(pairwise(_LOWER_TILTS)), -1), all_parts, margin=_NATS, ours=True,
    ),
    Claim(
        "dppo_raises", "A bound in the old probability without line or schedule, DPPO's, raises entropy.", "thresholds",
        ("grpo", "dppo"), _AREA, "not shown", areas((("dppo", "grpo"),), 1), all_parts, margin=_NATS, ours=True,
    ),
    Claim(
        "one_update", "With one update per rollout batch all clipping methods are one run.", "updates",
        tuple(f"{name}_updates{min(UPDATES)}" for name in ("grpo", "clip_higher", *OURS)),
        "largest difference of any step's entropy or reward", "not said; follows from r = 1", same_run, all_parts,
        ours=True,
    ),
)  # fmt: skip

CLAIMS: dict[str, Claim] = {claim.id: claim for claim in _ENTRIES}
