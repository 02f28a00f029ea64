"""Where a key of an architecture file stands: the file as a user knows it, and the line."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources.abc import Traversable

import yaml

from outgrow.models.files import file_of, is_ours


def line_of(model_type: str, keys: Sequence[int | str]) -> str:
    """`architecture file my_model.yaml, line 7`, of the innermost of these keys that the type's file has.

    >>> line_of("gpt2", ["model_type"]), line_of("gpt2", ["nothing"])
    ('architecture file gpt2.yaml, line 2', 'architecture file gpt2.yaml')
    """
    path = file_of(model_type)
    if path is None:
        return f"architecture file {model_type}.yaml"
    told = f"architecture file {path.name if is_ours(path) else path}"
    line = _line(path, keys)
    return told if line is None else f"{told}, line {line}"


def _line(path: Traversable, keys: Sequence[int | str]) -> int | None:
    node, line = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(one, inner) for one, inner in node.value if one.value == key]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            found = [(inner, inner) for inner in node.value[key : key + 1]]
        else:
            found = []
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line
