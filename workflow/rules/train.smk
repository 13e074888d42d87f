# TRL: one job trains one arm with one seed.
# The training state lives in <run>/state, undeclared, so that Snakemake neither deletes it before an attempt nor after a
# failed one: a killed training continues. Declared are only the files that appear when a run is finished.
rule train:
    input:
        base=lambda wildcards: outputs.base_file(RUN, wildcards.seed),
        data=rules.data.output.train,
        manifest=rules.data.output.manifest,
    output:
        metrics=f"{RESULTS}/runs/{{method}}/seed{{seed}}/metrics.jsonl",
        record=f"{RESULTS}/runs/{{method}}/seed{{seed}}/run.json",
        checkpoints=expand(
            f"{RESULTS}/runs/{{{{method}}}}/seed{{{{seed}}}}/checkpoints/step{{step}}/model.json",
            step=sorted(RUN.checkpoints.values()),
        ),
    log:
        f"{RESULTS}/logs/train/{{method}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{method}}-seed{{seed}}.tsv"
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
        settings=pipeline.settings_of("train", RUN),
        method=lambda wildcards: pipeline.method_code(wildcards.method),
        code=pipeline.code_of("train", RUN),
    # exec: a shell in between (bash before 5.1 keeps one) would end at the SIGTERM of a batch system, and the job with it,
    # while the training still writes its checkpoint.
    shell:
        "exec python -m dynclip.cli train {params.overrides} --method {wildcards.method} --seed {wildcards.seed} --log {log}"
