"""A batch and its loss: how any model of ours is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


ModelInputs = Mapping[str, Tensor]
"""`input_ids` and `labels`, int64 (sequences, tokens); or `pixel_values`, float (images, channels, rows, columns), and
`labels`, int64 (images)."""


def batch_loss(model: Callable[..., Any], batch: ModelInputs) -> Tensor:
    """The loss that the model itself reports; of images the cross-entropy of its logits (some classes report none)."""
    if "pixel_values" not in batch:
        return cast(Tensor, model(**batch).loss)
    output = model(batch["pixel_values"])
    if getattr(output, "loss", None) is not None:
        return cast(Tensor, output.loss)
    logits: Tensor = getattr(output, "logits", output)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(wide, batch["labels"])
