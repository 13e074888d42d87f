"""results/<suite>/report.html: the front page of a suite of scales. Question, answers, one figure, one table, links."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from dynclip.report.comparisons import seed_means
from dynclip.report.evidence import BASE, Evidence, load_evidence
from dynclip.report.figures.plot import STYLE, files
from dynclip.report.html.answers import ENTROPY, answers, end_scores, fall, interval
from dynclip.report.html.front_figure import CAPTION, front_figure
from dynclip.report.html.style import HEAD, image, render_page
from dynclip.runtime.files import write_atomic
from dynclip.studies.scales import SCALES
from evals.stats import mean_interval

QUESTION = (
    "Does the entropy of a policy collapse when it is trained with GRPO, and do bounds on the importance ratio that "
    "depend on the token's probability change that, or what the policy solves?"
)
COLUMNS = ("entropy left, %", "pass@1, %", "difference, pt", "seeds")
NOTE = (
    "Mean over training seeds [95 % t interval]. Entropy left: mean over the last 5 % of the rollout steps (at least "
    "3), in per cent of the first step's. pass@1: held-out problems, last checkpoint. Difference: pass@1 minus the "
    "baseline's, paired by seed; bold where it is decided after Holm's correction over the methods of a scale."
)
TEMPLATE = (
    HEAD
    + """\
<style>body { max-width: 78rem; } section { margin: 1.4rem 0; } section h3 { margin: 0 0 .3rem; }
p, li { max-width: 62rem; }
figcaption { max-width: 62rem; } th[colspan] { border-bottom: 1px solid var(--line); } td { white-space: nowrap; }
.question { font-size: 1.1rem; }</style>
<h1>{{ title }}</h1>
<p class="question">{{ question }}</p>
{% for world in worlds %}
<section><h3>{{ world.name }} <span class="soft">{{ world.about }}</span></h3><ul>
{% for sentence in world.answers %}<li>{{ sentence }}</li>
{% endfor %}</ul></section>
{% endfor %}
<figure><img alt="{{ caption }}" src="{{ figure }}"><figcaption>{{ caption }}</figcaption></figure>
{{ heading("Table") }}
<div class="wide"><table><thead><tr><th></th>
{% for world in worlds %}<th colspan="{{ columns | length }}">{{ world.name }}</th>{% endfor %}
</tr><tr><th>method</th>
{% for world in worlds %}{% for column in columns %}<th>{{ column }}</th>{% endfor %}{% endfor %}
</tr></thead><tbody>
{% for method, cells in rows.items() %}
<tr><td>{{ method }}</td>{% for cell in cells %}<td>
{% if cell.decided %}<b>{{ cell.text | unbroken }}</b>{% else %}{{ cell.text | unbroken }}{% endif %}
</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div><p class="note">{{ note }}</p>
{{ heading("Reports") }}
<ul>{% for world in worlds %}<li><a href="../{{ world.name }}/report.html">{{ world.name }}</a>: {{ world.about }}</li>
{% endfor %}</ul>
</body></html>
"""
)


@dataclass(frozen=True)
class Cell:
    """A cell of the table. decided: it is a difference that is shown."""

    text: str
    decided: bool = False


def write_front(
    results: Path | str,
    suite: str,
    scales: Sequence[str],
    methods: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    seeds: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write `results`/<suite>/report.html and front.{svg,png} from the verified runs of `results`/<scale>.

    methods, seeds: those of every scale, a mapping from scales to them, or None for all that are there. Returns the
    path of the page. Raises UserError for damaged or missing files.
    """
    worlds = [load_evidence(Path(results) / name, _of(methods, name), _of(seeds, name)) for name in scales]
    out = Path(results) / suite
    with matplotlib.rc_context(STYLE):
        drawn = files(front_figure(worlds))
    for form, content in drawn.items():
        write_atomic(out / f"front.{form}", content)
    page = render_page(
        TEMPLATE,
        title=f"dynclip · {suite}",
        question=QUESTION,
        worlds=[{"name": w.scale, "about": about(w.scale), "answers": answers(w)} for w in worlds],
        caption=CAPTION,
        figure=image(drawn["svg"]),
        columns=COLUMNS,
        rows=table(worlds),
        note=NOTE,
    )
    return write_atomic(out / "report.html", page + "\n")


def about(scale: str) -> str:
    """The title of a scale, or "" for a name that is no scale."""
    return SCALES[scale].title if scale in SCALES else ""


def table(worlds: Sequence[Evidence]) -> dict[str, list[Cell]]:
    """Method -> its cells, the columns COLUMNS for each world. The first row is the policy before training."""
    methods = dict.fromkeys(method for world in worlds for method in world.methods)
    rows: dict[str, list[Cell]] = {"before training": [], **{method: [] for method in methods}}
    for world in worlds:
        gaps = {gap.a: gap for gap in end_scores(world)} if world.benchmarks else {}
        for method in (BASE, *methods):
            means = seed_means(world, world.benchmarks[0], method) if world.benchmarks else {}
            score, gap = mean_interval(list(means.values())), gaps.get(method)
            left = fall(world.curves(ENTROPY, method)).left
            rows["before training" if method == BASE else method] += [
                Cell("100" if method == BASE else interval(left, 1)),
                Cell(interval(score, 1)),
                Cell("–") if gap is None else Cell(gap.text.replace(" pt", ""), gap.claim),
                Cell(str(score.n if method == BASE else max(score.n, left.n))),
            ]
    return rows


def _of(given, scale: str):
    return given[scale] if isinstance(given, Mapping) else given
