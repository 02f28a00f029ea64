"""Whether the tensors that a library built are those that an architecture file describes; if not, which, and in what line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.errors import ArchitectureError, near
from outgrow.models.files import file_of, is_ours
from outgrow.models.lines import line_of
from outgrow.models.model import Model
from outgrow.models.names import Shape


def check_tensors(model: Model, config: Mapping[str, Any], expected: Mapping[str, Shape]) -> None:
    """Raises ArchitectureError unless these are the tensors that the architecture file describes."""
    ours = {name: model.shape(name) for name in model.parameters}
    if ours == expected:
        return
    (kind,) = config.get("architectures") or (model.spec.class_,)
    if kind != model.spec.class_:
        raise ArchitectureError(
            f"the architecture file of {model.spec.model_type} describes another class of model",
            got=kind,
            expected=model.spec.class_,
            fix="a head for a task is put on after the growth: grow_model(AutoModel.from_pretrained(FOLDER), to=...)",
        )
    raise _unlike(model, ours, expected)


def _unlike(model: Model, ours: Mapping[str, Shape], expected: Mapping[str, Shape]) -> ArchitectureError:
    """The first thing that an architecture file says other than transformers builds: a shape, a name too many, names too few."""
    kind, built = model.spec.model_type, f"{model.class_name} of {model.spec.library}"
    missing = [name for name in expected if name not in ours]
    extra = [name for name in ours if name not in expected]
    other = [name for name in ours if name in expected and ours[name] != expected[name]]
    path = file_of(kind)
    theirs = path is None or not is_ours(path)
    incomplete = "report this config: the file in src/outgrow/architectures is incomplete"
    if not (other or extra):
        return ArchitectureError(
            f"{line_of(kind, ['parameters'])}: parameters: {len(missing)} tensors of {built} have no entry",
            got=", ".join(f"{name} {expected[name]}" for name in missing[:3]),
            expected="an entry for each, with `{L}` for the number of a layer",
            fix="write them, and of one that is there already look at `when` and `inside`"
            if theirs
            else incomplete,
        )
    name = (other or extra)[0]
    one = model.parameters[name]
    where = f"{line_of(kind, ['parameters', one.pattern])}: parameters.{one.pattern}"
    if other:
        return ArchitectureError(
            f"{where}: {built} builds another shape",
            got=f"{ours[name]}, by axes '{one.spec.axes}'",
            expected=expected[name],
            fix="correct its `axes`, or the `size` of one of them" if theirs else incomplete,
        )
    return ArchitectureError(
        f"{where}: {built} builds no such tensor",
        got=name,
        expected=near(name, missing) if missing else f"the names of {built} alone",
        fix="correct the name, take it out (`null`, where it is extended), or say `when` it is there"
        if theirs
        else incomplete,
    )
