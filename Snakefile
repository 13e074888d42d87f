import sys

from snakemake.utils import min_version

from dynclip.cli import pipeline
from dynclip.plan.resources import needs, share_gpus, train_resources
from dynclip.studies.arms import STUDIES

min_version("9.27")
pipeline.prepare_environment()
RUN = pipeline.config_from(config, sys.argv[1:])
RESULTS = f"results/{RUN.name}"
BENCHMARKS = RUN.scale.benchmarks
NEEDS = needs(RUN)
share_gpus(workflow, RUN)


report: "workflow/report/workflow.rst"


wildcard_constraints:
    method=pipeline.method_pattern(),
    seed=r"\d+",
    checkpoint=r"final|step\d+",
    benchmark="|".join(BENCHMARKS),
    study="|".join(STUDIES),


localrules:
    all,
    data,
    launch,
    tables,
    figures,
    page,
    track,
    study,
    track_study,
    claims,
    studies,
    rehearse,


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


onstart:
    pipeline.check_start(
        RUN,
        sys.argv[1:],
        elsewhere=workflow.nodes is not None
        or pipeline.engine_from(config) == "verl",
    )


onsuccess:
    pipeline.print_next_steps(RUN)


rule all:
    default_target: True
    input:
        rules.launch.output
        if pipeline.engine_from(config) == "verl"
        else [*rules.page.output, *rules.track.output],


# With the word `rehearse` on the command line the study is the rehearsal of the scale that is asked for.
rule rehearse:
    input:
        rules.all.input,


rule studies:
    input:
        expand(f"{RESULTS}/studies/{{study}}/tracking.json", study=STUDIES),
        rules.claims.output,


for _name in STUDIES:

    rule:
        name:
            _name
        input:
            f"{RESULTS}/studies/{_name}/tracking.json",
        localrule: True
