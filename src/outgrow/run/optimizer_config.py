"""The `optimizer` section of a run: which optimizer, and that optimizer's own options and no others.

optimizer: {name: muon, learning_rate: 1e-3, momentum: 0.95}        (name: adamw where it is left out)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from outgrow.files.section import NotNegative, Positive, Section

Beta = Annotated[float, Field(ge=0, lt=1)]
BetaDecay = Annotated[float, Field(le=0)]
UpdateClip = Annotated[float, Field(ge=1)]


class _Optimizer(Section):
    learning_rate: Positive
    """The peak: the schedule multiplies it."""
    weight_decay: NotNegative = 0.1
    """One-dimensional tensors are not decayed."""
    gradient_clip: Positive | None = 1.0
    """Largest norm of the whole gradient; null for none."""


class AdamWConfig(_Optimizer):
    """AdamW (arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: Positive = 1e-8


class SGDConfig(_Optimizer):
    """SGD, with momentum (arXiv 1404.5997, as torch writes it) or, at momentum 0, without."""

    name: Literal["sgd"]
    learning_rate: Positive = 0.1
    weight_decay: NotNegative = 0.0
    momentum: Beta = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGDConfig:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum")
        return self


class LionConfig(_Optimizer):
    """Lion (arXiv 2302.06675): a learning rate of a third to a tenth of AdamW's, a weight decay as many times larger."""

    name: Literal["lion"]
    learning_rate: Positive = 1e-4
    betas: tuple[Beta, Beta] = (0.9, 0.99)


class AdafactorConfig(_Optimizer):
    """Adafactor (arXiv 1804.04235) as torch has it: steps relative to each tensor's root mean square."""

    name: Literal["adafactor"]
    learning_rate: Positive = 1e-2
    weight_decay: NotNegative = 0.0
    gradient_clip: Positive | None = None
    beta2_decay: BetaDecay = -0.8
    update_clip: UpdateClip = 1.0
    """Largest root mean square of an update before it is scaled (`d` in the paper)."""


class MuonConfig(_Optimizer):
    """Muon for the matrices inside the layers, AdamW for embeddings, heads, norms and biases.

    Muon's step is scaled as in arXiv 2502.16982 (0.2 √max(rows, columns)), so that one learning rate serves both.
    """

    name: Literal["muon"]
    learning_rate: Positive = 1e-3
    momentum: Beta = 0.95
    nesterov: bool = True
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's."""
    eps: Positive = 1e-8
    """AdamW's."""


def _name(section: Any) -> Any:
    return section.get("name", "adamw") if isinstance(section, dict) else getattr(section, "name", None)


OptimizerConfig = Annotated[
    Annotated[AdamWConfig, Tag("adamw")]
    | Annotated[SGDConfig, Tag("sgd")]
    | Annotated[LionConfig, Tag("lion")]
    | Annotated[AdafactorConfig, Tag("adafactor")]
    | Annotated[MuonConfig, Tag("muon")],
    Discriminator(_name),
]
OPTIMIZERS: dict[str, type[Section]] = {
    "adamw": AdamWConfig,
    "sgd": SGDConfig,
    "lion": LionConfig,
    "adafactor": AdafactorConfig,
    "muon": MuonConfig,
}
