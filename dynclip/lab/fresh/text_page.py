"""The page text.md, from the content of text.json."""

from dynclip.lab.fresh.rollouts import LEAST, PERMUTATIONS

REWARDS = {
    "correct": "The reward is 1 for a right answer.",
    "coin": "The reward is a fair coin, because the model solves too few: every token is neutral by construction.",
}
POWER = {
    "correct": "* With so few groups the test has little power: the shares are upper bounds of neutrality. A type may "
    "be decisive in one place and neutral in another.",
    "coin": "* Under the coin these shares only check the estimator. Which tokens decide GSM8K's reward needs a model "
    "that solves some problems, and many groups.",
}


def page(found: dict) -> str:
    """The tables and what they mean."""
    batch, model, limit = found["batch"], found["model"], found["sampling"]["max_tokens"]
    first = next(iter(found["settings"].values()))
    arms, bins = [arm for arm in first["scores"] if arm != "grpo"], [name for name in first["clipped"] if name != "all"]
    lines = [
        "# κ and neutral tokens of real text",
        "",
        f"{model['name']} {stage(model)}, weights {model['sha256'][:12]}, seed {found['seed']}. One "
        "rollout batch of GSM8K's training problems with at most two calculations, sampled at temperature 1: "
        f"{batch['prompts']} prompts × {found['sampling']['group']} completions, {batch['tokens']:,} tokens. "
        f"{percent(batch['ended'])} % of the completions end within {limit} tokens and {percent(batch['right'])} % are "
        f"right. {REWARDS[batch['reward']]} {batch['mixed']} groups ({batch['mixed_tokens']:,} tokens) have different "
        "rewards. Other groups have no advantage and are left out of the updates. What it is for: "
        "[docs/steering.md](../../../docs/steering.md).",
        "",
        "Clipped: below and above GRPO's bounds, % of the tokens with an advantage, mean over the updates; then by the "
        f"probability q under which a token was sampled. Expected: {', '.join(arms)}, in this order.",
        "",
        "| rate, epochs | κ [95 %] | κ / ln 1.2 | explained, % | mean \\|ln r\\| | clipped | "
        f"{' | '.join(bins)} | expected |",
        "|" + " --- |" * (7 + len(bins)),
    ]
    for label, row in found["settings"].items():
        low, high = row["interval"]
        cells = [
            label,
            f"{row['own']:.2g} [{low:.2g}, {high:.2g}]",
            f"{row['own_edge']:.2g}",
            percent(row["explained"]),
        ]
        cells.append(f"{row['moved']:.2g}")
        cells += [f"{percent(each['low'])} + {percent(each['high'])}" for each in row["clipped"].values()]
        cells.append(" ".join(arrow(row["scores"][arm]) for arm in arms))
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Token types, and the share of the tokens (of the entropy) of tested types that is in types whose mean "
        "advantage is not distinguishable from 0, %:",
        "",
        "| types | tested | distinguishable at 5 % | rest | after Benjamini-Hochberg | rest |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in found["neutral"]["shares"].items():
        cells = [name, str(row["types"])]
        for rule in ("5 %", "BH"):
            cells += [str(row[rule]["decided"]), f"{percent(row[rule]['tokens'])} ({percent(row[rule]['entropy'])})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *sentences(found)]) + "\n"


def stage(model: dict) -> str:
    """What was done to the published weights."""
    made = model.get("supervised")
    return f"after a supervised stage of {made['solutions']} solutions" if made else "without a supervised stage"


def sentences(found: dict) -> list[str]:
    """What the tables mean, and what they do not."""
    neutral, seconds = found["neutral"], sum(found["seconds"].values())
    size, covered = found["batch"]["mixed_tokens"] / found["updates"]["minibatches"], neutral["covered"]
    return [
        "* κ is the slope through 0 of ln r on A (1 − 2 q + Σ p²) over the batch, divided by the epochs; brackets: a "
        "bootstrap over the groups, which are few. This fit explains the given share of Σ (ln r)². The rest is "
        "movement that comes from other tokens.",
        "* The rate 1e-6 is the paper's, 5e-6 that of the scale `workstation`. AdamW starts without moments, because "
        "there is one batch. Its first steps are longer than later ones, so κ is rather too large here, most of all "
        "in the rows with one epoch, which are the same runs after their first epoch.",
        f"* A mini-batch is whole groups, {size:,.0f} tokens with an advantage. Training has many more, and a token's "
        "own part of a step is then smaller.",
        "* Expected: ↑ more entropy at neutral places than under GRPO, ↓ less, = no effect. No training has tested it, "
        "and this is one batch with one seed.",
        f"* Tested are the types in at least {LEAST} of the {neutral['completions']} completions, by {PERMUTATIONS:,} "
        f"permutations of the rewards within groups. They hold {percent(covered['tokens'])} % of the tokens and "
        f"{percent(covered['entropy'])} % of the entropy. If every type were neutral, about 5 % would be "
        "distinguishable at 5 %.",
        POWER[found["batch"]["reward"]],
        f"* {seconds / 60:.0f} minutes of one thread on a processor that other work shared.",
    ]


def arrow(score: float) -> str:
    """The sign of a predicted difference; "=" where the bounds touch no own step."""
    return "=" if abs(score) < 1e-9 else "↑" if score > 0 else "↓"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
