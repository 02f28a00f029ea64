"""Fixtures of the file tests."""

from __future__ import annotations

import pytest
from tiny_models import tiny_llama, trained_state

from outgrow.state.training_state import TrainingState


@pytest.fixture
def state() -> TrainingState:
    return trained_state(tiny_llama())
