# The rules of one scale, whose name is config["scale"].
from dynclip.cli import pipeline
from dynclip.plan import outputs
from dynclip.plan.resources import needs, share_gpus, train_resources
from dynclip.studies.arms import STUDIES

RUN = pipeline.call_from(config, []).studies[config["scale"]]
RESULTS = f"results/{RUN.name}"
BENCHMARKS = RUN.scale.benchmarks
NEEDS = needs(RUN)
PRIORITY = pipeline.priority_of(RUN.name)
share_gpus(workflow, RUN)


wildcard_constraints:
    method=pipeline.method_pattern(),
    seed=r"\d+",
    checkpoint=r"final|step\d+",
    benchmark="|".join(BENCHMARKS),
    study="|".join(STUDIES),


include: "rules/data.smk"


if outputs.is_world(RUN):

    include: "rules/worlds.smk"

else:

    include: "rules/hub.smk"


if RUN.scale.trainer == "loop":

    include: "rules/company.smk"

else:

    include: "rules/train.smk"


include: "rules/launch.smk"
include: "rules/report.smk"
