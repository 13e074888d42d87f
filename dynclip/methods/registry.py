"""The registry: every method under comparison, one entry each, composed of pieces from the modules beside this one.

To add a method: write at most one function in one piece file (or reuse one) and add one `MethodSpec` to `_ENTRIES`.
Training, the workflow, the tables, the figures and docs/methods.md read this registry; there is no second list.

`evidence` says where each default comes from: "paper" and "official code" were read as such in public, "second-hand" is
known from others' accounts of the source, "ours" is a choice made here because the source discloses nothing.
"""

from dynclip.methods import bounds, controllers, extras, surrogate, vocabulary, weights
from dynclip.methods.objective import Method
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Line
from dynclip.regions import baseline

PAPER = "2602.09782"
EPS = 0.2  # ε_std of the paper, PPO's and GRPO's interval
CLIP_OBJECTIVE = r"\min\big(r_t A_t,\ \mathrm{clip}(r_t, 1-\varepsilon^-, 1+\varepsilon^+)\,A_t\big)"

CONSTANT = {"eps_low": EPS, "eps_high": EPS}
CONSTANT_EVIDENCE = {"eps_low": "PPO and GRPO", "eps_high": "PPO and GRPO"}
# ε⁺ or ε⁻ from the probability; see docs/methods.md for what `reference` and `detach` decide.
READING = {"reference": "old", "detach": True}
READING_EVIDENCE = {
    "reference": "open in the paper; with detach=True 'old' and 'current' clip the same tokens",
    "detach": "open in the paper; without it a clipped token keeps a gradient that pushes a good token down",
}
LINES = {"upper": bounds.H_UPPER, "lower": bounds.M_LOWER}
LINES_EVIDENCE = {"upper": "paper v1: H(p) = −0.25 p + 0.5", "lower": "paper v1: M(p) = −0.13 p + 0.3"}
SCHEDULE = {"eps": EPS, **LINES, "switch": 0.5, "phase2": "formula", **READING}
SCHEDULE_EVIDENCE = {
    "eps": "paper v1", **LINES_EVIDENCE, "switch": "paper v1: half of training; φ in 0.3 … 0.6 in its ablation",
    "phase2": "the paper's formula and text contradict each other; its formula is taken", **READING_EVIDENCE,
}  # fmt: skip
# φ is the option `switch`.
LAMBDA = r"\lambda=1-\tfrac{k}{\varphi T},\ \text{then}\ -\tfrac{k-\varphi T}{(1-\varphi)T}"
PHASE_TWO = (
    r"(1+\lambda)M(p)-\lambda\varepsilon",
    "In the paper's formula the lower bound jumps to M(p) at the switch and closes to ε; its text says the opposite "
    '(`phase2="prose"`).',
)

