# Language models of the hub: one base policy for all seeds, and a job for the evaluation of each checkpoint.
rule warmup:
    input:
        train=rules.data.output.train,
        manifest=rules.data.output.manifest,
    output:
        f"{RESULTS}/base/model.json",
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
        settings=pipeline.settings_of("warmup", RUN),
        code=pipeline.code_of("warmup", RUN),
    shell:
        "python -m dynclip.cli warmup {params.overrides} --log {log}"


# One job scores one checkpoint on all of the scale's benchmarks: the engine starts once.
rule evaluate:
    input:
        model=lambda wildcards: outputs.model_of(RUN, wildcards),
        data=rules.data.output.heldout,
        manifest=rules.data.output.manifest,
    output:
        scores=expand(
            f"{RESULTS}/scores/{{{{method}}}}/seed{{{{seed}}}}/{{{{checkpoint}}}}/{{benchmark}}.json",
            benchmark=BENCHMARKS,
        ),
        samples=expand(
            f"{RESULTS}/samples/{{{{method}}}}/seed{{{{seed}}}}/{{{{checkpoint}}}}/{{benchmark}}.parquet",
            benchmark=BENCHMARKS,
        ),
    log:
        f"{RESULTS}/logs/evaluate/{{method}}-seed{{seed}}-{{checkpoint}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{method}}-seed{{seed}}-{{checkpoint}}.tsv"
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
        settings=pipeline.settings_of("evaluate", RUN),
        code=pipeline.code_of("evaluate", RUN),
    shell:
        "python -m dynclip.cli evaluate {params.overrides} --method {wildcards.method} --seed {wildcards.seed}"
        " --checkpoint {wildcards.checkpoint} --log {log}"
