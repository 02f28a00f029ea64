"""Where the teacher of a stage comes from: the state that the stage before ended with, or the one that the run starts from."""

from __future__ import annotations

from outgrow.engine.teaching import Teacher
from outgrow.training.session import Live, Session, open_saved_state, stage_end


def open_teacher(session: Session, live: Live) -> Teacher | None:
    """Of the stage that is trained, where it has one that still has a say."""
    distil, course = session.run.stages[live.stage].distil, live.course
    if distil is None or distil.at(course.stage_tokens(live.step + 0.5)) == 0:
        return None
    if live.stage > 0:
        state = open_saved_state(session, stage_end(session, course, live.stage - 1))
    else:
        assert session.start is not None, "RunConfig asks for a checkpoint"
        state = session.start
    return Teacher(state, distil, session.device_at(live.stage))
