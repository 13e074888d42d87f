"""Options that several commands share, checked: the study and the arm of a run."""

from argparse import Namespace

from dynclip.runtime.errors import UserError
from dynclip.studies.arms import arm
from dynclip.studies.method_options import SEPARATOR
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import RunConfig


def config_of(options: Namespace) -> RunConfig:
    """The checked study of a command's options."""
    settings = {}
    for item in options.set or ():
        name, given, value = item.partition("=")
        if not given:
            raise UserError(f"--set {item}: expected NAME=VALUE, for example --set dual_clip=10")
        settings[name.strip()] = value.strip()
    names = ("scale", "methods", "seeds", "steps", "updates", "force", "options")
    return resolve(**{name: getattr(options, name) for name in names}, **settings)


def run_of(options: Namespace) -> str:
    """The arm of --method and --option, by its canonical name; `base` is the untrained policy."""
    if options.method == "base" and not options.option:
        return "base"
    return arm(SEPARATOR.join([options.method, *(options.option or ())])).name
