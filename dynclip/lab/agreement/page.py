"""The page of the sign-agreement finding: tables (README.md) and figure, from the files of `measure` alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynclip.lab.agreement.counts import BANDS, H_EDGES, P_EDGES
from dynclip.lab.agreement.measure import FAMILIES, VOCABULARIES
from dynclip.report.figures.plot import COLOURS, STYLE, canvas, files, legend, look
from dynclip.report.tables import markdown_rows
from dynclip.runtime.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LEAST = 30  # tokens: bins with fewer are white in a heat map and left out of curves
MAPPED = "zipf, V = 32000"  # the random logits of the right heat map
CURVES = (MAPPED, "gaussian, V = 32000", "gaussian, V = 64")
# Of neighbouring edges. The lowest bin reaches 0 and is drawn as wide as the others.
RATIO = P_EDGES[3] / P_EDGES[2]
ABSENT = "–"  # in place of a number that was not measured


def write_page(out: Path) -> None:
    """Write README.md and agreement.{svg,png} into `out`, from the measurements in it."""
    policies, random, bins = load(out)
    write_atomic(out / "README.md", page(policies, random))
    for end, content in render(policies, bins).items():
        write_atomic(out / f"agreement.{end}", content)


def load(out: Path) -> "tuple[list[dict], dict | None, pd.DataFrame]":
    """(policies, the random logits or None, the bins of all sources) as measured in `out`."""
    import pandas as pd

    policies = [json.loads(path.read_text()) for path in sorted(out.glob("*.json")) if path.name != "random.json"]
    random = json.loads((out / "random.json").read_text()) if (out / "random.json").exists() else None
    return policies, random, pd.concat([pd.read_csv(path) for path in sorted(out.glob("*.csv"))], ignore_index=True)


def page(policies: list[dict], random: dict | None) -> str:
    """README.md of the folder."""
    parts = [
        "# How often the token-only rule has the exact sign",
        "What it means and how it is made: [docs/regions.md](../../../docs/regions.md). Every number here is computed "
        "from the files in this folder; brackets are 95 % intervals.",
        "![Agreement by probability and entropy](agreement.png)",
    ]
    if policies:
        parts += ["## Policies", policy_table(policies)]
    if random:
        drawn = f"{random['settings']['states']} states of {random['settings']['tokens_per_state']} tokens a cell."
        for draw, how in (("policy", "drawn from the policy itself"), ("uniform", "drawn evenly from the vocabulary")):
            parts += [f"## Random logits, tokens {how}", drawn, random_table(random, draw)]
    return "\n\n".join(parts) + "\n"


def policy_table(policies: list[dict]) -> str:
    """A column per policy: what was measured, with intervals. A row that no policy has is left out."""
    shares = {
        "**sign agrees, % of tokens**": "",
        "… surprisal < H (E1, E3)": "_expected",
        "… surprisal > H (E2, E4)": "_surprising",
        **{f"… {name}": f"_{name}" for name in BANDS},
        **{f"… {region}, by the advantages": f"_{region}" for region in ("E1", "E2", "E3", "E4")},
    }
    rows = {
        "tokens, prompts, ties": lambda p: f"{p['tokens']:,}, {p['clusters']}, {p['ties']}",
        "mean H, nats": lambda p: interval(p["mean_entropy"], 1, 3),
        "surprisal < H, % of tokens": lambda p: interval(p["expected"]),
        **{name: (lambda p, key=key: interval(p.get(f"agree{key}"))) for name, key in shares.items()},
        "sign agrees, % of Σ abs(exact)": lambda p: interval(p["agree_weighted"]),
        "mean of p (ln p + H), 10⁻³": lambda p: interval(p["mean_term"], 1000),
        "mean of p (ln p + H) − B, 10⁻³": lambda p: interval(p["mean_exact"], 1000),
        "mean of −A p (ln p + H), 10⁻³": lambda p: interval(p.get("change_rule"), 1000),
        "mean of −A [p (ln p + H) − B], 10⁻³": lambda p: interval(p.get("change_exact"), 1000),
        "their difference, mean of −A B, 10⁻³": lambda p: interval(p.get("change_baseline"), 1000),
    }
    table = [[name, *map(cell, policies)] for name, cell in rows.items()]
    return markdown_rows(["", *(p["name"] for p in policies)], [row for row in table if set(row[1:]) != {ABSENT}])


def random_table(random: dict, draw: str) -> str:
    """A row per family and scale, a column per vocabulary: % of tokens whose sign agrees, and the mean entropy."""
    cells = {(s["family"], s["scale"], s["vocabulary"]): s for s in random["sources"] if s["draw"] == draw}
    rows = []
    for family, scales in FAMILIES.items():
        for scale in scales:
            found = [cells[family, scale, vocabulary] for vocabulary in VOCABULARIES]
            texts = [f"{interval(s['agree'])} at {s['mean_entropy'][0]:.2f} nats" for s in found]
            rows.append([f"{family} {scale:g}", *texts])
    return markdown_rows(["logits, scale", *(f"V = {vocabulary}" for vocabulary in VOCABULARIES)], rows)


def interval(row: list | None, factor: float = 100, digits: int = 1) -> str:
    """`value [low, high]`, or a dash where nothing was measured."""
    if row is None or row[0] is None:
        return ABSENT
    value, low, high = (f"{factor * part:.{digits}f}" for part in row)
    return f"{value} [{low}, {high}]"


def render(policies: list[dict], bins: "pd.DataFrame") -> dict[str, bytes]:
    """The figure's bytes by format: the same every time."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return files(draw(policies, bins))


