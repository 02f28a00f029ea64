"""Whether a library takes a config, and builds of it what the architecture file of its type describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.errors import ArchitectureError, near
from outgrow.models.architecture import resolve
from outgrow.models.built import check_tensors
from outgrow.models.expressions import got
from outgrow.models.files import file_of, read
from outgrow.models.library import config_dict, config_object, default_config, library_names
from outgrow.models.lines import line_of
from outgrow.models.model import Model
from outgrow.models.names import described_names, is_tested


def check_config(model: Model, config: Mapping[str, Any]) -> None:
    """Raises where the library refuses a config, or may build other tensors from it than the architecture file says.

    The second is asked where no test holds it, and where the config has more than sizes and switches of its own: it imports
    the model's class and all of transformers, for seconds.
    """
    if is_tested(config):
        full = config_dict(config_object(config))
        same = described_names(resolve(full)).shapes == described_names(model).shapes
        if same and _is_usual(full):
            return
    check_described(model, config)


_NAMING = {
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "model_type",
    "problem_type",
    "transformers_version",
}
"""Fields that say what a model is called or holds, which no class refuses."""


def _is_usual(config: Mapping[str, Any]) -> bool:
    """Whether a model's class can find nothing to refuse but sizes: it has the words (activations, kinds of positions) and the
    lists of numbers (factors for each pair of a head's) of its type, and a padding token that every table has.
    """
    usual = _telling(default_config(str(config["model_type"])))
    return _is_padded_inside(config) and all(
        usual.get(where) == value for where, value in _telling(config).items()
    )


def _is_padded_inside(config: Mapping[str, Any]) -> bool:
    """Whether the padding token is a row of every table, in a config and in those inside it."""
    tables = [config[name] for name in ("vocab_size", "max_position_embeddings") if config.get(name)]
    token = config.get("pad_token_id")
    return (token is None or (type(token) is int and 0 <= token < min(tables, default=0))) and all(
        _is_padded_inside(inner) for inner in config.values() if isinstance(inner, Mapping)
    )


def _telling(config: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Words and lists of numbers in a config and in those inside it, by where they stand.

    >>> _telling({"hidden_size": 8, "rope": {"rope_type": "longrope", "factors": [1.0, 2.0]}, "kinds": ["full"]})
    {'.rope.rope_type': 'longrope', '.rope.factors': [1.0, 2.0]}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        where = f"{inside}.{name}"
        if name in _NAMING:
            continue
        if isinstance(value, Mapping):
            found |= _telling(value, where)
        elif isinstance(value, str) or (
            isinstance(value, list) and not all(type(one) is str for one in value)
        ):
            found[where] = value
    return found


def check_described(model: Model, config: Mapping[str, Any]) -> None:
    """Raises ArchitectureError where transformers builds other tensors from a config than its architecture file says."""
    expected = library_names(config).shapes
    _check_conditions(model, config)
    check_tensors(model, config, expected)


def _check_conditions(model: Model, config: Mapping[str, Any]) -> None:
    """Raises where a condition names no field of the config: it would never hold, in silence. What is inherited may."""
    kind, fields = model.spec.model_type, config_dict(config_object(config))
    path = file_of(kind)
    stated = {} if path is None else read(path).get("parameters") or {}
    for pattern, one in stated.items():
        for key in ("when", "when_tied"):
            condition = (one or {}).get(key)
            *outer, last = (condition or "").removeprefix("not ").split(".")
            inside = got(fields, ".".join(outer)) if outer else fields
            if condition and last not in (inside or {}):
                raise ArchitectureError(
                    f"{line_of(kind, ['parameters', pattern, key])}: parameters.{pattern}.{key} names no field of the config",
                    got=condition,
                    expected=near(last, inside or fields),
                )
