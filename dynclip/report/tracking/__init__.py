"""Import of finished runs into MLflow, whose database is a copy of what results/ holds."""

from dynclip.report.tracking.runs import track, track_study

__all__ = ["track", "track_study"]
