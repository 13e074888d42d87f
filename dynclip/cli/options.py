"""Options that several commands share, checked: the studies of a call, one of each scale, and the arm of a run."""

from argparse import Namespace

from dynclip.runtime.errors import UserError
from dynclip.studies.arms import arm
from dynclip.studies.method_options import SEPARATOR
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import SCALES, SUITES, RunConfig


def scales_of(name: str) -> tuple[str, ...]:
    """The scales of a suite, or the one scale of that name. Raises UserError for an unknown name."""
    if name not in SUITES and name not in SCALES:
        raise UserError(f"unknown scale {name!r}; the scales are: {', '.join((*SUITES, *SCALES))}")
    return SUITES.get(name, (name,))


def resolve_all(scale: str = "laptop", **given) -> dict[str, RunConfig]:
    """Scale -> its checked study, for every scale that `scale` stands for. The other overrides hold for all of them."""
    return {name: resolve(name, **given) for name in scales_of(str(scale))}


def configs_of(options: Namespace) -> dict[str, RunConfig]:
    """Scale -> the checked study of a command's options."""
    settings = {}
    for item in options.set or ():
        name, given, value = item.partition("=")
        if not given:
            raise UserError(f"--set {item}: expected NAME=VALUE, for example --set dual_clip=10")
        settings[name.strip()] = value.strip()
    names = ("scale", "methods", "seeds", "steps", "updates", "force", "options")
    return resolve_all(**{name: getattr(options, name) for name in names}, **settings)


def config_of(options: Namespace) -> RunConfig:
    """The checked study of a command that works on one scale. Raises UserError for a suite of several."""
    configs = configs_of(options)
    if len(configs) > 1:
        raise UserError(f"--scale {options.scale} stands for several scales; give one of them: {', '.join(configs)}")
    return next(iter(configs.values()))


def run_of(options: Namespace) -> str:
    """The arm of --method and --option, by its canonical name; `base` is the untrained policy."""
    if options.method == "base" and not options.option:
        return "base"
    return arm(SEPARATOR.join([options.method, *(options.option or ())])).name
