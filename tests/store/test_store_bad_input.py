"""Every bad file gets one clear message, before any work, and nothing on the disk changes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import files_of, tiny_llama

from outgrow.errors import CheckpointError, OutgrowError
from outgrow.models.library import config_object
from outgrow.parallel.ranks import ALONE
from outgrow.state.training_state import TrainingState
from outgrow.store import layouts
from outgrow.store.check import check_finite

save = partial(layouts.save_contents, ranks=ALONE)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header = change(header) or header
    new = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


NORM = "model.norm.weight"
BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda p: cut(p, -5), "truncated"),
    "cut in the header": (lambda p: cut(p, 100), "truncated"),
    "empty": (lambda p: p.write_bytes(b""), "truncated"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"xx"), "after its last tensor"),
    "text": (lambda p: p.write_text("<html>not found, this is a long error page</html>"), "truncated or not"),
    "not json": (lambda p: rewrite_header(p, lambda h: b"{" * 50), "corrupt header"),
    "deep json": (lambda p: rewrite_header(p, lambda h: b"[" * 200_000), "corrupt header"),
    "not utf-8": (lambda p: rewrite_header(p, lambda h: b'{"\xff": 1}'), "corrupt header"),
    "twice": (lambda p: rewrite_header(p, lambda h: b'{"a": 1, "a": 2}'), "corrupt header"),
    "list": (lambda p: rewrite_header(p, lambda h: b"[1, 2]"), "corrupt header"),
    "offsets outside": (
        lambda p: rewrite_header(p, lambda h: h[NORM].update(data_offsets=[10**9, 10**9 + 48])),
        "corrupt|trunc",
    ),
    "offsets overlap": (
        lambda p: rewrite_header(p, lambda h: h[NORM].update(data_offsets=[0, 48])),
        "gap or overlaps",
    ),
    "offsets negative": (
        lambda p: rewrite_header(p, lambda h: h[NORM].update(data_offsets=[-48, 0])),
        "corrupt header",
    ),
    "shape": (lambda p: rewrite_header(p, lambda h: h[NORM].update(shape=[13])), "corrupt header"),
    "huge shape": (
        lambda p: rewrite_header(p, lambda h: h[NORM].update(shape=[2**62, 2**62])),
        "corrupt header",
    ),
    "float shape": (lambda p: rewrite_header(p, lambda h: h[NORM].update(shape=[12.0])), "corrupt header"),
    "dtype": (lambda p: rewrite_header(p, lambda h: h[NORM].update(dtype="F4")), "unknown dtype"),
    "no shape": (lambda p: rewrite_header(p, lambda h: h[NORM].pop("shape") and h), "corrupt header"),
    "other name": (
        lambda p: rewrite_header(p, lambda h: h.update(other=h.pop(NORM)) or h),
        "unknown: other; missing: model.norm",
    ),
    "other shape": (lambda p: rewrite_header(p, lambda h: h[NORM].update(shape=[3, 4])), "wrong shape"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return TrainingState.from_model(tiny_llama()).save_pretrained(tmp_path / "small", format="hub")


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_safetensors(folder: Path, kind: str) -> None:
    change, message = BAD_FILES[kind]
    change(folder / "model.safetensors")
    before = files_of(folder)
    with pytest.raises(CheckpointError, match=message):
        TrainingState.from_pretrained(folder)
    assert files_of(folder) == before


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_quantised_weights(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="quantised"):
        TrainingState.from_pretrained(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nonfinite_weights(folder: Path, value: float, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.1.mlp.down_proj.weight"][5, 3] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"model\.layers\.1\.mlp\.down_proj\.weight holds NaN or infinity"
    ):
        TrainingState.from_pretrained(folder)
    state = TrainingState.from_pretrained(folder, allow_nonfinite=True)
    with pytest.raises(CheckpointError, match="down_proj"):
        check_finite(state.source, block_bytes=64)
    seen: list[tuple[int, int]] = []
    TrainingState.from_pretrained(folder, headers_only=True, progress=lambda *told: seen.append(told))
    assert not seen  # no tensor is read


def sharded(tmp_path: Path) -> Path:
    return save(TrainingState.from_model(tiny_llama()), tmp_path / "sharded", format="hub", shard_bytes=2000)


def test_missing_shard(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        TrainingState.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b", 3, None, "x\0y"]
)
def test_index_outside_the_folder(tmp_path: Path, name: object) -> None:
    folder = sharded(tmp_path)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][NORM] = name
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="outside its folder"):
        TrainingState.from_pretrained(folder)


def test_index_that_lies(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    files = sorted(set(content["weight_map"].values()))
    content["weight_map"][NORM] = next(file for file in files if file != content["weight_map"][NORM])
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="lacks tensors that the index promises"):
        TrainingState.from_pretrained(folder)
    for bad in ("{", "[]", '{"weight_map": {}}', '{"weight_map": 3}'):
        index.write_text(bad)
        with pytest.raises(CheckpointError, match="index"):
            TrainingState.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "nonsense"}, "unknown model type"),
        ({"model_type": None}, "does not name a model type"),
        ({"architectures": None}, "does not say which model class"),
        ({"architectures": ["LlamaForTelepathy"]}, "unknown model class"),
        ({"architectures": ["pipeline"]}, "unknown model class"),
        ({"num_hidden_layers": 3}, "missing: model.layers.2"),
        ({"num_hidden_layers": 1}, "unknown: model.layers.1"),
        ({"vocab_size": 20}, "wrong shape"),
        ({"vocab_size": -1}, "'vocab_size' is not a size"),
        ({"hidden_size": "wide"}, "cannot be built|not valid"),
    ],
)
def test_config_that_does_not_fit(folder: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(OutgrowError, match=message):
        TrainingState.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"rms_norm_eps": 1e400}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps"),
        ({"attention_dropout": {"__float__": "Infinity"}}, "attention_dropout"),
        ({"attention_dropout": 2}, "attention_dropout"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1e4}}, r"rope_parameters\.rope_theta"),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, r"rope_scaling\.factor"),
        ({"x": [1.0, {"y": [float("nan")]}]}, r"x\[\]\.y\[\]"),
    ],
)
def test_numbers_that_make_a_model_of_nan(folder: Path, change: dict[str, Any], place: str) -> None:
    """Python reads `NaN`, `Infinity` and `1e400`, and every grown logit would be NaN while the function is called kept."""
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"^{place} of config.json is no number"):
        TrainingState.from_pretrained(folder)


def test_infinity_is_a_limit_of_a_time_step() -> None:
    """What transformers itself writes for Mamba, in both spellings."""
    for limit in ([0.0, float("inf")], [0.0, {"__float__": "Infinity"}]):
        assert config_object({"model_type": "mamba2", "time_step_limit": limit}).time_step_limit[1] == float(
            "inf"
        )  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.encode("utf-16"), "a byte order mark"),
        (lambda text: text.encode("utf-16-le"), "Expecting|decode"),
        (lambda text: b"\xef\xbb\xbf" + text.encode(), "a byte order mark"),
        (lambda text: text.encode("utf-32"), "a byte order mark"),
        (
            lambda text: text.replace("{", '{"hidden_size": 3, "hidden_size": 12,', 1).encode(),
            "'hidden_size' is given 3 times",
        ),
        (lambda text: text.replace("{", '{"rope": {"a": 1, "a": 1},', 1).encode(), "'a' is given 2 times"),
    ],
)
def test_json_that_transformers_reads_otherwise_or_not(
    folder: Path, change: Callable[[str], bytes], message: str
) -> None:
    path = folder / "config.json"
    path.write_bytes(change(path.read_text()))
    with pytest.raises(CheckpointError, match=rf"not valid JSON\n  got: .*({message})"):
        TrainingState.from_pretrained(folder)


def test_a_tensor_in_two_shards_that_no_index_names(tmp_path: Path) -> None:
    """Either would do for the names, and only one is right."""
    folder = sharded(tmp_path)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    other = next(file for file in content["weight_map"].values() if file != content["weight_map"][NORM])
    save_file({**load_file(folder / other), NORM: torch.zeros(12)}, folder / other)
    TrainingState.from_pretrained(folder)  # the index decides
    del content["weight_map"][NORM]
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"two shards .* hold the same tensors.*\n.*{NORM}"):
        TrainingState.from_pretrained(folder)


def test_folders_that_are_none(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        TrainingState.from_pretrained("gpt2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        TrainingState.from_pretrained(tmp_path / "empty")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no model weights in safetensors"):
        TrainingState.from_pretrained(folder)
    (folder / "config.json").write_text('{"a":\n oops}')
    with pytest.raises(CheckpointError, match="line 2"):
        TrainingState.from_pretrained(folder)


NATIVE_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unfinished": (lambda f: (f / "outgrow.json").unlink(), "unfinished"),
    "a file less": (lambda f: (f / "optimizer.safetensors").unlink(), "missing"),
    "a record less": (lambda f: (f / "schedule.json").unlink(), "missing"),
    "cut": (lambda f: cut(f / "optimizer.safetensors", -1), "truncated"),
    "a bit": (lambda f: flip(f / "optimizer.safetensors"), "checksum"),
    "a bit of a weight": (lambda f: flip(f / "model.safetensors"), "checksum"),
    "an edited record": (lambda f: (f / "schedule.json").write_text('{\n  "peak": 0.09\n}\n'), "checksum"),
    "a newer version": (lambda f: edit(f, format_version=99), "another format version"),
    "another format": (lambda f: edit(f, format="ingrow"), "does not describe"),
    "a path": (lambda f: edit(f, files={"../config.json": {}}), "damaged"),
    "a record's path": (lambda f: edit(f, records=["../x"]), "damaged"),
    "no files": (lambda f: edit(f, files=None), "damaged"),
    "no json": (lambda f: (f / "outgrow.json").write_text("{"), "not valid JSON"),
}


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 1
    path.write_bytes(raw)


def edit(folder: Path, **change: Any) -> None:
    content = json.loads((folder / "outgrow.json").read_text()) | change
    (folder / "outgrow.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", NATIVE_DAMAGE)
def test_damaged_native_state(state: TrainingState, tmp_path: Path, kind: str) -> None:
    folder = state.save_pretrained(tmp_path / "native")
    change, message = NATIVE_DAMAGE[kind]
    change(folder)
    before = files_of(folder)
    with pytest.raises(CheckpointError, match=message):
        TrainingState.from_pretrained(folder)
    assert files_of(folder) == before


def test_damage_that_makes_a_nan_is_called_damage(state: TrainingState, tmp_path: Path) -> None:
    folder = state.save_pretrained(tmp_path / "native")
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-4:] = struct.pack("<f", float("nan"))
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match="checksum"):
        TrainingState.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="checksum"):
        TrainingState.from_pretrained(folder, allow_nonfinite=True)
