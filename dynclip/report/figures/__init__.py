"""The figures of a study, and what all figures of the project share (`plot`)."""

from dynclip.report.figures.study import FIGURES, KINDS, caption, names_of, render, write_figures

__all__ = ["FIGURES", "KINDS", "caption", "names_of", "render", "write_figures"]
