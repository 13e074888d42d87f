# Synthetic worlds: a base policy for each seed, made by one job, and one job for all evaluations of an arm.
# The seeds of a job are no parameters in Snakemake's records, because the function takes `output`: files that are there
# stay valid when a call names more or fewer seeds.
rule warmup:
    input:
        train=rules.data.output.train,
        manifest=rules.data.output.manifest,
    output:
        outputs.base_files(RUN),
    log:
        f"{RESULTS}/logs/warmup.log",
    benchmark:
        f"{RESULTS}/benchmarks/warmup.tsv"
    priority: PRIORITY
    conda:
        "../../environment.yml"
    threads: NEEDS["warmup"].threads
    resources:
        gpu=NEEDS["warmup"].gpus,
        mem_mb=NEEDS["warmup"].memory_mib,
        runtime=lambda wildcards, attempt: NEEDS["warmup"].limit(attempt),
        nodes=1,
    params:
        overrides=RUN.overrides,
        seeds=lambda wildcards, output: ",".join(map(str, RUN.seeds)),
        settings=pipeline.settings_of("warmup", RUN),
        code=pipeline.code_of("warmup", RUN),
    shell:
        "python -m dynclip.cli warmup {params.overrides} --seeds {params.seeds} --log {log}"


rule evaluate:
    input:
        models=lambda wildcards: outputs.models_of(RUN, wildcards.method),
        data=rules.data.output.heldout,
        manifest=rules.data.output.manifest,
    output:
        scores=outputs.company_scores(RUN, "scores"),
        samples=outputs.company_scores(RUN, "samples"),
    log:
        f"{RESULTS}/logs/evaluate/{{method}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{method}}.tsv"
    wildcard_constraints:
        method=pipeline.arm_pattern(),
    priority: PRIORITY
    conda:
        "../../environment.yml"
    threads: NEEDS["evaluate"].threads
    resources:
        gpu=NEEDS["evaluate"].gpus,
        mem_mb=NEEDS["evaluate"].memory_mib,
        runtime=lambda wildcards, attempt: NEEDS["evaluate"].limit(attempt),
        nodes=1,
    params:
        overrides=RUN.overrides,
        method=lambda wildcards: wildcards.method,
        seeds=lambda wildcards, output: ",".join(map(str, RUN.seeds)),
        settings=pipeline.settings_of("evaluate", RUN),
        code=pipeline.code_of("evaluate", RUN),
    shell:
        "python -m dynclip.cli evaluate {params.overrides} --method {params.method} --seeds {params.seeds} --log {log}"


# The base policies have one checkpoint each.
use rule evaluate as evaluate_base with:
    input:
        models=rules.warmup.output,
        data=rules.data.output.heldout,
        manifest=rules.data.output.manifest,
    output:
        scores=outputs.base_scores(RUN, "scores"),
        samples=outputs.base_scores(RUN, "samples"),
    log:
        f"{RESULTS}/logs/evaluate/base.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/base.tsv"
    params:
        overrides=RUN.overrides,
        method="base",
        seeds=lambda wildcards, output: ",".join(map(str, RUN.seeds)),
        settings=pipeline.settings_of("evaluate", RUN),
        code=pipeline.code_of("evaluate", RUN),
