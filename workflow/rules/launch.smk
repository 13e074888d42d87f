# With engine=verl the workflow trains nothing itself: it writes what verl is to be started with.
rule launch:
    input:
        data=rules.data.output,
        base=rules.warmup.output,
    output:
        outputs.launch_files(RUN),
    log:
        f"{RESULTS}/logs/launch.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        overrides=RUN.overrides,
        methods=",".join(RUN.methods),
        seeds=",".join(map(str, RUN.seeds)),
        settings=pipeline.settings_of("train", RUN),
        code=pipeline.code_of("launch"),
    shell:
        "python -m dynclip.cli launch {params.overrides} --methods {params.methods} --seeds {params.seeds} --log {log}"
