"""The trigger at work in a run: every decision becomes a row of metrics.jsonl, and a word for the person who looks on.

A resumed run reads the rows that belong to its checkpoint again, and so decides as the killed one would have.
"""

from __future__ import annotations

from typing import Any

from outgrow.training.log_rows import log_row
from outgrow.training.session import Live, Session
from outgrow.training.trigger import Monitor


class Watch:
    """Watches the newest stage. Final."""

    def __init__(self, session: Session, live: Live) -> None:
        run, course = session.run, live.course
        stage, plan, now = run.stages[live.stage], session.plans[live.stage], course.now
        self._session, self._began, self._monitor = session, course.tokens(now.first), None
        self._said = "wait"
        if stage.until is None:
            return
        warmup = max(stage.reentry.rewarm_tokens, run.schedule.warmup_tokens - now.position, 0)
        self._monitor = Monitor(
            stage.until, plan.threshold, position=now.position, first=warmup, total=plan.tokens
        )
        for row in session.own_rows("train", stage.name):
            self._monitor.see(row["tokens"] - self._began, row["loss"])

    def ends(self, live: Live, row: dict[str, Any]) -> bool:
        """Whether the stage ends with this row of the log."""
        if self._monitor is None:
            return False
        decision = self._monitor.see(row["tokens"] - self._began, row["loss"])
        if decision is None:
            return False
        self._session.write({**log_row(self._session, "trigger", live), **decision.row()})
        if decision.verdict != self._said:
            self._said = decision.verdict
            self._session.progress.say(f"{row['stage']} at step {live.step}: {decision.reason}")
        return decision.verdict == "end"
