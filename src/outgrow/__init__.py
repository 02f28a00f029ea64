"""outgrow: grow a transformer in the middle of its training.

state = outgrow.TrainingState.from_pretrained("small/")
plan = outgrow.plan_growth(state, to={"hidden_size": 768, "num_hidden_layers": 12})
grown = outgrow.grow(state, plan)
print(outgrow.verify(state, grown))
grown.save_pretrained("large/")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "GrowAt": "outgrow.api.trainer",
    "OutgrowError": "outgrow.errors",
    "OwnArguments": "outgrow.api.trainer",
    "TrainingState": "outgrow.state.training_state",
    "compare": "outgrow.api.running",
    "convert": "outgrow.state.converting",
    "grow": "outgrow.state.growing",
    "grow_model": "outgrow.api.live",
    "learn": "outgrow.api.learning",
    "operators": "outgrow.methods.listing",
    "plan_growth": "outgrow.state.asked",
    "train": "outgrow.api.running",
    "verify": "outgrow.proof.verify",
}

__all__ = [
    "GrowAt",
    "OutgrowError",
    "OwnArguments",
    "TrainingState",
    "__version__",
    "compare",
    "convert",
    "grow",
    "grow_model",
    "learn",
    "operators",
    "plan_growth",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from outgrow.api.learning import learn
    from outgrow.api.live import grow_model
    from outgrow.api.running import compare, train
    from outgrow.api.trainer import GrowAt, OwnArguments
    from outgrow.errors import OutgrowError
    from outgrow.methods.listing import operators
    from outgrow.proof.verify import verify
    from outgrow.state.asked import plan_growth
    from outgrow.state.converting import convert
    from outgrow.state.growing import grow
    from outgrow.state.training_state import TrainingState


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for, so that `import outgrow` costs nothing."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'outgrow' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What there is, whether it has been asked for or not."""
    return sorted(__all__)
