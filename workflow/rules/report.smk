rule tables:
    input:
        house.run_files(STUDY),
        house.score_files(STUDY),
    output:
        scores=f"{RESULTS}/scores.parquet",
        tables=house.table_files(STUDY),
    log:
        f"{RESULTS}/logs/tables.log",
    conda:
        "../../environment.yml"
    params:
        overrides=STUDY.overrides,
        methods=",".join(STUDY.methods),
        seeds=",".join(map(str, STUDY.seeds)),
        code=house.code_of("tables"),
    shell:
        "python -m dynclip tables {params.overrides} --methods {params.methods} --seeds {params.seeds} > {log} 2>&1"


rule figures:
    input:
        rules.tables.output.scores,
        house.run_files(STUDY),
    output:
        report(
            house.figure_files(STUDY, "svg"),
            category="Figures",
            caption="../report/figure.rst",
        ),
        house.figure_files(STUDY, "png"),
    log:
        f"{RESULTS}/logs/figures.log",
    conda:
        "../../environment.yml"
    params:
        overrides=STUDY.overrides,
        methods=",".join(STUDY.methods),
        seeds=",".join(map(str, STUDY.seeds)),
        code=house.code_of("figures"),
    shell:
        "python -m dynclip figures {params.overrides} --methods {params.methods} --seeds {params.seeds} > {log} 2>&1"


rule page:
    input:
        rules.figures.output,
        rules.tables.output,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/page.log",
    conda:
        "../../environment.yml"
    params:
        overrides=STUDY.overrides,
        methods=",".join(STUDY.methods),
        seeds=",".join(map(str, STUDY.seeds)),
        code=house.code_of("page"),
    shell:
        "python -m dynclip report {params.overrides} --methods {params.methods} --seeds {params.seeds} > {log} 2>&1"


# The single writer of results/mlflow.db. The database is not declared: it belongs to all scales and is never deleted.
rule track:
    input:
        house.run_files(STUDY),
        house.score_files(STUDY),
        rules.figures.output,
    output:
        f"{RESULTS}/tracking.json",
    log:
        f"{RESULTS}/logs/track.log",
    conda:
        "../../environment.yml"
    resources:
        mlflow=1,
    params:
        overrides=STUDY.overrides,
        methods=",".join(STUDY.methods),
        seeds=",".join(map(str, STUDY.seeds)),
        code=house.code_of("track"),
    shell:
        "python -m dynclip track {params.overrides} --methods {params.methods} --seeds {params.seeds} > {log} 2>&1"


rule study:
    input:
        lambda wildcards: house.study_inputs(STUDY, wildcards.study),
    output:
        f"{RESULTS}/studies/{{study}}/README.md",
    log:
        f"{RESULTS}/logs/studies/{{study}}.log",
    conda:
        "../../environment.yml"
    params:
        overrides=STUDY.overrides,
        seeds=",".join(map(str, STUDY.seeds)),
        code=house.code_of("study"),
    shell:
        "python -m dynclip study --name {wildcards.study} {params.overrides} --seeds {params.seeds} > {log} 2>&1"


rule track_study:
    input:
        rules.study.output,
    output:
        f"{RESULTS}/studies/{{study}}/tracking.json",
    log:
        f"{RESULTS}/logs/studies/{{study}}-track.log",
    conda:
        "../../environment.yml"
    resources:
        mlflow=1,
    params:
        overrides=STUDY.overrides,
        seeds=",".join(map(str, STUDY.seeds)),
        code=house.code_of("track"),
    shell:
        "python -m dynclip track --study {wildcards.study} {params.overrides} --seeds {params.seeds} > {log} 2>&1"


rule claims:
    input:
        expand(rules.study.output, study=house.claimed_studies()),
    output:
        f"{RESULTS}/claims.json",
        f"{RESULTS}/claims.md",
    log:
        f"{RESULTS}/logs/claims.log",
    conda:
        "../../environment.yml"
    params:
        overrides=STUDY.overrides,
        seeds=",".join(map(str, STUDY.seeds)),
        code=house.code_of("claims"),
    shell:
        "python -m dynclip claims {params.overrides} --seeds {params.seeds} > {log} 2>&1"
