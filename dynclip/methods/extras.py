"""Terms added to the per-token loss, and the methods that use them. All return (B, T).

The run aggregates them as it aggregates the policy loss, so a coefficient has the same meaning in every method of a
run. Its meaning depends on the aggregation (docs/peers.md).
"""

import torch

from dynclip.methods import controllers
from dynclip.methods.bounds import CLIPPED, PPO, PPO_SOURCE, constant, unbounded
from dynclip.methods.spec import MethodSpec
from dynclip.methods.surrogate import unclipped
from dynclip.methods.types import Tokens
from dynclip.methods.vocabulary import clamped_entropy
from dynclip.methods.weights import covariance


def entropy_bonus(tokens: Tokens, *, coefficient: float) -> torch.Tensor:
    """−c H_t (A3C, arXiv 1602.01783; "Ent-Reg" in arXiv 2602.09782)."""
    return -coefficient * tokens.entropy


def steered_entropy_bonus(tokens: Tokens) -> torch.Tensor:
    """−c H_t with the controller's coefficient c."""
    return -tokens.clock.state * tokens.entropy


def hard_prompt_entropy_bonus(tokens: Tokens, *, solved: float) -> torch.Tensor:
    """−c H_t with the controller's c, where the prompt's group is correct less often than `solved`."""
    return -tokens.clock.state * tokens.entropy * (tokens.success < solved)


def clamped_entropy_bonus(tokens: Tokens) -> torch.Tensor:
    """−c H̃_t with the controller's c and the entropy H̃ of the likelier part of the vocabulary (arXiv 2509.03493)."""
    return -tokens.clock.state * tokens.clamped_entropy


def covariance_penalty(tokens: Tokens, *, share: float, coefficient: float) -> torch.Tensor:
    """KL-Cov (arXiv 2505.22617): c |ln p − ln q| on the max(1, int(share · N)) tokens with the greatest covariance."""
    penalty = coefficient * tokens.log_ratio.abs()
    with torch.no_grad():
        count = int(tokens.mask.sum())
        quota = min(max(1, int(share * count)), count)
        ranked = covariance(tokens).masked_fill(~tokens.mask, -torch.inf).flatten()
        chosen = torch.zeros_like(ranked)
        chosen[ranked.topk(quota).indices] = 1.0
    return penalty * chosen.view_as(penalty)


def confident_token_control(tokens: Tokens, *, threshold: float) -> torch.Tensor:
    """EntroPIC (arXiv 2511.15248): −α r |A| on tokens with p > `threshold`, with the controller's signal α.

    α > 0 (entropy above its target) pushes confident tokens up whatever their advantage. α < 0 pushes them down. As in
    the official code the term is a mean over the confident tokens, so each is scaled by N over their number.
    """
    with torch.no_grad():
        confident = (tokens.logprob.exp() > threshold) & tokens.mask
        scale = tokens.mask.sum() / confident.sum().clamp(min=1)
    return -tokens.clock.state * scale * tokens.ratio * tokens.advantages.abs() * confident


