"""dynclip: entropy control by dynamic clipping in RL with verifiable rewards.

The names below are loaded on first use, so that packages that need no torch never import it.
"""

from importlib import import_module

_HOMES = {
    "METHODS": "dynclip.methods.registry",
    "Method": "dynclip.methods.objective",
    "MethodSpec": "dynclip.methods.spec",
    "method": "dynclip.methods.registry",
    "LossOutput": "dynclip.methods.objective",
    "TokenBatch": "dynclip.methods.types",
    "regions": "dynclip.regions",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'dynclip' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return home if name == "regions" else getattr(home, name)
