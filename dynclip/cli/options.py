"""The options that most commands share, as a checked study."""

from dynclip.runtime.errors import UserError


def study_of(options):
    """The checked study of a command's options."""
    from dynclip.studies.overrides import resolve

    settings = {}
    for item in options.set or ():
        name, given, value = item.partition("=")
        if not given:
            raise UserError(f"--set {item}: expected NAME=VALUE, for example --set dual_clip=10")
        settings[name.strip()] = value.strip()
    basic = (options.scale, options.methods, options.seeds, options.steps, options.updates, options.force)
    return resolve(*basic, **settings)
