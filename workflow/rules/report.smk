# A scale's tables, figures and MLflow runs come before the trainings of other scales, so that no core waits at the end.
rule tables:
    input:
        outputs.run_files(RUN),
        outputs.score_files(RUN),
    output:
        scores=f"{RESULTS}/scores.parquet",
        tables=pipeline.table_files(RUN),
    log:
        f"{RESULTS}/logs/tables.log",
    priority: 10
    localrule: True
    conda:
        "../../environment.yml"
    params:
        overrides=RUN.overrides,
        methods=",".join(RUN.methods),
        seeds=",".join(map(str, RUN.seeds)),
        code=pipeline.code_of("tables"),
    shell:
        "python -m dynclip.cli tables {params.overrides} --methods {params.methods} --seeds {params.seeds} --log {log}"


rule figures:
    input:
        rules.tables.output.scores,
        outputs.run_files(RUN),
    output:
        report(
            pipeline.figure_files(RUN, "svg"),
            category="Figures",
            caption="../report/figure.rst",
        ),
        pipeline.figure_files(RUN, "png"),
    log:
        f"{RESULTS}/logs/figures.log",
    priority: 10
    localrule: True
    conda:
        "../../environment.yml"
    params:
        overrides=RUN.overrides,
        methods=",".join(RUN.methods),
        seeds=",".join(map(str, RUN.seeds)),
        code=pipeline.code_of("figures"),
    shell:
        "python -m dynclip.cli figures {params.overrides} --methods {params.methods} --seeds {params.seeds} --log {log}"


rule page:
    input:
        rules.figures.output,
        rules.tables.output,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/page.log",
    priority: 10
    localrule: True
    conda:
        "../../environment.yml"
    params:
        overrides=RUN.overrides,
        methods=",".join(RUN.methods),
        seeds=",".join(map(str, RUN.seeds)),
        code=pipeline.code_of("page"),
    shell:
        "python -m dynclip.cli report {params.overrides} --methods {params.methods} --seeds {params.seeds} --log {log}"


# The single writer of results/mlflow.db. The database is not declared: it belongs to all scales and is never deleted.
rule track:
    input:
        outputs.run_files(RUN),
        outputs.score_files(RUN),
        rules.figures.output,
        rules.page.output,
    output:
        f"{RESULTS}/tracking.json",
    log:
        f"{RESULTS}/logs/track.log",
    priority: 10
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mlflow=1,
    params:
        overrides=RUN.overrides,
        methods=",".join(RUN.methods),
        seeds=",".join(map(str, RUN.seeds)),
        code=pipeline.code_of("track"),
    shell:
        "python -m dynclip.cli track {params.overrides} --methods {params.methods} --seeds {params.seeds} --log {log}"


# The signs are measured by sampling every checkpoint: a job with the evaluation's resources, not a table's.
rule agreement:
    input:
        lambda wildcards: pipeline.sign_inputs(RUN, wildcards.study),
        f"{RESULTS}/data/train.jsonl",
    output:
        f"{RESULTS}/studies/{{study}}/signs.json",
    log:
        f"{RESULTS}/logs/studies/{{study}}-signs.log",
    conda:
        "../../environment.yml"
    threads: NEEDS["evaluate"].threads
    resources:
        gpu=NEEDS["evaluate"].gpus,
        mem_mb=NEEDS["evaluate"].memory_mib,
        runtime=lambda wildcards, attempt: NEEDS["evaluate"].limit(attempt),
        nodes=1,
    params:
        scale=RUN.name,
        method=lambda wildcards: pipeline.sign_runs(RUN, wildcards.study)[0],
        seeds=lambda wildcards: ",".join(
            map(str, pipeline.sign_runs(RUN, wildcards.study)[1])
        ),
        code=pipeline.code_of("agreement"),
    shell:
        "python -m dynclip.lab.agreement.checkpoints --scale {params.scale} --method {params.method}"
        " --seeds {params.seeds} --out {output} > {log} 2>&1"


rule study:
    input:
        lambda wildcards: pipeline.study_inputs(RUN, wildcards.study),
    output:
        f"{RESULTS}/studies/{{study}}/README.md",
    log:
        f"{RESULTS}/logs/studies/{{study}}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        overrides=RUN.overrides,
        seeds=",".join(map(str, RUN.seeds)),
        code=pipeline.code_of("study"),
    shell:
        "python -m dynclip.cli study --name {wildcards.study} {params.overrides} --seeds {params.seeds} --log {log}"


rule track_study:
    input:
        rules.study.output,
    output:
        f"{RESULTS}/studies/{{study}}/tracking.json",
    log:
        f"{RESULTS}/logs/studies/{{study}}-track.log",
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mlflow=1,
    params:
        overrides=RUN.overrides,
        seeds=",".join(map(str, RUN.seeds)),
        code=pipeline.code_of("track"),
    shell:
        "python -m dynclip.cli track --study {wildcards.study} {params.overrides} --seeds {params.seeds} --log {log}"


rule claims:
    input:
        expand(rules.study.output, study=pipeline.claimed_studies()),
    output:
        f"{RESULTS}/claims.json",
        f"{RESULTS}/claims.md",
    log:
        f"{RESULTS}/logs/claims.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        overrides=RUN.overrides,
        seeds=",".join(map(str, RUN.seeds)),
        code=pipeline.code_of("claims"),
    shell:
        "python -m dynclip.cli claims {params.overrides} --seeds {params.seeds} --log {log}"
