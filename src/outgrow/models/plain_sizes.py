"""Configs that say a size in a roundabout way, said plainly: what grows must be a field that holds the size itself."""

from __future__ import annotations

from typing import Any


def plainly(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the same model in which every size stands as it is.

    LFM2: two thirds of the MLP that is said, times a factor, rounded up. Every published one says it so.

    >>> said = {"model_type": "lfm2", "intermediate_size": 6656, "block_auto_adjust_ff_dim": True,
    ...         "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256}
    >>> plainly(said)["intermediate_size"], plainly(plainly(said))["intermediate_size"]
    (4608, 4608)
    """
    if config.get("model_type") != "lfm2" or not config.get("block_auto_adjust_ff_dim"):
        return config
    size = int(2 * config["intermediate_size"] / 3)
    if config.get("block_ffn_dim_multiplier") is not None:
        whole = config["block_multiple_of"]
        size = -(-int(config["block_ffn_dim_multiplier"] * size) // whole) * whole
    return {**config, "intermediate_size": size, "block_auto_adjust_ff_dim": False}
