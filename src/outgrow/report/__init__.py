"""Reports for people: tables, pictures, pages."""

from .run import RunReport, run_report

__all__ = ["RunReport", "run_report"]
