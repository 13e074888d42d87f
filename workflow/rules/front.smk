rule front:
    input:
        [page for page in CALL.pages if page.endswith(".html")],
    output:
        f"results/{CALL.name}/report.html",
    log:
        f"results/{CALL.name}/logs/front.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        scale=CALL.name,
        overrides=CALL.options,
        code=pipeline.code_of("front"),
    shell:
        "python -m dynclip.cli front --scale {params.scale} {params.overrides} --log {log}"
