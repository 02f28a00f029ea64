"""`stages[i].distil`: a new model in place of a growth, that first learns from the model of the stage before.

    loss = (1 - w) · cross-entropy + w · T² · KL(teacher's softmax at T ‖ own softmax at T)      a mean over the targets
    w    = weight · (1 - tokens of the stage / tokens), never below 0

Knowledge inheritance (KI, Qin et al., arXiv 2105.13880, with its falling rate of inheritance; the divergence is that of
arXiv 1503.02531).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from outgrow.files.section import Count, Positive, Section


class DistilConfig(Section):
    """A new model that is taught by the one before it.

    >>> lessons = DistilConfig(into={"model_type": "llama"}, tokens=100)
    >>> [lessons.at(tokens) for tokens in (0, 25, 100, 1000)]
    [1.0, 0.75, 0.0, 0.0]
    """

    into: dict[str, Any]
    """`model_type` and config fields of the new model, as in `model`."""
    tokens: Count
    """Tokens of the stage over which the teacher's weight falls to 0."""
    weight: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the teacher, at the stage's begin; the targets have the rest."""
    temperature: Positive = 1.0
    """Divides the scores of both."""

    @model_validator(mode="after")
    def _names_a_type(self) -> DistilConfig:
        if "model_type" not in self.into:
            raise ValueError("into.model_type is missing (for example llama)")
        return self

    def at(self, tokens: float) -> float:
        """The teacher's weight after `tokens` of the stage."""
        return self.weight * max(0.0, 1.0 - tokens / self.tokens)
