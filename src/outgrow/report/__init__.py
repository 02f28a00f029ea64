"""Reports for people: tables, pictures, pages."""

from .command import run_command
from .run import RunReport, run_report

__all__ = ["RunReport", "run_command", "run_report"]
