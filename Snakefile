import sys

from snakemake.utils import min_version

from dynclip.runtime.fast_imports import torch_later

with torch_later():
    from dynclip.cli import pipeline
    from dynclip.studies.arms import STUDIES

min_version("9.27")
pipeline.prepare_environment()
CALL = pipeline.call_from(config, sys.argv[1:])


report: "workflow/report/workflow.rst"


# One scale has the rules of workflow/scale.smk under their own names. In a suite each scale is a module with these
# rules, and their names begin with the scale's: facts_train.
if CALL.is_suite:
    for SCALE in CALL.studies:
        PREFIX = f"{SCALE}_"

        module:
            name: SCALE
            snakefile:
                "workflow/scale.smk"
            config:
                {**config, "scale": SCALE}

        use rule * from SCALE as PREFIX*

    include: "workflow/rules/front.smk"

else:
    config["scale"] = CALL.name

    include: "workflow/scale.smk"


onstart:
    # Snakemake 9.27 looks at all waiting jobs again every second, and once more a second for each job that has ended: a
    # quarter of a core after 30 jobs. The timers are those of its limit of 100 starts a second, which we do not need.
    workflow.scheduler.job_rate_limiter = None
    pipeline.check_start(CALL, sys.argv[1:], elsewhere=workflow.nodes is not None)


onsuccess:
    pipeline.print_next_steps(CALL)


rule all:
    default_target: True
    input:
        CALL.results,
    localrule: True


# With the word `rehearse` on the command line the study is the rehearsal of the scale that is asked for.
rule rehearse:
    input:
        CALL.results,
    localrule: True


rule studies:
    input:
        CALL.study_files(STUDIES),
        CALL.claims_files(),
    localrule: True


for _name in STUDIES:

    rule:
        name:
            _name
        input:
            CALL.study_files([_name]),
        localrule: True
