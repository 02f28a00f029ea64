"""The little that outgrow reads from files of `torch.save`: plain tensors, numbers and containers, never code.

Values become JSON and back. What JSON lacks is tagged: `{"$tuple": [...]}`, `{"$bytes": base64}`,
`{"$tensor": base64, "dtype": ..., "shape": ...}` and the same for `$array` (NumPy).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy
import torch
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.files.reading import check_regular

_DAMAGED = (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What torch raises on a file that is not one of torch.save."""


def load_plain(path: Path, *, mapped: bool = False) -> Any:
    """The contents of a `torch.save` file if they are plain; `mapped` leaves the tensors on the disk until touched."""
    return _load(check_regular(path, CheckpointError), str(path), mapped=mapped)


def load_plain_bytes(content: bytes, where: str) -> Any:
    """The same of bytes that lie inside another file."""
    return _load(io.BytesIO(content), where, mapped=False)


def load_fake(file: io.BufferedReader, where: str) -> Any:
    """The contents of a `torch.save` file with fake tensors, whose storages say where in the file their numbers lie."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with _as_checkpoint_error(where), FakeTensorMode():
        return torch.load(cast(Any, file), map_location="cpu", weights_only=True)


def _load(file: Path | io.BytesIO, where: str, *, mapped: bool) -> Any:
    scalar = type(numpy.dtype(numpy.uint32))
    reconstruct = cast(Any, numpy)._core.multiarray._reconstruct  # what NumPy's random state is stored with
    with (
        _as_checkpoint_error(where),
        torch.serialization.safe_globals([reconstruct, numpy.ndarray, numpy.dtype, scalar]),
    ):
        found = torch.load(cast(Any, file), map_location="cpu", weights_only=True, mmap=mapped)
        if _is_hollow(found):
            raise ValueError("it holds tensors without numbers (of the device meta)")
        return found


def _is_hollow(value: Any) -> bool:
    """Whether some tensor in it was saved without its numbers."""
    if isinstance(value, dict):
        return any(map(_is_hollow, value.values()))
    return (
        any(map(_is_hollow, value)) if isinstance(value, list | tuple) else getattr(value, "is_meta", False)
    )


@contextmanager
def _as_checkpoint_error(path: str) -> Iterator[None]:
    try:
        yield
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} is a pickle that holds more than plain tensors; it was not opened",
            got=_reason(error),
            fix="do not trust this checkpoint, or write it again with a current transformers",
        ) from error
    except _DAMAGED as error:
        fix = "copy it again, or load and save it with torch"
        raise CheckpointError(
            f"{path} cannot be read as a file of torch.save", got=_reason(error), fix=fix
        ) from error


def save_plain(value: Any, path: Path) -> None:
    """A file of `torch.save`, written by Python: torch's own writer hides what the system said."""
    content = io.BytesIO()
    torch.save(value, content)
    path.write_bytes(content.getvalue())


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = next(
        (line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else ""
    )
    return found[:200] or type(error).__name__


def to_json(value: Any) -> Any:
    """Plain values as JSON, exactly.

    >>> to_json((1, b"a"))
    {'$tuple': [1, {'$bytes': 'YQ=='}]}
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case tuple():
            return {"$tuple": [to_json(item) for item in value]}
        case list():
            return [to_json(item) for item in value]
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise CheckpointError("a record has keys that are not text", got=list(value)[:5])
            return {key: to_json(item) for key, item in value.items()}
        case numpy.generic():
            return to_json(value.item())
        case numpy.ndarray():
            return {"$array": _encode(value.tobytes()), "dtype": value.dtype.str, "shape": list(value.shape)}
        case Tensor():
            array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            dtype = str(value.dtype).removeprefix("torch.")
            return {"$tensor": _encode(array.tobytes()), "dtype": dtype, "shape": list(value.shape)}
    raise CheckpointError(
        f"a record holds a {type(value).__name__}, which JSON cannot", expected="numbers, text, lists"
    )


def from_json(value: Any) -> Any:
    """The inverse of `to_json`.

    >>> from_json(to_json((1, b"a")))
    (1, b'a')
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tuple" in value:
        return tuple(from_json(item) for item in value["$tuple"])
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$array" in value:
        flat = numpy.frombuffer(base64.b64decode(value["$array"]), dtype=numpy.dtype(value["dtype"]))
        return flat.reshape(value["shape"]).copy()
    if "$tensor" in value:
        raw = torch.frombuffer(bytearray(base64.b64decode(value["$tensor"])), dtype=torch.uint8)
        return raw.view(cast(torch.dtype, getattr(torch, value["dtype"]))).reshape(value["shape"])
    return {key: from_json(item) for key, item in value.items()}


def record_text(name: str, value: Any) -> str:
    """A record as the text of its file: JSON, with bytes as `{"$bytes": base64}`."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, default=_bytes_only) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the record {name!r} is not JSON", got=error, expected="numbers, text, lists"
        ) from error


def record_value(value: Any) -> Any:
    """What `record_text` wrote, from its JSON: only bytes are turned back."""
    if isinstance(value, list):
        return [record_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$bytes"}:
        return base64.b64decode(value["$bytes"])
    return {key: record_value(item) for key, item in value.items()}


def _bytes_only(value: Any) -> Any:
    if isinstance(value, bytes):
        return to_json(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
