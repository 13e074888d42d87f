"""The page of a named study."""

from dynclip.report.study_page.page import write_study

__all__ = ["write_study"]