def draw(policies: list[dict], bins: "pd.DataFrame") -> "Figure":
    """Top: agreement over p and H, for the policies with the largest vocabulary and for random logits.

    Bottom: agreement by p and by H alone, for every policy and some random logits.
    """
    figure, axes = canvas(8.4, rows=2, columns=2, heights=(1.15, 1))
    largest = max((p["settings"]["vocabulary"] for p in policies), default=0)
    names = [p["name"] for p in policies if p["settings"]["vocabulary"] == largest]
    for ax, title, sources in ((axes[0], "\nand ".join(names), names), (axes[1], f"random: {MAPPED}", [MAPPED])):
        mesh = heat(ax, bins[bins["source"].isin(sources)])
        ax.set_title(title, fontsize=9.5)
        ax.set(xlabel="entropy H of the position, nats")
    axes[0].set_ylabel("probability p of the token")
    figure.colorbar(mesh, ax=[axes[0], axes[1]], label="sign agrees, % of tokens", pad=0.02)
    middles = np.array(P_EDGES[1:]) / np.sqrt(RATIO)
    curves(axes[2], policies, bins, "by_p", "p_high", P_EDGES[1:], middles)
    axes[2].set(xlim=(P_EDGES[1] / RATIO, 1.2), xscale="log")
    axes[2].set(xlabel="probability p of the token", ylabel="sign agrees, % of tokens")
    curves(axes[3], policies, bins, "by_entropy", "entropy_low", H_EDGES[:-1], np.array(H_EDGES[:-1]) + 0.25)
    axes[3].set(xlim=(-0.3, H_EDGES[-1]), xlabel="entropy H of the position, nats")
    legend(figure, axes[3], columns=2, loc="outside lower center", handlelength=3.6, fontsize=9)
    return figure


def heat(ax, bins: "pd.DataFrame"):
    """Draw agreement over (H, p) where there are tokens, and the rule's border p = exp(−H); returns the mesh."""
    share = np.full((len(P_EDGES) - 1, len(H_EDGES) - 1), np.nan)
    for (high, low), (tokens, wrong) in bins.groupby(["p_high", "entropy_low"])[["tokens", "wrong"]].sum().iterrows():
        if tokens >= LEAST:
            share[nearest(P_EDGES[1:], high), nearest(H_EDGES[:-1], low)] = 100 * (1 - wrong / tokens)
    probabilities = (P_EDGES[1] / RATIO, *P_EDGES[1:])
    mesh = ax.pcolormesh(H_EDGES, probabilities, share, cmap="cividis", vmin=0, vmax=100)
    filled = np.argwhere(np.isfinite(share))
    if len(filled):
        ax.set(xlim=(0, H_EDGES[filled[:, 1].max() + 1] + 0.5), ylim=(probabilities[filled[:, 0].min()] / RATIO, 1))
    border = np.array([0, -np.log(probabilities[0])])
    ax.plot(border, np.exp(-border), color=COLOURS[2], dashes=(4, 2), linewidth=1.6, label="p = exp(−H)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.1), fontsize=9, handlelength=2.6)
    ax.set_yscale("log")
    ax.grid(visible=False)
    return mesh


def curves(ax, policies: list[dict], bins: "pd.DataFrame", key: str, column: str, edges: tuple, middles) -> None:
    """Draw agreement by the bins of one axis, at `middles`: policies with intervals as bands, and random logits."""
    lines = {}
    for policy in policies:
        rows = [[100 * value for value in row[1:]] if row[0] >= LEAST else [np.nan] * 3 for row in policy[key]]
        lines[policy["name"]] = np.array(rows).T
    for name in CURVES:
        summed = bins[bins["source"] == name].groupby(column)[["tokens", "wrong"]].sum()
        values = np.full(len(middles), np.nan)
        for edge, (tokens, wrong) in summed.iterrows():
            values[nearest(edges, edge)] = 100 * (1 - wrong / tokens) if tokens >= LEAST else np.nan
        lines[f"random: {name}"] = values[None]
    for number, (name, rows) in enumerate(lines.items()):
        ax.plot(middles, rows[0], **look(number), markersize=4, linewidth=1.4, label=name)
        if len(rows) == 3:
            ax.fill_between(middles, *rows[1:], color=look(number)["color"], alpha=0.15, linewidth=0)
    ax.set_ylim(top=102)


def nearest(edges: tuple, value: float) -> int:
    """The index of the edge that equals `value`, which files hold with six digits."""
    return int(np.argmin(np.abs(np.array(edges) - value)))
