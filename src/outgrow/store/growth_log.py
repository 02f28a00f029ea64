"""The growths that a Trainer's log remembers: Trainer carries its log on, the weights' metadata it does not."""

from __future__ import annotations

from typing import Any

from outgrow.store.lineage import Lineage

GROWTHS = "outgrow"
"""The key of an entry in Trainer's log that holds the lineage."""


def logged_lineage(record: Any) -> Lineage:
    """The growths that Trainer's log remembers, oldest first."""
    log = record.get("log_history") if isinstance(record, dict) else None
    told = [entry[GROWTHS] for entry in log or () if isinstance(entry, dict) and GROWTHS in entry]
    where = f"the entry '{GROWTHS}' in the log of trainer_state.json"
    return Lineage.read(told[-1], where) if told else Lineage()
