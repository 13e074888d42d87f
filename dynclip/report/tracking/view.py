"""The view that MLflow's interface opens on: charts of the training curves, one line a method.

It is what "Share" writes into an experiment's tags: the state of the page as JSON, opened by a key in the address.
"""

import json

KEY = "dynclip"  # in the address: viewStateShareKey=dynclip
KIND = "dynclip.kind"  # tag of a run: training or summary
TRAINING, SUMMARY = "training", "summary"
CHARTS = (  # metrics, in this order, two charts a row
    "policy/entropy",
    "train/reward",
    "policy/entropy_neutral",
    "eval/pass_at_1",
    "clip/high_fraction",
    "clip/low_fraction",
)
NOTE = """One run is one training: a method and a seed. The run `summary` holds tables, figures, report and studies.

* Charts, a line a method: open the address that `dynclip ui` prints.
* Filters: `tags.method = "id" and params.seed = "0"`, or `tags."study.thresholds" = "yes"` for the runs of a study.
* Runs are copies of `results/`, imported when they are finished. What is changed here is lost with the next import.
"""


def _state() -> dict:
    """The page's state, with the names of MLflow's interface."""
    section = {"uuid": "dynclip", "name": "dynclip", "display": True, "isReordered": True, "columns": 2}
    charts = [
        {
            "type": "LINE", "uuid": f"dynclip-{metric}", "metricSectionId": "dynclip", "metricKey": metric,
            "selectedMetricKeys": [metric], "isGenerated": False, "deleted": False,
            "xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0,
            "useGlobalLineSmoothing": True, "useGlobalXaxisKey": True, "ignoreOutliers": False,
        }
        for metric in CHARTS
    ]  # fmt: skip
    return {
        "searchFilter": f"tags.`{KIND}` = '{TRAINING}'",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "method"}]},
        "runsHiddenMode": "FIRST_20_RUNS",
        "useGroupedValuesInCharts": True,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "compareRunSections": [section],
        "compareRunCharts": charts,
    }


# The kind makes MLflow's interface treat the experiment as training of models, not of agents.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": NOTE,
    f"mlflow.sharedViewState.{KEY}": json.dumps(_state()),
}


def address(server: str, experiment: str) -> str:
    """The address of the view in MLflow's interface at `server`, e.g. http://127.0.0.1:5000."""
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={KEY}"
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?{query}"
