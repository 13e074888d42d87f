"""Measures the map, the predictor's test grid, tiny language models and the methods' curves; writes tables and figures.

    python -m dynclip.lab.fresh --out results/reference/steering
    python -m dynclip.lab.fresh --out results/reference/steering --part sizes --size 0.5M

A killed call goes on where it stopped. `--page` writes tables and figures from the existing files.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dynclip.lab.fresh.curves import measure_curves
from dynclip.lab.fresh.language import SIZES, measure_language, measure_sizes
from dynclip.lab.fresh.measure import measure_grid
from dynclip.lab.fresh.page import LATER, write_page
from dynclip.runtime.files import write_json
from dynclip.runtime.provenance import code_digest, environment

PARTS: dict[str, Callable[[Path, int], None]] = {
    "train": lambda out, processes: measure_grid("train", out, processes),
    "test": lambda out, processes: measure_grid("test", out, processes),
    "language": measure_language,
    "curves": measure_curves,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure the parts without files, then write tables and figures."""
    parser = argparse.ArgumentParser(prog="python -m dynclip.lab.fresh", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/steering"), help="default: %(default)s")
    parser.add_argument("--figures", type=Path, help="where figures go; default: OUT")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="default: one per core")
    parser.add_argument("--page", action="store_true", help="only make tables and figures from existing files")
    parser.add_argument("--part", choices=[*PARTS, "sizes"], help="measure only this; default: all but sizes")
    parser.add_argument("--size", action="append", choices=list(SIZES), help="of part sizes, repeatable; default: all")
    options = parser.parse_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes: expected at least 1, given {options.processes}")
    if options.size and options.part != "sizes":
        parser.error("--size: only with --part sizes")
    parts = () if options.page else (options.part,) if options.part else PARTS
    for part in parts:
        if part != "sizes" and (options.out / f"cells-{part}.csv").exists():
            continue
        began = time.perf_counter()
        if part == "sizes":
            measure_sizes(options.out, options.processes, options.size or list(SIZES))
        else:
            PARTS[part](options.out, options.processes)
        about = {"seconds": round(time.perf_counter() - began), "code": code_digest("dynclip.lab.fresh.__main__:PARTS")}
        write_json(options.out / f"about-{part}.json", about | environment())
    needed = [f"cells-{part}.csv" for part in PARTS if part not in LATER]
    missing = [name for name in needed if not (options.out / name).exists()]
    if options.page and missing:
        parser.error(f"{options.out} has no {missing[0]}; run without --page to measure it")
    if not missing:
        write_page(options.out, options.figures or options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
