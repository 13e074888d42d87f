# The loop: one job trains all seeds of an arm side by side. Each seed keeps its state in <run>/state, undeclared, so that
# Snakemake deletes it neither before an attempt nor after a failed one: a killed training continues, and a job for more
# seeds trains the missing ones alone. The seeds are no parameters in Snakemake's records, see worlds.smk.
rule train:
    input:
        base=rules.warmup.output,
        data=rules.data.output.train,
        manifest=rules.data.output.manifest,
    output:
        outputs.company_runs(RUN),
    log:
        f"{RESULTS}/logs/train/{{method}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{method}}.tsv"
    priority: PRIORITY
    conda:
        "../../environment.yml"
    threads: NEEDS["train"].threads
    resources:
        **train_resources(RUN),
        mem_mb=NEEDS["train"].memory_mib,
        runtime=lambda wildcards, attempt: NEEDS["train"].limit(attempt),
    params:
        overrides=RUN.overrides,
        seeds=lambda wildcards, output: ",".join(map(str, RUN.seeds)),
        settings=pipeline.settings_of("train", RUN),
        method=lambda wildcards: pipeline.method_code(wildcards.method),
        code=pipeline.code_of("train", RUN),
    # exec: a shell in between (bash before 5.1 keeps one) would end at the SIGTERM of a batch system, and the job with it,
    # while the training still writes its checkpoint.
    shell:
        "exec python -m dynclip.cli train {params.overrides} --method {wildcards.method} --seeds {params.seeds} --log {log}"
