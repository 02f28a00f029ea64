"""Reports for people: tables, pictures, pages."""

from outgrow.report.command import run_command
from outgrow.report.run import RunReport, run_report

__all__ = ["RunReport", "run_command", "run_report"]
