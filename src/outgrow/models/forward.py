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
        batch = _with_start(getattr(model, "config", None), batch)
        return cast(Tensor, model(**batch).loss)
    output = model(batch["pixel_values"])
    if getattr(output, "loss", None) is not None:
        return cast(Tensor, output.loss)
    logits: Tensor = getattr(output, "logits", output)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(wide, batch["labels"])


def _with_start(config: Any, batch: ModelInputs) -> ModelInputs:
    """What the decoder of a T5 sees, where its config does not say with which token it begins: padding (arXiv 1910.10683)."""
    encodes = getattr(config, "is_encoder_decoder", False)
    if not encodes or getattr(config, "decoder_start_token_id", None) is not None or "input_ids" not in batch:
        return batch
    labels, pad = batch["labels"], config.pad_token_id
    before = torch.cat([torch.full_like(labels[:, :1], pad), labels[:, :-1]], dim=1)
    return {**batch, "decoder_input_ids": before.masked_fill(before < 0, pad)}
