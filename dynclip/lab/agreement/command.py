"""The command of the sign-agreement measurement: `python -m dynclip.lab.agreement --help`."""

import argparse
import sys
from pathlib import Path

from dynclip.lab.agreement.measure import label, write_policy, write_random
from dynclip.lab.agreement.page import write_page
from dynclip.runtime.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Measure one source and draw the page of all; a UserError becomes one line and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m dynclip.lab.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/sign-agreement"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw; default: 0")
    parser.add_argument("--states", type=int, default=500, help="random states per setting; default: 500")
    parser.add_argument("--each", type=int, default=16, help="tokens drawn in each random state; default: 16")
    parser.add_argument("--model", help="measure this policy instead of random logits: a folder or a hub id")
    parser.add_argument("--prompts", help="its prompts: a .jsonl file of `dynclip data`, or a benchmark's name")
    parser.add_argument("--name", help="its name in the table; default: MODEL on PROMPTS")
    parser.add_argument("--count", type=int, default=128, help="prompts; default: 128")
    parser.add_argument("--samples", type=int, default=1, help="completions of each prompt; default: 1")
    parser.add_argument("--length", type=int, default=128, help="most tokens of a completion; default: 128")
    options = parser.parse_args(arguments)
    try:
        if (options.model is None) != (options.prompts is None):
            raise UserError("--model and --prompts: expected both or neither; `python -m dynclip.lab.agreement --help`")
        if options.model is None:
            write_random(options.out, options.states, options.each, options.seed)
        else:
            name = options.name or f"{label(options.model)} on {label(options.prompts)}"
            sizes = (options.count, options.samples, options.length, options.seed)
            write_policy(options.out, name, options.model, options.prompts, *sizes)
        write_page(options.out)
    except UserError as error:
        print(f"dynclip: {error}", file=sys.stderr)
        return 2
    return 0
