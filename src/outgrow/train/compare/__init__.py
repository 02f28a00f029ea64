"""`outgrow compare`: does this growth save compute, how much, and how sure are we?

    saving = 1 - C_staged / C_scratch    at equal decayed loss, the small stages and the growth counted

study.yaml ──study──▶ arms ──pieces──▶ a tree of short runs ──runner──▶ decayed frontiers ──saving──▶ numbers
"""

from outgrow.train.compare.result import StudyResult
from outgrow.train.compare.runner import run_study
from outgrow.train.compare.study import StudyConfig, load_study, parse_study

__all__ = ["StudyConfig", "StudyResult", "load_study", "parse_study", "run_study"]
