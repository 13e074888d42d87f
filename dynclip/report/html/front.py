"""results/<suite>/report.html: the front page of a suite of scales. Question, answers, curves, one table, links."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from dynclip.report.evidence import Evidence, load_evidence
from dynclip.report.figures.plot import STYLE, files
from dynclip.report.html.answers import TABLE_NOTE, details, main_table, summary, summary_of_suite
from dynclip.report.html.charts import chart_data
from dynclip.report.html.front_figure import CAPTION, ROW_CAPTION, entropy_row, front_figure
from dynclip.report.html.page import image, render_page
from dynclip.report.records import published
from dynclip.runtime.files import write_atomic
from dynclip.studies.scales import SCALES

QUESTION = (
    "Does the entropy of a policy collapse when it is trained with GRPO, and do bounds on the importance ratio that "
    "depend on the token's probability change that, or what the policy solves?"
)
POINTS = 60  # of a curve, which is narrow here


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
    written = [write_atomic(out / f"front.{form}", content) for form, content in drawn.items()]
    written.append(write_atomic(out / "report.html", front_page(suite, worlds, drawn["svg"])))
    return published(out, "front", written)[-1]


def front_page(suite: str, worlds: Sequence[Evidence], figure: bytes) -> str:
    """The text of a suite's front page. figure: `front_figure` as SVG."""
    with matplotlib.rc_context(STYLE):
        first = files(entropy_row(worlds), formats=("svg",))["svg"]
    return render_page(
        "front.html",
        title=f"dynclip · {suite}",
        question=QUESTION,
        summary=summary_of_suite(worlds),
        figure=image(first),
        caption=ROW_CAPTION,
        curves=chart_data(worlds, POINTS),
        main=main_table(worlds),
        table_note=TABLE_NOTE,
        worlds=[
            {"name": world.scale, "about": about(world.scale), "answers": [*summary(world), *details(world)]}
            for world in worlds
        ],
        whole_figure=image(figure),
        whole_caption=CAPTION,
    )


def about(scale: str) -> str:
    """The title of a scale, or "" for a name that is no scale."""
    return SCALES[scale].title if scale in SCALES else ""


def _of(given, scale: str):
    return given[scale] if isinstance(given, Mapping) else given
