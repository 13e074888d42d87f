rule data:
    output:
        manifest=f"{RESULTS}/data/manifest.json",
        train=f"{RESULTS}/data/train.jsonl",
        heldout=expand(f"{RESULTS}/data/{{benchmark}}.jsonl", benchmark=BENCHMARKS),
    log:
        f"{RESULTS}/logs/data.log",
    conda:
        "../../environment.yml"
    params:
        scale=RUN.name,
        settings=pipeline.settings_of("data", RUN),
        code=pipeline.code_of("data"),
    shell:
        "python -m dynclip.cli data --scale {params.scale} > {log} 2>&1"


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