_ENTRIES = (
    MethodSpec(
        "grpo", "GRPO", "2402.03300", bounds.constant, CONSTANT, CONSTANT_EVIDENCE,
        equation=CLIP_OBJECTIVE, change="The reference: PPO's clipped surrogate with group-normalised advantages.",
        caveats=("The original averages over tokens, then over responses; here aggregation belongs to the run.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        "clip_higher", "Clip-Higher", "2503.14476", bounds.constant, {"eps_low": EPS, "eps_high": 0.28},
        {"eps_low": "DAPO paper", "eps_high": "DAPO paper"},
        equation=CLIP_OBJECTIVE, change="A wider upper bound, 1 + ε⁺ = 1.28.",
        caveats=("DAPO's dynamic sampling and overlong shaping are no part of this entry.",), on_policy_grpo=True,
    ),
    MethodSpec(
        "clip_lower", "Clip-Lower", PAPER, bounds.constant, {"eps_low": 0.28, "eps_high": EPS},
        {"eps_low": "ours: the paper does not disclose it, 0.28 mirrors Clip-Higher", "eps_high": "PPO and GRPO"},
        equation=CLIP_OBJECTIVE, change="A wider lower bound, 1 − ε⁻ = 0.72.",
        caveats=("arXiv 2509.26114 calls the opposite, a narrower lower bound, clip-low: compare numbers, not names.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        "dynamic_upper", "Dynamic upper", PAPER, bounds.linear,
        {"upper": bounds.H_UPPER, "lower": Line(0.0, EPS), **READING},
        {"upper": LINES_EVIDENCE["upper"], "lower": "paper v1: ε", **READING_EVIDENCE},
        equation=r"r_t \le 1 + H(p_t) \iff r_t \le \frac{1+\beta}{1-\alpha q_t},\quad H(p)=\alpha p+\beta",
        change="The upper bound falls with the token's probability, at every step alike.",
        caveats=("For q > 0.8 the upper bound exceeds 1/q and cannot bind.",), on_policy_grpo=True,
    ),
    MethodSpec(
        "dynamic_lower", "Dynamic lower", PAPER, bounds.linear,
        {"upper": Line(0.0, EPS), "lower": bounds.M_LOWER, **READING},
        {"upper": "paper v1: ε", "lower": LINES_EVIDENCE["lower"], **READING_EVIDENCE},
        equation=r"r_t \ge 1 - M(p_t) \iff r_t \ge \frac{1-\beta'}{1+\alpha' q_t},\quad M(p)=\alpha' p+\beta'",
        change="The lower bound rises with the token's probability, at every step alike.", on_policy_grpo=True,
    ),
    MethodSpec(
        "id", "ID", PAPER, bounds.increase_then_decrease, SCHEDULE, SCHEDULE_EVIDENCE,
        equation=r"(E^+,E^-)=(\lambda H(p)+(1-\lambda)\varepsilon,\ \varepsilon)\ \text{up to}\ \varphi T;\quad "
        rf"(\varepsilon,\ {PHASE_TWO[0]})\ \text{{after}};\quad {LAMBDA}",
        change="Increase-then-decrease: the upper bound closes from H(p) to ε, then the lower one is loosened.",
        caveats=(PHASE_TWO[1],), on_policy_grpo=True,
    ),
    MethodSpec(
        "did", "DID", PAPER, bounds.decrease_increase_decrease, SCHEDULE, SCHEDULE_EVIDENCE,
        equation=r"(E^+,E^-)=(\lambda\varepsilon+(1-\lambda)H(p),\ \varepsilon)\ \text{up to}\ \varphi T;\quad "
        rf"(H(p),\ {PHASE_TWO[0]})\ \text{{after}};\quad {LAMBDA}",
        change="Decrease-increase-decrease: the upper bound opens to H(p), then the lower one is loosened too.",
        caveats=(PHASE_TWO[1],), on_policy_grpo=True,
    ),
    MethodSpec(
        "od", "OD", PAPER, bounds.oscillatory_decay,
        {"eps": EPS, **LINES, "fraction": 0.2, "initial_state": -1, **READING},
        {
            "eps": "paper v1", **LINES_EVIDENCE, "fraction": "paper v1: H_min = 0.2 H_init",
            "initial_state": "open in the paper: ε on both sides before the first trigger", **READING_EVIDENCE,
        },
        equation=r"s=1:\ (H(p),\varepsilon);\quad s=0:\ (\varepsilon,M(p));\quad "
        r"s\leftarrow 1\ \text{if}\ H_k\le\tau_{low},\ 0\ \text{if}\ H_k>\tau_{high}(k)",
        change="Oscillatory decay: entropy feedback loosens one side at a time, in a band that closes over training.",
        controller=controllers.Hysteresis, keeps="the side s and the initial entropy", on_policy_grpo=True,
        caveats=("Where entropy stays above 0.2 H_init it never loosens the upper bound.",),
    ),
    MethodSpec(
        "ent_reg", "Ent-Reg", "1602.01783", bounds.constant, {**CONSTANT, "coefficient": 1e-3},
        {**CONSTANT_EVIDENCE, "coefficient": "ours: 1e-3 to 1e-2 is common, the paper's is not disclosed"},
        equation=rf"{CLIP_OBJECTIVE} + c\,H_t", change="An entropy bonus with a fixed coefficient.",
        extra=extras.entropy_bonus, needs=("entropy_gradient",),
        caveats=("Very sensitive to c; entropy explosions are reported for 1e-3 and more in long runs.",),
    ),
    MethodSpec(
        "adaptive_entropy", "Adaptive entropy", "2505.22312", bounds.constant,
        {**CONSTANT, "target": 0.2, "delta": 1e-4, "minimum": 0.0, "maximum": 0.005, "initial": 0.0},
        {
            **CONSTANT_EVIDENCE, "target": "official scripts", "delta": "official scripts; TRL: 0.005",
            "minimum": "official scripts", "maximum": "official scripts; TRL: 1", "initial": "official scripts",
        },
        equation=rf"{CLIP_OBJECTIVE} + c_k\,\mathbb 1[H_{{k-1}}<H^*]\,H_t,\quad "
        r"c_k=\mathrm{clip}(c_{k-1}\pm\mathtt{delta})",
        change="An entropy bonus whose coefficient rises while entropy is below a target, and is off above it.",
        extra=extras.steered_entropy_bonus, controller=controllers.AdaptiveCoefficient, needs=("entropy_gradient",),
        keeps="the coefficient and whether entropy was low at the last observation",
        caveats=(
            "Acts one rollout step after the entropy it saw, as the official code does.",
            "TRL moves its coefficient at every optimizer step, with other constants.",
            "The official code observes −mean ln q of the sampled tokens; here it is the full entropy.",
        ),
    ),
    MethodSpec(
        "aer", "AER (style)", "2510.10959", bounds.constant,
        {**CONSTANT, "fraction": 0.5, "eta": 0.005, "maximum": 0.05, "solved": 0.5},
        {
            **CONSTANT_EVIDENCE, "fraction": "ours: not public", "eta": "ours: not public",
            "maximum": "ours: not public", "solved": "ours: not public",
        },
        equation=rf"{CLIP_OBJECTIVE} + c_k\,\mathbb 1[\mathrm{{acc}}_g<\mathtt{{solved}}]\,H_t,\quad "
        r"c_{k+1}=\mathrm{clip}(c_k+\eta(\mathtt{fraction}\cdot H_0-H_k),0,c_{max})",
        change="An entropy bonus for hard prompts only; its coefficient tracks a share of the initial entropy.",
        extra=extras.hard_prompt_entropy_bonus, controller=controllers.TrackingCoefficient,
        needs=("entropy_gradient", "success"), keeps="the coefficient and the initial entropy",
        caveats=("In the style of AER: its formulas and constants are not public, all numbers here are ours.",),
    ),
    MethodSpec(
        "aent", "AEnt", "2509.03493", bounds.constant,
        {
            **CONSTANT, "clamp": 0.4, "initial": 2e-4, "band": (0.05, 0.23), "eta": 1e-3, "minimum": 1e-5,
            "maximum": 3e-3,
        },
        {
            **CONSTANT_EVIDENCE,
            **dict.fromkeys(("clamp", "initial", "band", "eta", "minimum", "maximum"), "official AReaL configuration"),
        },
        equation=rf"{CLIP_OBJECTIVE} + c_k\,\tilde H_t,\quad "
        r"\tilde H:\ \text{of the likeliest }(1-\mathtt{clamp})V\text{ tokens}",
        change="An entropy bonus on the likely part of the vocabulary; its coefficient keeps entropy in a band.",
        extra=extras.clamped_entropy_bonus, reduction=vocabulary.clamped_entropy,
        controller=controllers.BandCoefficient, needs=("clamped_entropy",), observes="clamped_entropy",
        keeps="the coefficient",
        caveats=(
            "Needs full logits with gradient: an extra pass over the vocabulary.",
            "The official configuration starts the controller after 29 steps of warm-up; here it starts at once.",
        ),
    ),
    MethodSpec(
        "clip_cov", "Clip-Cov", "2505.22617", bounds.constant,
        {"eps_low": 1.0, "eps_high": 1.0, "share": 2e-4, "cov_low": 1.0, "cov_high": 5.0, "at_least": 1},
        {name: "official code" for name in ("eps_low", "eps_high", "share", "cov_low", "cov_high", "at_least")},
        equation=rf"w_t\cdot{CLIP_OBJECTIVE},\quad w_t=0\ \text{{for a few of}}\ "
        r"\{c_l<(A_t-\bar A)(\ln p_t-\overline{\ln p})<c_h\}",
        change="A random few of the tokens with high covariance of advantage and ln p lose their gradient.",
        weights=weights.clip_covariance,
        caveats=(
            "PPO's clipping is practically off in the official settings (ε = 1); verl leaves it at the run's 0.2.",
            "Covariance and quota are the mini-batch's: at least one token, so the share grows as mini-batches shrink.",
            "Not inert with one update per rollout batch.",
        ),
    ),
    MethodSpec(
        "kl_cov", "KL-Cov", "2505.22617", bounds.unbounded, {"share": 2e-3, "coefficient": 1.0},
        {"share": "official code, 7B (0.2 %); 32B: 0.02 %", "coefficient": "official code"},
        equation=r"r_tA_t - c\,|\ln p_t-\ln q_t|\ \mathbb 1[t\in\text{top share by covariance}]",
        change="No clipping; a penalty on the ratio of the few tokens with the highest covariance.",
        surrogate=surrogate.unclipped, extra=extras.covariance_penalty,
        caveats=("verl's defaults differ: a tenth of the share (the 32B value) and of the coefficient.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        "gspo", "GSPO", "2507.18071", bounds.constant, {"eps_low": 3e-4, "eps_high": 4e-4},
        {"eps_low": "paper", "eps_high": "paper"}, ratio=surrogate.sequence_ratio,
        equation=rf"{CLIP_OBJECTIVE.replace('r_t', 's')},\quad s=\exp\big(\tfrac1{{|y|}}\sum_t\ln r_t\big)",
        change="One ratio for a sequence, the geometric mean of its tokens', with a far narrower interval.",
        caveats=("Far more tokens are clipped than with token ratios: a clipped sequence is clipped as a whole.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        "sapo", "SAPO", "2511.20347", bounds.unbounded, {"tau_positive": 1.0, "tau_negative": 1.05},
        {"tau_positive": "paper, TRL, verl", "tau_negative": "paper, TRL, verl"}, surrogate=surrogate.sapo,
        equation=r"\tfrac4\tau\,\sigma\big(\tau(r_t-1)\big)A_t",
        change="A sigmoid gate instead of a bound: the gradient fades smoothly as the ratio leaves 1.",
        caveats=("On policy the gradient is GRPO's; the loss differs by a constant factor 2/τ.",),
    ),
    MethodSpec(
        "cispo", "CISPO", "2506.13585", bounds.constant, {"eps_low": 1.0, "eps_high": 4.0},
        {
            "eps_low": "paper: no lower bound",
            "eps_high": "ScaleRL's raw bound 5 = 1 + 4, TRL's advice; the paper's own value is not public",
        },
        surrogate=surrogate.cispo,
        equation=r"\mathrm{sg}\big(\mathrm{clip}(r_t,1-\varepsilon^-,1+\varepsilon^+)\big)A_t\ln p_t",
        change="The clipped ratio is a weight of the log-likelihood gradient: no token loses its gradient.",
        caveats=("TRL's epsilon_high is the raw bound 5, verl's and ours is the 4 of 1 + 4.",),
    ),
    MethodSpec(
        "ce_gppo", "CE-GPPO", "2509.20712", bounds.constant, {**CONSTANT, "beta_low": 0.75, "beta_high": 1.0},
        {
            **CONSTANT_EVIDENCE, "beta_low": "official 7B script; 1.5B: 0.5, code: 0.25",
            "beta_high": "official scripts",
        },
        surrogate=surrogate.gradient_preserving,
        equation=r"\beta^\pm(1\pm\varepsilon^\pm)\tfrac{r_t}{\mathrm{sg}(r_t)}A_t"
        r"\ \text{where PPO clips, else}\ r_tA_t",
        change="A clipped token keeps a gradient of bounded size.",
        caveats=("β⁻ drives entropy and must be tuned.",), on_policy_grpo=True,
    ),
    MethodSpec(
        "gppo", "GPPO", "2508.07629", bounds.constant,
        {"eps_low": EPS, "eps_high": 0.28, "beta_low": 1.0, "beta_high": 1.0},
        dict.fromkeys(("eps_low", "eps_high", "beta_low", "beta_high"), "official code"),
        surrogate=surrogate.gradient_preserving,
        equation=r"(1\pm\varepsilon^\pm)\tfrac{r_t}{\mathrm{sg}(r_t)}A_t\ \text{where PPO clips, else}\ r_tA_t",
        change="A clipped token keeps the gradient it has at its bound.", on_policy_grpo=True,
    ),
    MethodSpec(
        "steer", "STEER", "2510.10150", bounds.constant,
        {"eps_low": EPS, "eps_high": 0.28, "mapping": "exp", "w_min": 0.8, "w_max": 1.2, "floor": 0.02, "power": 1},
        {
            "eps_low": "official scripts", "eps_high": "official scripts", "mapping": "official scripts: one for each",
            "w_min": "official scripts; the paper's is said to be 0.7", "w_max": "official scripts, mapping='linear'",
            "floor": "official code; not in the paper",
            "power": "official code: p (1 − p), though a variable's name suggests p (1 − p)²",
        },
        weights=weights.entropy_sensitivity, needs=("entropy",),
        equation=rf"w_t\cdot{CLIP_OBJECTIVE},\quad w_t=e^{{-k|\Omega_t|}},\ "
        r"\Omega_t=\tfrac{A_t}{q_t}p_t(1-p_t)(\ln p_t+H_t)",
        change="Tokens whose update would change entropy much weigh less.",
        caveats=("max |Ω| is the mini-batch's: weights depend on its composition.",),
    ),
    MethodSpec(
        "dcpo", "DCPO (clipping)", "2509.02333", bounds.dynamic_adaptive,
        {"eps_low": 0.16, "eps_high": 0.2, "cap": 10.0},
        {
            "eps_low": "official README; run script: 0.2", "eps_high": "official README; run script: 0.28",
            "cap": "official code",
        },
        equation=r"\tfrac12+\tfrac12\sqrt{\max(1-4\varepsilon^-/q,0)}\le r_t\le"
        r"\tfrac12+\tfrac12\sqrt{1+4\varepsilon^+/q}",
        change="Bounds widen as the old probability falls, without a schedule.",
        caveats=("DCPO's clipping alone: its smoothed advantages and its loss averaging are left out.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        "bandpo", "BandPO", "2603.04918", bounds.divergence_ball, {"divergence": "kl", "delta": 0.05, "cap": 10.0},
        {
            "divergence": "paper's main setting", "delta": "second-hand, from the official code",
            "cap": "second-hand, from the official code",
        },
        equation=r"q f(r_t)+(1-q)f\big(\tfrac{1-r_tq}{1-q}\big)\le\delta",
        change="Bounds are where a token's own two-point divergence from the old policy reaches a radius.",
        caveats=("Derived here from the definition; the KL roots take 20 Newton steps per token.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        "clip_b", "Clip_B", "2602.03392", bounds.constant, {**CONSTANT, "mu": 2.5},
        {**CONSTANT_EVIDENCE, "mu": "official code"}, rollout_weights=weights.clip_batch, needs=("old_entropy",),
        equation=rf"w_t\cdot{CLIP_OBJECTIVE},\quad w_t=0\ \text{{if}}\ A_t<0,\ S_t-\bar S<-\mu\,\sigma_S,\ "
        r"S_t=q_t(\ln q_t+H_t)",
        change="Surprising tokens with negative advantage, outliers of the rollout batch, are left out.",
        caveats=(
            "Statistics of the rollout batch where the trainer calls `prepare`, else of the mini-batch.",
            "The official code also leaves the dropped tokens out of the loss's denominator.",
        ),
    ),
    MethodSpec(
        "clip_v", "Clip_V", "2602.03392", bounds.constant, {**CONSTANT, "mu": 8.5, "share": 1e-4, "at_least": 1},
        {
            **CONSTANT_EVIDENCE, "mu": "official configuration (the class default is 2.0)", "share": "official code",
            "at_least": "official code",
        },
        rollout_weights=weights.clip_vocabulary, reduction=baseline, needs=("old_entropy", "old_baseline"),
        equation=rf"w_t\cdot{CLIP_OBJECTIVE},\quad w_t=0\ \text{{if}}\ A_t<0,\ \mathbb E_x[S_x]-S_t>\mu\,\sigma",
        change="As Clip_B, against the token's own expectation over the vocabulary.",
        caveats=("Needs full logits of the sampling policy: an extra pass over the vocabulary per rollout batch.",),
    ),
    MethodSpec(
        "par", "PAR", "2511.05993", bounds.constant,
        {**CONSTANT, "schedule": "entropy", "target": 0.2, "delta": 0.05, "initial": 0.0},
        {
            **CONSTANT_EVIDENCE, "schedule": "the paper's best variant", "delta": "second-hand, from the paper",
            "target": "second-hand, from the paper", "initial": "second-hand, from the paper",
        },
        weights=weights.positive_advantage, controller=controllers.PositiveWeight, keeps="the weight λ",
        equation=rf"w_t\cdot{CLIP_OBJECTIVE},\quad w_t=\lambda\ \text{{if}}\ A_t>0,\ \text{{else}}\ 1",
        change="Positive advantages weigh λ ≤ 1; λ falls while entropy is below a target and rises above it.",
        caveats=("λ starts at 0: the first steps learn from failures alone.",),
    ),
    MethodSpec(
        "thermostat", "Entropy thermostat", "", bounds.thermostat,
        {"eps": 0.6, "target": 0.3, "delta": 0.25, "maximum": 2.5},
        dict.fromkeys(("eps", "target", "delta", "maximum"), "second-hand: four public notes on the report agree"),
        controller=controllers.Relaxation, keeps="the relaxation k",
        equation=r"1-\varepsilon\le r_t\le\tfrac1{1-\varepsilon}+k,\quad "
        r"k\leftarrow\mathrm{clip}(k+\delta\,\mathrm{sign}(H^*-H),0,k_{max})",
        change="Entropy feedback moves the upper bound in steps around a target.",
        caveats=("From notes on the MAI-Thinking-1 report (2026). Its outer clip r ≤ 50 is `dual_clip=50` here.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        "exchange", "Entropy-performance exchange", "2508.02260", bounds.constant,
        {**CONSTANT, "shaping": "perplexity", "alpha": 0.01, "gamma": 0.1, "slope": 1.0},
        {
            **CONSTANT_EVIDENCE, "shaping": "paper: two variants", "alpha": "unverified: not found in public text",
            "gamma": "unverified: not found in public text", "slope": "unverified: not found in public text",
        },
        advantages=weights.exchange,
        equation=r"A_t(1-\alpha z),\ z:\text{standardised log-perplexity};\quad\text{or}\quad "
        r"A_t+\mathrm{sign}(A_t)\,\gamma\,\sigma(\cdot)",
        change="Advantages grow for fluent responses (`perplexity`) or for late tokens (`position`).",
        caveats=("The standardisation is over the rollout batch; whether the paper's is over groups is not known.",),
    ),
    MethodSpec(
        "high_entropy", "80/20", "2506.01939", bounds.constant, {**CONSTANT, "quantile": 0.2},
        {**CONSTANT_EVIDENCE, "quantile": "paper"}, weights=weights.high_entropy, needs=("entropy",),
        equation=rf"w_t\cdot{CLIP_OBJECTIVE},\quad w_t=\mathbb 1[H_t\ \text{{in the top }}20\,\%]",
        change="Only the fifth of the tokens with the highest entropy is trained.",
        caveats=("As in the paper the loss is divided by all tokens, masked or not: the step shrinks with the mask.",),
    ),
    MethodSpec(
        "entropic", "EntroPIC", "2511.15248", bounds.constant,
        {**CONSTANT, "target": 0.1, "proportional": 1.0, "integral": 0.01, "threshold": 0.95},
        {
            **CONSTANT_EVIDENCE, "target": "official script, where entropy is measured at temperature 0.6",
            "proportional": "official script", "integral": "official script", "threshold": "official code",
        },
        extra=extras.confident_token_control, controller=controllers.ProportionalIntegral,
        keeps="α and the integral of the error",
        equation=rf"{CLIP_OBJECTIVE} + \alpha_k\,r_t|A_t|\,\mathbb 1[p_t>0.95],\quad "
        r"\alpha_k=\mathrm{clip}(K_pe_k+K_i\textstyle\sum_{j<k}e_j,-1,1)",
        change="A PI controller pushes confident tokens up or down to hold entropy at a target.",
        caveats=("Officially each worker's controller moves on its own, per micro-batch; here once per rollout step.",),
    ),
)  # fmt: skip

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in _ENTRIES}


def find(name: str) -> MethodSpec:
    """The entry of a method. Raises ValueError, naming the methods, for an unknown name."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; the methods are: {', '.join(METHODS)}")
    return METHODS[name]


def method(chosen: str | MethodSpec, total_steps: int, **options) -> Method:
    """A method for a run of `total_steps` rollout batches, with its defaults overridden by `options`.

    `chosen` is a name of METHODS or an entry of one's own. Raises ValueError for an unknown name or option, naming the
    valid ones.
    """
    return Method(find(chosen) if isinstance(chosen, str) else chosen, total_steps, options)
