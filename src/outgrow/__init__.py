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
    "TrainingState": "outgrow.state",
    "grow": "outgrow.api",
    "plan_growth": "outgrow.api",
    "verify": "outgrow.proof",
    "OutgrowError": "outgrow.errors",
}

__all__ = ["OutgrowError", "TrainingState", "__version__", "grow", "plan_growth", "verify"]

if TYPE_CHECKING:
    from outgrow.api import grow, plan_growth
    from outgrow.errors import OutgrowError
    from outgrow.proof import verify
    from outgrow.state import TrainingState


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for, so that `import outgrow` costs nothing."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'outgrow' has no attribute '{name}'")
