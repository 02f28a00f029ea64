"""`outgrow compare`: does this growth save compute, how much, and how sure are we?

    saving = 1 - C_staged / C_scratch    at equal decayed loss, the small stages and the growth counted

study.yaml ──study──▶ arms ──pieces──▶ a tree of short runs ──runner──▶ decayed frontiers ──saving──▶ numbers
"""

from outgrow.comparing.result import StudyResult
from outgrow.comparing.runner import run_study
from outgrow.comparing.study import StudyConfig, load_study, parse_study

__all__ = ["StudyConfig", "StudyResult", "load_study", "parse_study", "run_study"]
