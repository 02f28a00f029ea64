"""What every section of `run.yaml` is: frozen, and without unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from outgrow.schedule import parse_count

Count = Annotated[int, BeforeValidator(parse_count), Field(ge=1)]
"""A whole number of at least 1, also written `2e6` or `2M`."""


Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What numpy and torch take both."""


class Section(BaseModel):
    """A part of a run file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)
