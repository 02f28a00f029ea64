"""outgrow: grow a transformer in the middle of its training.

state = outgrow.TrainingState.from_pretrained("small/")
grown = outgrow.grow(state, to={"hidden_size": 768, "num_hidden_layers": 12})
grown.save_pretrained("large/")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "TrainingState": "outgrow.state.training_state",
    "convert": "outgrow.state.converting",
    "grow": "outgrow.state.growing",
    "plan_growth": "outgrow.state.asked",
    "verify": "outgrow.proof.verify",
    "OutgrowError": "outgrow.errors",
}

__all__ = ["OutgrowError", "TrainingState", "__version__", "convert", "grow", "plan_growth", "verify"]

if TYPE_CHECKING:
    from outgrow.errors import OutgrowError
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