METHODS = (
    MethodSpec(
        name="ent_reg",
        title="Ent-Reg",
        arxiv="1602.01783",
        bounds=constant,
        extra=entropy_bonus,
        needs=("entropy_gradient",),
        defaults={**PPO, "coefficient": 1e-3},
        evidence={**PPO_SOURCE, "coefficient": "ours: 1e-3 to 1e-2 is common, the paper's is not disclosed"},
        equation=rf"{CLIPPED} + c\,H_t",
        change="An entropy bonus with a fixed coefficient.",
        shipped=("TRL", "verl", "SkyRL", "Trinity"),
        caveats=("It is very sensitive to c. Entropy explosions are reported for 1e-3 and more in long runs.",),
    ),
    MethodSpec(
        name="adaptive_entropy",
        title="Adaptive entropy",
        arxiv="2505.22312",
        bounds=constant,
        extra=steered_entropy_bonus,
        controller=controllers.AdaptiveCoefficient,
        needs=("entropy_gradient",),
        defaults={**PPO, "target": 0.2, "delta": 1e-4, "minimum": 0.0, "maximum": 0.005, "initial": 0.0},
        evidence={
            **PPO_SOURCE,
            "target": "official scripts",
            "delta": "official scripts; TRL: 0.005",
            "minimum": "official scripts",
            "maximum": "official scripts; TRL: 1",
            "initial": "official scripts",
        },
        equation=rf"{CLIPPED} + c_k\,\mathbb 1[H_{{k-1}}<H^*]\,H_t,\quad "
        r"c_k=\mathrm{clip}(c_{k-1}\pm\mathtt{delta})",
        change="An entropy bonus grows at entropy below a target. Above it there is no bonus.",
        shipped=("TRL",),
        keeps="the coefficient and whether it acts",
        caveats=(
            "It acts one rollout step after the entropy that it saw, as in the official code.",
            "TRL moves its coefficient at every optimizer step, with other constants.",
            "The official code observes −mean ln q of the sampled tokens. Here it is the full entropy.",
        ),
    ),
    MethodSpec(
        name="aer",
        title="AER (style)",
        arxiv="2510.10959",
        bounds=constant,
        extra=hard_prompt_entropy_bonus,
        controller=controllers.TrackingCoefficient,
        needs=("entropy_gradient", "success"),
        defaults={**PPO, "fraction": 0.5, "eta": 0.005, "maximum": 0.05, "solved": 0.5},
        evidence={
            **PPO_SOURCE,
            "fraction": "ours: not public",
            "eta": "ours: not public",
            "maximum": "ours: not public",
            "solved": "ours: not public",
        },
        equation=rf"{CLIPPED} + c_k\,\mathbb 1[\mathrm{{acc}}_g<\mathtt{{solved}}]\,H_t,\quad "
        r"c_{k+1}=\mathrm{clip}(c_k+\eta(\mathtt{fraction}\cdot H_0-H_k),0,c_{max})",
        change="Only hard prompts get an entropy bonus. Its coefficient tracks a share of the initial entropy.",
        keeps="the coefficient and the initial entropy",
        caveats=("In the style of AER: its formulas and constants are not public, so all numbers here are ours.",),
    ),
    MethodSpec(
        name="aent",
        title="AEnt",
        arxiv="2509.03493",
        bounds=constant,
        extra=clamped_entropy_bonus,
        reduction=clamped_entropy,
        controller=controllers.BandCoefficient,
        observes="clamped_entropy",
        needs=("clamped_entropy",),
        defaults={
            **PPO,
            "clamp": 0.4,
            "initial": 2e-4,
            "band": (0.05, 0.23),
            "eta": 1e-3,
            "minimum": 1e-5,
            "maximum": 3e-3,
        },
        evidence={
            **PPO_SOURCE,
            **dict.fromkeys(("clamp", "initial", "band", "eta", "minimum", "maximum"), "official AReaL configuration"),
        },
        equation=rf"{CLIPPED} + c_k\,\tilde H_t,\quad "
        r"\tilde H:\ \text{of the likeliest }(1-\mathtt{clamp})V\text{ tokens}",
        change="A bonus for the entropy of likely tokens of the vocabulary. "
        "Its coefficient keeps that entropy in a band.",
        keeps="the coefficient",
        caveats=(
            "It needs full logits with gradient: an extra pass over the vocabulary.",
            "The official configuration starts the controller after 29 steps of warm-up. Here it starts at once.",
        ),
    ),
    MethodSpec(
        name="kl_cov",
        title="KL-Cov",
        arxiv="2505.22617",
        bounds=unbounded,
        over_batch=True,
        surrogate=unclipped,
        extra=covariance_penalty,
        defaults={"share": 2e-3, "coefficient": 1.0},
        evidence={"share": "official code, 7B (0.2 %); 32B: 0.02 %", "coefficient": "official code"},
        equation=r"r_tA_t - c\,|\ln p_t-\ln q_t|\ \mathbb 1[t\in\text{top share by covariance}]",
        change="The tokens of highest covariance pay for |ln r|. Nothing is clipped.",
        shipped=("verl", "SkyRL"),
        caveats=("verl's defaults differ: a tenth of the share (the 32B value) and of the coefficient.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="entropic",
        title="EntroPIC",
        arxiv="2511.15248",
        bounds=constant,
        over_batch=True,
        extra=confident_token_control,
        controller=controllers.ProportionalIntegral,
        defaults={**PPO, "target": 0.1, "proportional": 1.0, "integral": 0.01, "threshold": 0.95},
        evidence={
            **PPO_SOURCE,
            "target": "official script, where entropy is measured at temperature 0.6",
            "proportional": "official script",
            "integral": "official script",
            "threshold": "official code",
        },
        equation=rf"{CLIPPED} + \alpha_k\,r_t|A_t|\,\mathbb 1[p_t>0.95],\quad "
        r"\alpha_k=\mathrm{clip}(K_pe_k+K_i\textstyle\sum_{j<k}e_j,-1,1)",
        change="A PI controller pushes confident tokens up or down. "
        "The error that it removes is entropy minus a target.",
        keeps="α and the integral of the error",
        caveats=(
            "Officially each worker moves its own controller per micro-batch. Here it moves once per rollout step.",
        ),
    ),
)
