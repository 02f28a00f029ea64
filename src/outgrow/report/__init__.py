"""Reports for people: tables, pictures, pages."""

from outgrow.report.run import RunReport, run_report
from outgrow.report.train import run_command

__all__ = ["RunReport", "run_command", "run_report"]
