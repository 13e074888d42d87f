"""The HTML pages: the report of a scale and the front page of a suite of scales."""

from dynclip.report.html.front import write_front
from dynclip.report.html.report import write_report

__all__ = ["write_front", "write_report"]
