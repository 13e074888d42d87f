import sys

from snakemake.utils import min_version

from dynclip import workflow as house

min_version("9.27")
house.prepare_environment()
STUDY = house.study_from(config, sys.argv[1:])
RESULTS = f"results/{STUDY.name}"
BENCHMARKS = STUDY.scale.benchmarks


report: "workflow/report/workflow.rst"


wildcard_constraints:
    method="|".join(house.method_names()),
    seed=r"\d+",
    checkpoint=r"final|step\d+",
    benchmark="|".join(BENCHMARKS),


localrules:
    all,
    data,
    tables,
    figures,
    page,
    track,


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


onstart:
    house.check_start(STUDY)


onsuccess:
    house.say_goodbye(STUDY)


rule all:
    default_target: True
    input:
        rules.page.output,
        rules.track.output,
