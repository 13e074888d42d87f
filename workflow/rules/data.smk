rule data:
    output:
        manifest=f"{RESULTS}/data/manifest.json",
        train=f"{RESULTS}/data/train.jsonl",
        heldout=expand(f"{RESULTS}/data/{{benchmark}}.jsonl", benchmark=BENCHMARKS),
    log:
        f"{RESULTS}/logs/data.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        scale=RUN.name,
        settings=pipeline.settings_of("data", RUN),
        code=pipeline.code_of("data"),
    shell:
        "python -m dynclip.cli data --scale {params.scale} --log {log}"
