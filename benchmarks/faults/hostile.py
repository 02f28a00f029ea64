"""Inputs that are wrong on purpose: each must end with exit code 2 and one message, within ten seconds, and touch nothing.

A case is a name and a function that spoils a copy of the sources and says which command meets it.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.sources import DEEPER, WIDER

Words = tuple[object, ...]
Spoil = Callable[[Path], Words]


@dataclass(frozen=True)
class Hostile:
    """One input; `may_pass` where what was changed may also be read by nobody."""

    name: str
    spoil: Spoil
    may_pass: bool = False


# ---- small tools ----------------------------------------------------------------------------------------------------


def grow(root: Path, source: str, *more: object) -> Words:
    return ("grow", root / source, root / "out", *(more or DEEPER))


def learn(root: Path, source: str, data: Path) -> Words:
    to = ("--to", "num_hidden_layers=3", "--data", data)
    return ("learn", root / source, root / "out", *to, "--steps", "2", "--sequences", "2", "--length", "16")


def train(root: Path, *overrides: str) -> Words:
    words: tuple[object, ...] = ("train", root / "run.yaml", "--set", f"output={root / 'out'}")
    for one in overrides:
        words += ("--set", one)
    return words


def edited(path: Path, change: Callable[[Any], Any]) -> None:
    """A JSON file, changed; a native state's checksum of it follows."""
    content = change(json.loads(path.read_text()))
    path.write_text(json.dumps(content))
    reseal(path.parent)


def reseal(folder: Path) -> None:
    """Who forges a file of a native state forges its checksum too."""
    import zlib

    manifest = folder / "outgrow.json"
    if not manifest.is_file():
        return
    try:
        content = json.loads(manifest.read_text())
        for name in content["files"]:
            raw = (folder / name).read_bytes()
            content["files"][name] = {"bytes": len(raw), "crc32": f"{zlib.crc32(raw):08x}"}
    except (ValueError, TypeError, KeyError, OSError):
        return
    manifest.write_text(json.dumps(content))


def with_key(*keys: str | int, value: Any) -> Callable[[Any], Any]:
    def change(content: Any) -> Any:
        here = content
        for key in keys[:-1]:
            here = here[key]
        here[keys[-1]] = value
        return content

    return change


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def safetensors(path: Path, header: Any, data: bytes = b"") -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "minus": -1,
    "zero": 0,
    "fraction": 0.5,
    "huge": 10**12,
    "text": "x",
    "list": [],
    "list of null": [None],
    "object": {},
    "object of object": {"a": {"b": 1}},
    "long": "y" * 100_000,
}
"""One value of every type, and some that are out of all bounds."""


# ---- the inputs -----------------------------------------------------------------------------------------------------


def cases() -> Iterator[Hostile]:
    """All of them, in a fixed order."""
    for family in (
        *(_configs, _weights, _other_kinds, _native, _trainer_files, _tokenizers, _texts, _images),
        *(_curves, _yaml, _words, _pipes, _places, _operators, _runs),
    ):
        yield from family()
    yield from _types()


def case(name: str, may_pass: bool = False) -> Callable[[Spoil], Hostile]:
    return lambda spoil: Hostile(name, spoil, may_pass)


def _configs() -> Iterator[Hostile]:
    changes: dict[str, Any] = {
        "100,000 layers": with_key("num_hidden_layers", value=100_000),
        "10**12 layers": with_key("num_hidden_layers", value=10**12),
        "10**12 labels": with_key("num_labels", value=10**12),
        "10**9 heads": with_key("num_attention_heads", value=10**9),
        "width of 10**12": with_key("hidden_size", value=10**12),
        "vocabulary of 10**15": with_key("vocab_size", value=10**15),
        "minus one layer": with_key("num_hidden_layers", value=-1),
        "width as text": with_key("hidden_size", value="16"),
        "width as list": with_key("hidden_size", value=[16]),
        "no width": with_key("hidden_size", value=None),
        "zero heads": with_key("num_attention_heads", value=0),
        "unknown type": with_key("model_type", value="granite_of_tomorrow"),
        "type that nobody described": with_key("model_type", value="reformer"),
        "type as number": with_key("model_type", value=3),
        "type as path": with_key("model_type", value="../../etc/passwd"),
        "class as number": with_key("architectures", value=[3]),
        "class of os": with_key("architectures", value=["os"]),
        "two classes": with_key("architectures", value=["LlamaForCausalLM", "LlamaModel"]),
        "layer types of another length": with_key("layer_types", value=["full_attention"] * 3),
        "layer types of 10**5": with_key("layer_types", value=["full_attention"] * 100_000),
        "rope as number": with_key("rope_parameters", value=3),
        "rope of text": with_key("rope_parameters", value={"rope_type": "\x1b[2J"}),
        "rope type as list": with_key("rope_parameters", value={"rope_type": ["a"]}),
        "activation that is none": with_key("hidden_act", value="$\\frac{$"),
        "eps as text": with_key("rms_norm_eps", value="[/]"),
        "infinite eps": with_key("rms_norm_eps", value=1e400),
        "a chance of 2": with_key("attention_dropout", value=2),
        "negative eps": with_key("rms_norm_eps", value=-1e-6),
        "rope of nan": with_key(
            "rope_parameters", value={"rope_type": "default", "rope_theta": float("nan")}
        ),
        "rope of zero": with_key("rope_parameters", value={"rope_type": "default", "rope_theta": 0}),
        "list of numbers": lambda content: [1, 2],
        "a text": lambda content: "config",
        "other sizes": with_key("hidden_size", value=32),
    }
    for name, change in changes.items():
        for command in ("inspect", "grow"):

            def spoil(root: Path, change: Any = change, command: str = command) -> Words:
                edited(root / "hub" / "config.json", change)
                return ("inspect", root / "hub") if command == "inspect" else grow(root, "hub")

            yield Hostile(f"config.json: {name}, {command}", spoil)
    raw: dict[str, bytes] = {
        "empty": b"",
        "cut": b'{"model_type": "lla',
        "not UTF-8": b'{"model_type": "\xff\xfe"}',
        "UTF-16": '{"model_type": "llama"}'.encode("utf-16"),
        "UTF-8 with a mark": b'\xef\xbb\xbf{"model_type": "llama"}',
        "a key twice": b'{"model_type": "gpt2", "model_type": "llama"}',
        "nested 10**5 deep": b'{"model_type": "llama", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "a number of 10**5 digits": b'{"model_type": "llama", "hidden_size": ' + b"9" * 100_000 + b"}",
        "NaN": b'{"model_type": "llama", "hidden_size": NaN}',
        "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94.",
        "null bytes": bytes(4096),
    }
    for name, content in raw.items():

        def spoil_raw(root: Path, content: bytes = content) -> Words:
            (root / "hub" / "config.json").write_bytes(content)
            return grow(root, "hub")

        yield Hostile(f"config.json: {name}", spoil_raw)
    for name, layers in (("10**5", 100_000), ("10**12", 10**12), ("10**5 digits of", int("9" * 4000))):
        yield case(f"--to {name} layers")(
            lambda root, layers=layers: grow(root, "hub", "--to", f"num_hidden_layers={layers}")
        )
    yield case("--to with 10**5 digits")(
        lambda root: grow(root, "hub", "--to", "hidden_size=" + "9" * 100_000)
    )
    for number, to in enumerate(
        (
            "hidden_size",
            "=3",
            "hidden_size=",
            "hidden_size=x",
            "hidden_size=1e3",
            "[/]=3",
            "\x1b[2J=3",
            "hidden_size=-4",
        )
    ):
        yield case(f"--to that is none, {number}")(lambda root, to=to: grow(root, "hub", "--to", to))


def _weights() -> Iterator[Hostile]:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    headers: dict[str, tuple[Any, bytes]] = {
        "no tensors": ({}, b""),
        "list": ([], b""),
        "number": (b"3", b""),
        "not JSON": (b"{{{{{{{{", b""),
        "unknown dtype": ({"a": {**one, "dtype": "Q7"}}, bytes(8)),
        "dtype as list": ({"a": {**one, "dtype": ["F32"]}}, bytes(8)),
        "shape as text": ({"a": {**one, "shape": "2"}}, bytes(8)),
        "shape of 10**18": ({"a": {**one, "shape": [10**18, 10**18]}}, bytes(8)),
        "negative shape": ({"a": {**one, "shape": [-2]}}, bytes(8)),
        "offsets turned around": ({"a": {**one, "data_offsets": [8, 0]}}, bytes(8)),
        "offsets of three": ({"a": {**one, "data_offsets": [0, 8, 9]}}, bytes(8)),
        "offsets as text": ({"a": {**one, "data_offsets": "08"}}, bytes(8)),
        "beyond the end": ({"a": {**one, "data_offsets": [0, 8]}}, bytes(4)),
        "bytes left over": ({"a": one}, bytes(16)),
        "a gap": ({"a": one, "b": {**one, "data_offsets": [12, 20]}}, bytes(20)),
        "overlap": ({"a": one, "b": {**one, "data_offsets": [4, 12]}}, bytes(12)),
        "same name twice": (
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        ),
        "tensor is a list": ({"a": [1]}, bytes(8)),
        "metadata is a list": ({"__metadata__": [1], "a": one}, bytes(8)),
        "lineage is no JSON": ({"__metadata__": {"outgrow_lineage": "{"}, "a": one}, bytes(8)),
        "nested 10**5 deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
        "other names": ({"a": one}, bytes(8)),
    }
    for name, (header, data) in headers.items():

        def spoil(root: Path, header: Any = header, data: bytes = data) -> Words:
            safetensors(root / "hub" / "model.safetensors", header, data)
            return grow(root, "hub")

        yield Hostile(f"weights: {name}", spoil)
    for name, raw in {
        "empty": b"",
        "seven bytes": b"1234567",
        "header of 2**63": struct.pack("<Q", 2**63) + b"{}",
        "header as long as the file": struct.pack("<Q", 10**6) + b"{}",
    }.items():

        def spoil_raw(root: Path, raw: bytes = raw) -> Words:
            (root / "hub" / "model.safetensors").write_bytes(raw)
            return grow(root, "hub")

        yield Hostile(f"weights: {name}", spoil_raw)
    for share in (0.1, 0.5, 0.9, 0.99):

        def cut(root: Path, share: float = share) -> Words:
            path = root / "hub" / "model.safetensors"
            os.truncate(path, int(path.stat().st_size * share))
            return grow(root, "hub")

        yield Hostile(f"weights: cut at {share:.0%}", cut)
    for value in ("nan", "inf", "-inf"):

        def not_finite(root: Path, value: str = value) -> Words:
            from safetensors.torch import load_file, save_file

            tensors = load_file(root / "hub" / "model.safetensors")
            next(iter(tensors.values())).view(-1)[3] = float(value)
            save_file(tensors, root / "hub" / "model.safetensors")
            return grow(root, "hub")

        yield Hostile(f"weights: {value} in a tensor", not_finite)
    index: dict[str, Any] = {
        "no map": {},
        "empty map": {"weight_map": {}},
        "map is a list": {"weight_map": ["a"]},
        "file outside": {"weight_map": {"a": "../x.safetensors"}},
        "absolute file": {"weight_map": {"a": "/etc/passwd"}},
        "file is a number": {"weight_map": {"a": 3}},
        "file with a null": {"weight_map": {"a": "a\0b"}},
        "shard that is missing": {"weight_map": {"a": "none.safetensors"}},
        "a list": [],
    }
    for name, content in index.items():

        def spoil_index(root: Path, content: Any = content) -> Words:
            (root / "shards" / "model.safetensors.index.json").write_text(json.dumps(content))
            return grow(root, "shards")

        yield Hostile(f"index: {name}", spoil_index)

    @case("index: a tensor in two shards, and not in the index")
    def twice(root: Path) -> Words:
        from safetensors.torch import load_file, save_file

        index = root / "shards" / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        first, second, *_ = sorted(set(content["weight_map"].values()))
        name, value = next(iter(load_file(root / "shards" / first).items()))
        save_file(
            {**load_file(root / "shards" / second), name: value + 1},
            root / "shards" / second,
            {"format": "pt"},
        )
        del content["weight_map"][name]
        index.write_text(json.dumps(content))
        return grow(root, "shards")

    yield twice


def _other_kinds() -> Iterator[Hostile]:
    def folder(root: Path, keep_config: bool = True) -> Path:
        (root / "hub" / "model.safetensors").unlink()
        if not keep_config:
            (root / "hub" / "config.json").unlink()
        return root / "hub"

    @case("adapter alone")
    def adapter(root: Path) -> Words:
        where = folder(root, False)
        (where / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        safetensors(where / "adapter_model.safetensors", {})
        return grow(root, "hub")

    @case("adapter beside a config")
    def beside(root: Path) -> Words:
        where = folder(root)
        (where / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        safetensors(where / "adapter_model.safetensors", {})
        return grow(root, "hub")

    @case("GGUF")
    def gguf(root: Path) -> Words:
        (folder(root) / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(100))
        return grow(root, "hub")

    @case("GGUF file itself")
    def gguf_file(root: Path) -> Words:
        (root / "a.gguf").write_bytes(b"GGUF" + bytes(100))
        return grow(root, "a.gguf")

    @case("pointer of git-lfs")
    def pointer(root: Path) -> Words:
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 988097824\n"
        (root / "hub" / "model.safetensors").write_text(text)
        return grow(root, "hub")

    @case("pointer of git-lfs as config")
    def pointer_config(root: Path) -> Words:
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 900\n"
        (root / "hub" / "config.json").write_text(text)
        return grow(root, "hub")

    @case("pickled weights")
    def pickled(root: Path) -> Words:
        (folder(root) / "pytorch_model.bin").write_bytes(
            b"\x80\x04cos\nsystem\n(S'touch /tmp/outgrow-pwned'\ntR."
        )
        return grow(root, "hub")

    @case("name on the hub")
    def hub(root: Path) -> Words:
        return ("grow", "someone/small", root / "out", *DEEPER)

    @case("root of the hub's cache")
    def cache(root: Path) -> Words:
        snapshot = root / "models--a--b" / "snapshots" / "0123"
        snapshot.parent.mkdir(parents=True)
        (root / "hub").rename(snapshot)
        return grow(root, "models--a--b")

    @case("a file")
    def file(root: Path) -> Words:
        return grow(root, "text.txt")

    @case("nothing")
    def nothing(root: Path) -> Words:
        return grow(root, "none")

    @case("empty folder")
    def empty(root: Path) -> Words:
        (root / "none").mkdir()
        return grow(root, "none")

    @case("link to itself")
    def loop(root: Path) -> Words:
        (root / "none").symlink_to("none")
        return grow(root, "none")

    yield from (
        adapter,
        beside,
        gguf,
        gguf_file,
        pointer,
        pointer_config,
        pickled,
        hub,
        cache,
        file,
        nothing,
        empty,
        loop,
    )
    for prefix in ("_orig_mod.", "module.", "_orig_mod.module.", "base_model.model."):

        def prefixed(root: Path, prefix: str = prefix) -> Words:
            from safetensors.torch import load_file, save_file

            path = root / "hub" / "model.safetensors"
            save_file({prefix + name: value for name, value in load_file(path).items()}, path)
            return grow(root, "hub")

        yield Hostile(f"names with {prefix}", prefixed)
    for method, config in (
        ("gptq", {"quant_method": "gptq", "bits": 4}),
        ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("fp8", {"quant_method": "fp8"}),
        ("mxfp4", {"quant_method": "mxfp4"}),
        ("a list", [1]),
        ("a text", "4bit"),
    ):

        def quantised(root: Path, config: Any = config) -> Words:
            from safetensors.torch import load_file, save_file

            path = root / "hub" / "model.safetensors"
            kept = {name: value for name, value in load_file(path).items() if "proj" not in name}
            save_file(kept, path)
            edited(root / "hub" / "config.json", with_key("quantization_config", value=config))
            return grow(root, "hub")

        yield Hostile(f"quantised: {method}", quantised)


def _native() -> Iterator[Hostile]:
    for name in ("model.safetensors", "optimizer.safetensors", "optimizer.json", "config.json", "run.json"):
        for what in ("gone", "empty", "cut", "flipped"):

            def spoil(root: Path, name: str = name, what: str = what) -> Words:
                path = root / "native" / name
                raw = path.read_bytes()
                if what == "gone":
                    path.unlink()
                elif what == "flipped":
                    path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
                else:
                    path.write_bytes(raw[: len(raw) // 2] if what == "cut" else b"")
                return grow(root, "native")

            yield Hostile(f"native: {name} {what}", spoil)
    changes: dict[str, Any] = {
        "file outside": with_key("files", "../x", value={"bytes": 1, "crc32": "0"}),
        "file is null": with_key("files", "config.json", value=None),
        "size as text": with_key("files", "config.json", "bytes", value="x"),
        "size of 10**4000": with_key("files", "config.json", "bytes", value="9" * 5000),
        "record outside": with_key("records", value=["../../secret"]),
        "record that is missing": with_key("records", value=["none"]),
        "record of numbers": with_key("records", value=[3]),
        "lineage of numbers": with_key("lineage", value=[3]),
        "lineage of null": with_key("lineage", value=None),
        "no files": with_key("files", value=[]),
        "tomorrow's version": with_key("format_version", value=2),
        "another format": with_key("format", value="x"),
    }
    for name, change in changes.items():

        def spoil_manifest(root: Path, change: Any = change) -> Words:
            path = root / "native" / "outgrow.json"
            path.write_text(json.dumps(change(json.loads(path.read_text()))))
            return grow(root, "native")

        yield Hostile(f"native: {name}", spoil_manifest)

    @case("native: unfinished")
    def unfinished(root: Path) -> Words:
        (root / "native" / "outgrow.json").unlink()
        return grow(root, "native")

    yield unfinished
    for words in (("--operator", "text.txt"), ("--operator", "hub"), ("--operator", "none")):
        yield case(f"native: {' '.join(words)}")(
            lambda root, words=words: ("grow", root / "native", root / "out", words[0], root / words[1])
        )


def _moment(slot: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda content: with_key(slot, value=change(content["state"][0][slot]))(content["state"][0])


def _option(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda content: with_key(name, value=value)(content["param_groups"][0])


def dtype_named(name: str) -> Any:
    import torch

    return getattr(torch, name)


_WRONG_MOMENTS: dict[str, Callable[[Any], Any]] = {
    "negative squares": _moment("exp_avg_sq", lambda value: value - 1),
    "a moment of nan": _moment("exp_avg", lambda value: value * float("nan")),
    "a moment without numbers": _moment("exp_avg", lambda value: value.to("meta")),
    "a moment of whole numbers": _moment("exp_avg", lambda value: value.int()),
    "a moment of float8": _moment("exp_avg", lambda value: value.to(dtype_named("float8_e4m3fn"))),
    "a step of infinity": _moment("step", lambda value: value + float("inf")),
    "a step before the first": _moment("step", lambda value: value - 9),
    "a sparse moment": _moment("exp_avg", lambda value: value.to_sparse()),
    "a step and a half": _moment("step", lambda value: value + 0.5),
    "a rate of nan": _option("lr", float("nan")),
    "a rate in words": _option("lr", "x"),
    "one beta": _option("betas", (0.9,)),
    "a beta above one": _option("betas", (0.9, 1.5)),
    "two eps": _option("eps", (1e-30, 1e-3)),
    "betas of betas": _option("betas", ((0.9,), 0.95)),
    "a negative eps": _option("eps", -1.0),
    "infinite decay": _option("weight_decay", float("inf")),
}


def _trainer_files() -> Iterator[Hostile]:
    for name in ("optimizer.pt", "trainer_state.json", "scheduler.pt"):
        for what in ("empty", "cut", "zeros", "text", "pickle"):

            def spoil(root: Path, name: str = name, what: str = what) -> Words:
                path = root / "trainer" / name
                raw = path.read_bytes()
                contents = {
                    "empty": b"",
                    "cut": raw[: len(raw) // 2],
                    "zeros": bytes(len(raw)),
                    "text": b"hello",
                    "pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/outgrow-pwned'\ntR.",
                }
                path.write_bytes(contents[what])
                return grow(root, "trainer", *DEEPER, "--format", "trainer")

            yield Hostile(f"Trainer: {name} {what}", spoil)
    objects: dict[str, Any] = {
        "a list": [1],
        "a text": "x",
        "state is a list": {"state": [1], "param_groups": []},
        "groups are numbers": {"state": {}, "param_groups": [3]},
        "params are text": {"state": {}, "param_groups": [{"params": "abc"}]},
        "params of others": {"state": {}, "param_groups": [{"params": [0, 1, 2], "lr": 1e-3}]},
        "a state is a number": {"state": {0: 3}, "param_groups": [{"params": [0]}]},
        "nothing": {},
        "null": None,
    }
    for name, value in objects.items():

        def spoil_object(root: Path, value: Any = value) -> Words:
            import torch

            torch.save(value, root / "trainer" / "optimizer.pt")
            return grow(root, "trainer", *DEEPER, "--format", "trainer")

        yield Hostile(f"Trainer: optimizer.pt is {name}", spoil_object)
    schedules: dict[str, Any] = {
        "nan": {"base_lrs": [float("nan")] * 2, "last_epoch": 2, "_last_lr": [1e-3] * 2},
        "a rate of three": {"base_lrs": [1e-3] * 3, "last_epoch": 2, "_last_lr": [1e-3] * 3},
        "an epoch in words": {"base_lrs": [1e-3] * 2, "last_epoch": "x", "_last_lr": [1e-3] * 2},
        "a list": [1],
    }
    for name, schedule in schedules.items():

        def spoil_schedule(root: Path, schedule: Any = schedule) -> Words:
            import torch

            torch.save(schedule, root / "trainer" / "scheduler.pt")
            return grow(root, "trainer", *DEEPER, "--format", "trainer")

        yield Hostile(f"Trainer: scheduler.pt with {name}", spoil_schedule)
    for name, change in _WRONG_MOMENTS.items():

        def spoil_moments(root: Path, change: Callable[[Any], Any] = change) -> Words:
            import torch

            path = root / "trainer" / "optimizer.pt"
            content = torch.load(path, weights_only=True)
            change(content)
            torch.save(content, path)
            return grow(root, "trainer", *DEEPER, "--format", "trainer")

        yield Hostile(f"Trainer: optimizer.pt with {name}", spoil_moments)


def _tokenizers() -> Iterator[Hostile]:
    contents: dict[str, bytes] = {
        "empty": b"",
        "a list": b"[]",
        "a number": b"3",
        "cut": b'{"version": "1.0", "model"',
        "no model": b"{}",
        "not UTF-8": b"\xff\xfe\x00",
        "model is null": b'{"model": null}',
        "no words": b'{"version":"1.0","model":{"type":"WordLevel","vocab":{},"unk_token":"<unk>"}}',
        "words as text": b'{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":"x"},"unk_token":"<unk>"}}',
        "a word of 10**12": b'{"version":"1.0","model":{"type":"WordLevel","vocab":{"<unk>":1000000000},"unk_token":"<unk>"}}',
        "nested 10**5 deep": b"[" * 100_000 + b"]" * 100_000,
    }
    for name, content in contents.items():

        def spoil(root: Path, content: bytes = content) -> Words:
            (root / "hub" / "tokenizer.json").write_bytes(content)
            return learn(root, "hub", root / "text.txt")

        def spoil_train(root: Path, content: bytes = content) -> Words:
            (root / "hub" / "tokenizer.json").write_bytes(content)
            return train(root, f"data.tokenizer.path={root / 'hub'}")

        yield Hostile(f"tokenizer: {name}, learn", spoil)
        yield Hostile(f"tokenizer: {name}, train", spoil_train)
    for key in ("eos_token", "bos_token", "mask_token", "pad_token"):
        for name, value in (
            ("number", 3),
            ("list", [1]),
            ("object", {"content": 3}),
            ("object of null", {"content": None}),
        ):

            def spoil_special(root: Path, key: str = key, value: Any = value) -> Words:
                edited(root / "hub" / "tokenizer_config.json", with_key(key, value=value))
                return train(root, f"data.tokenizer.path={root / 'hub'}")

            yield Hostile(f"tokenizer_config.json: {key} is a {name}", spoil_special, may_pass=True)


def _texts() -> Iterator[Hostile]:
    contents: dict[str, bytes] = {
        "empty": b"",
        "one word": b"w1",
        "not UTF-8": b"\xff\xfe" * 1000,
        "line breaks": b"\n" * 10_000,
    }
    for name, content in contents.items():

        def spoil(root: Path, content: bytes = content) -> Words:
            (root / "text.txt").write_bytes(content)
            return train(root)

        yield Hostile(f"text: {name}", spoil)
    for suffix in (".xz", ".gz"):
        for name, content in (
            ("empty", b""),
            ("text", b"hello"),
            ("cut", b"\xfd7zXZ\x00\x00\x04\xe6"),
            ("zeros", bytes(99)),
        ):

            def packed(root: Path, suffix: str = suffix, content: bytes = content) -> Words:
                (root / f"t{suffix}").write_bytes(content)
                return train(root, f"data.source={root / f't{suffix}'}")

            yield Hostile(f"text: {suffix} {name}", packed)
    for suffix in (".jsonl", ".csv", ".parquet"):
        for name, content in (("empty", b""), ("broken", b'{"text": '), ("no column", b'{"a": "b"}\n')):

            def table(root: Path, suffix: str = suffix, content: bytes = content) -> Words:
                (root / f"t{suffix}").write_bytes(content)
                return train(root, f"data.source={root / f't{suffix}'}")

            yield Hostile(f"text: {suffix} {name}", table)
    for source in ("none.txt", "hub:none/none", "", "*", "/dev/null", "~nobody_of_this_name/x", "\x1b[2J"):
        yield case(f"text: source {source!r}")(
            lambda root, source=source: train(root, f"data.source='{source}'")
        )

    @case("text: one word of 1 MB", may_pass=True)
    def word(root: Path) -> Words:
        (root / "text.txt").write_bytes(b"x" * 1_000_000)
        return train(root)

    @case("text: one word of 1 MB, own tokenizer", may_pass=True)
    def own(root: Path) -> Words:
        (root / "text.txt").write_bytes(b"x" * 1_000_000)
        return train(root, "data.tokenizer={vocab_size: 300}")

    @case("text: one line of 3 GB")
    def line(root: Path) -> Words:
        sparse(root / "text.txt", 3_000_000_000)
        return train(root)

    yield from (word, own, line)


def _images() -> Iterator[Hostile]:
    import numpy as np

    pixels, labels = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 3
    arrays: dict[str, dict[str, Any]] = {
        "no labels": {"images": pixels},
        "no images": {"labels": labels},
        "labels of text": {"images": pixels, "labels": labels.astype(str)},
        "labels of halves": {"images": pixels, "labels": labels + 0.5},
        "negative labels": {"images": pixels, "labels": labels - 1},
        "a label of 10**12": {"images": pixels, "labels": labels + 10**12},
        "a label of 2**64 - 1": {"images": pixels, "labels": np.full(20, 2**64 - 1, np.uint64)},
        "a million labels": {"images": pixels, "labels": labels + 50_000_000},
        "fewer labels": {"images": pixels, "labels": labels[:5]},
        "labels in a square": {"images": pixels, "labels": labels.reshape(4, 5)},
        "one label": {"images": pixels, "labels": np.array(3)},
        "no image": {"images": pixels[:0], "labels": labels[:0]},
        "images of objects": {"images": np.array([None] * 20, object), "labels": labels},
        "flat images": {"images": pixels.reshape(20, -1), "labels": labels},
        "a number": {"images": np.array(3), "labels": labels},
        "images of text": {"images": np.array(["a"] * 20), "labels": labels},
        "tall images": {"images": pixels[:, :4], "labels": labels},
        "infinite pixels": {"pixel_values": np.full((20, 3, 8, 8), np.inf, np.float32), "labels": labels},
        "other size": {"images": np.zeros((20, 16, 16, 3), np.uint8), "labels": labels},
        "other channels": {"images": np.zeros((20, 8, 8, 7), np.uint8), "labels": labels},
        "no JPEG": {
            "header": np.zeros(3, np.uint8),
            "payload": np.zeros(9, np.uint8),
            "offsets": np.array([0, 9]),
            "labels": labels[:1],
        },
        "offsets outside": {
            "header": np.zeros(3, np.uint8),
            "payload": np.zeros(9, np.uint8),
            "offsets": np.array([0, 99]),
            "labels": labels[:1],
        },
        "negative offsets": {
            "header": np.zeros(3, np.uint8),
            "payload": np.zeros(9, np.uint8),
            "offsets": np.array([-9, 9]),
            "labels": labels[:1],
        },
        "sides of zero": {"images": np.zeros((20, 0, 0, 3), np.uint8), "labels": labels},
    }
    for name, content in arrays.items():

        def spoil(root: Path, content: dict[str, Any] = content) -> Words:
            np.savez(root / "images.npz", **content)
            return learn(root, "vit", root / "images.npz")[:-2]

        def spoil_train(root: Path, content: dict[str, Any] = content) -> Words:
            np.savez(root / "images.npz", **content)
            return _image_run(root)

        yield Hostile(f"images: {name}, learn", spoil)
        if "other" not in name:
            yield Hostile(f"images: {name}, train", spoil_train)
    for name, raw in (
        ("empty", b""),
        ("text", b"hello"),
        ("zip of nothing", b"PK\x05\x06" + bytes(18)),
        ("cut", b"PK\x03\x04\x14"),
    ):

        def spoil_raw(root: Path, raw: bytes = raw) -> Words:
            (root / "images.npz").write_bytes(raw)
            return learn(root, "vit", root / "images.npz")[:-2]

        yield Hostile(f"images: {name}", spoil_raw)


def _image_run(root: Path) -> Words:
    text = f"""
output: {root / "out"}
data: {{images: {root / "images.npz"}}}
model: {{model_type: vit, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8, patch_size: 4}}
optimizer: {{learning_rate: 1e-3}}
batch: {{sequences: 4}}
stages: [{{name: a, tokens: 80}}]
"""
    (root / "image.yaml").write_text(text)
    return ("train", root / "image.yaml")


def _curves() -> Iterator[Hostile]:
    tables: dict[str, bytes] = {
        "empty": b"",
        "header alone": b"tokens,loss\n",
        "no loss": b"tokens,x\n1,2\n",
        "words": b"tokens,loss\na,b\n",
        "not UTF-8": b"\xff\xfe\n1,2\n",
        "null bytes": bytes(2000),
        "short row": b"tokens,loss,parameters\n1\n",
        "long row": b"tokens,loss,parameters\n1,2,3,4,5\n" * 4,
        "infinite": b"tokens,loss,parameters\n1e5,inf,1e6\n2e5,nan,1e6\n",
        "negative": b"tokens,loss,parameters\n-1e5,3,1e6\n-2e5,2,1e6\n",
        "zero": b"tokens,loss,parameters\n0,0,0\n0,0,0\n",
        "falls back": b"tokens,loss,parameters\n2e5,3,1e6\n1e5,2,1e6\n",
        "huge": b"tokens,loss,parameters\n1e308,1e308,1e308\n1e309,1e300,1e308\n",
        "a field of 1 MB": b"tokens,loss,parameters\n" + b"9" * 1_000_000 + b",1,1\n",
        "quote that stays open": b'tokens,loss,parameters\n"1,2,3\n' * 1000,
        "twice the column": b"tokens,tokens,loss\n1,2,3\n",
        "digits of another script": "tokens,loss,parameters\n١٢٣,x,1\n".encode(),
        "a million columns": b"a," * 1_000_000 + b"b\n1\n",
    }
    for name, content in tables.items():

        def spoil(root: Path, content: bytes = content) -> Words:
            (root / "curve.csv").write_bytes(content)
            return ("plan", "--fit", root / "curve.csv")

        yield Hostile(f"curve.csv: {name}", spoil)
    stage = {"kind": "stage", "stage": "a", "config": {"model_type": "llama", "hidden_size": 16}, "step": 0}
    row = {"kind": "validation", "stage": "a", "tokens": 10, "flops": 10.0, "val_loss": 2.0}
    logs: dict[str, list[Any] | bytes] = {
        "empty": b"",
        "no JSON": b"{{{\n",
        "lists": [[1], [2]],
        "numbers": [1, 2],
        "null": [None],
        "not UTF-8": b'{"kind": "\xff"}\n',
        "no stage": [row],
        "config is a list": [{**stage, "config": [1]}, row],
        "config is empty": [{**stage, "config": {}}, row],
        "config of text": [{**stage, "config": {"model_type": "llama", "hidden_size": "x"}}, row],
        "config without end": [
            {**stage, "config": {"model_type": "llama", "num_hidden_layers": 10**12}},
            row,
        ],
        "stage is a list": [{**stage, "stage": [1]}, row],
        "kind is a list": [{**stage, "kind": ["stage"]}, row],
        "loss is text": [stage, {**row, "val_loss": "x"}],
        "loss is null": [stage, {**row, "val_loss": None}],
        "loss is true": [stage, {**row, "val_loss": True}],
        "tokens are a list": [stage, {**row, "tokens": [1]}],
        "tokens of 10**400": [stage, {**row, "tokens": 10**400}],
        "no tokens": [stage, {"kind": "validation", "stage": "a", "val_loss": 2.0}],
        "nested 10**5 deep": b'{"kind": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "10**5 digits": b'{"kind": "stage", "tokens": ' + b"9" * 100_000 + b"}\n",
    }
    for name, log in logs.items():

        def spoil_log(root: Path, log: list[Any] | bytes = log) -> Words:
            text = log if isinstance(log, bytes) else "".join(json.dumps(one) + "\n" for one in log).encode()
            (root / "metrics.jsonl").write_bytes(text)
            return ("plan", "--fit", root / "metrics.jsonl")

        yield Hostile(f"metrics.jsonl: {name}", spoil_log)

    @case("metrics.jsonl: a line of 3 GB")
    def line(root: Path) -> Words:
        sparse(root / "metrics.jsonl", 3_000_000_000)
        return ("plan", "--fit", root / "metrics.jsonl")

    @case("curve.csv: a line of 3 GB")
    def table(root: Path) -> Words:
        sparse(root / "curve.csv", 3_000_000_000)
        return ("plan", "--fit", root / "curve.csv")

    yield from (line, table)
    for name, raw in (("empty", b""), ("text", b"hello"), ("cut", bytes(24) + b"abc")):

        def events(root: Path, raw: bytes = raw) -> Words:
            (root / "events.out.tfevents.1").write_bytes(raw)
            plan = (root / "plan.yaml").read_text()
            plan = plan.replace(
                "law: {kind: chinchilla, version: replicated}",
                f"law: {{kind: fit, curves: [{{path: {root / 'events.out.tfevents.1'}, parameters: 1M, tokens_per_step: 10}}]}}",
            )
            (root / "plan.yaml").write_text(plan)
            return ("plan", root / "plan.yaml")

        yield Hostile(f"events: {name}", events)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def _yaml() -> Iterator[Hostile]:
    texts: dict[str, bytes] = {
        "empty": b"",
        "a list": b"- 1\n",
        "a text": b"hello\n",
        "a tab": b"a:\n\t- b\n",
        "open bracket": b"a: [1\n",
        "not UTF-8": b"a: \xff\n",
        "null bytes": bytes(3000),
        "two documents": b"a: 1\n---\nb: 2\n",
        "an object": b"a: !!python/object/apply:os.system ['touch /tmp/outgrow-pwned']\n",
        "a tag": b"a: !x 1\n",
        "the same key twice": b"output: a\noutput: b\n",
        "aliases of aliases": BOMB.encode(),
        "aliases under a key": ("data:\n" + "".join("  " + one + "\n" for one in BOMB.splitlines())).encode(),
        "an alias of itself": b"a: &a [*a]\n",
        "a merge of itself": b"a: &a\n  <<: *a\n",
        "nested 10**4 deep": b"a: " + b"[" * 10_000 + b"]" * 10_000,
        "10**5 digits": b"seed: " + b"9" * 100_000 + b"\n",
        "10**5 hexadecimal digits": b"seed: 0x" + b"f" * 100_000 + b"\n",
        "a date that is none": b"a: 2024-99-99\n",
        "sixty-based digits": b"seed: " + b"1:" * 20_000 + b"1\n",
        "a word of 1 MB": b"output: " + b"x" * 1_000_000 + b"\n",
        "a key of 1 MB": b"x" * 1_000_000 + b": 1\n",
        "a million keys": b"".join(b"k%d: 1\n" % n for n in range(100_000)),
        "a key that is a list": b"? [a, b]\n: 1\n",
        "control characters": b'output: "\\e[2J\\0"\n',
        "markup as a key": b'"[/]": 1\n',
        "ESC in a key": b'"\\e[2J": 1\n',
    }
    for name, content in texts.items():
        for command, file in (("train", "run.yaml"), ("plan", "plan.yaml"), ("compare", "study.yaml")):

            def spoil(
                root: Path, content: bytes = content, command: str = command, file: str = file
            ) -> Words:
                (root / file).write_bytes(content)
                return (command, root / file)

            yield Hostile(f"{file}: {name}", spoil)
    overrides = (
        *(
            "seed",
            "=",
            "seed=",
            "a.b.c=1",
            "stages.7.tokens=1",
            "stages.x=1",
            "seed=[",
            "seed=-1",
            "seed=x",
            "seed=null",
        ),
        *(
            "output=",
            "output=[1]",
            "output=3",
            "batch.sequences=0",
            "batch.sequences=10**9",
            "batch.sequences=1e12",
        ),
        *(
            "stages=[]",
            "stages=3",
            "stages.0.tokens=0",
            "stages.0.tokens=1e400",
            "stages.0.tokens=" + "9" * 5000,
        ),
        *(
            "model.hidden_size=x",
            "model.hidden_size=0",
            "model.hidden_size=1e12",
            "model.num_hidden_layers=100000",
        ),
        *(
            "model.hidden_size=1000000",
            "model.vocab_size=3",
            "model.model_type=reformer",
            "model=3",
            "model.x=3",
        ),
        *(
            "model.num_hidden_layers=" + "9" * 30,
            "optimizer.learning_rate=nan",
            "optimizer.learning_rate=.inf",
        ),
        *(
            "optimizer.learning_rate=-1",
            "optimizer.learning_rate=1e300",
            "stages.0.name=" + "x" * 300,
            "optimizer.name=[/]",
            "data.sequence_length=0",
            "data.sequence_length=1e12",
        ),
        *(
            "data.sequence_length=65",
            "data.validation_share=1",
            "data.tokenizer.path=none",
            "data.tokenizer.path=text.txt",
        ),
        *("data.tokenizer={vocab_size: 1000000000000}", "data.tokenizer={vocab_size: 1}", "schedule.kind=x"),
        *(
            "stages.1.grow.to.hidden_size=3",
            "stages.1.grow.to.num_hidden_layers=100000",
            "stages.1.grow.to.hidden_size=1000000",
        ),
        *(
            "stages.1.grow.to.hidden_size=x",
            "stages.1.grow.width=x",
            "stages.1.grow.depth=[/]",
            "stages.1.grow.operator=none",
        ),
        *(
            "stages.0.from=none",
            "stages.0.name=a/b",
            "device=tpu",
            "precision=float7",
            "compile=maybe",
        ),
        *(
            "checkpoint.every_steps=0",
            "checkpoint.keep=0",
            "log_every_steps=0",
            "evaluation.sequences=0",
            "output=~nobody_of_this_name/x",
        ),
    )
    for override in overrides:
        yield case(f"--set {override[:40]!r}")(lambda root, override=override: train(root, override))
    plans = (
        *(
            "target={}",
            "target.size=none",
            "target.tokens=0",
            "target.tokens=1e400",
            "candidates=[]",
            "candidates=3",
        ),
        *("candidates.0.name=[/]", "candidates.0.sizes=3", "candidates.0.sizes.num_hidden_layers=100000"),
        *(
            "candidates.0.sizes.hidden_size=x",
            "law=3",
            "law.kind=x",
            "law={kind: fit}",
            "stages=0",
            "stages=100000",
        ),
        *(
            "worth=nan",
            "operators=3",
            "model.model_type=reformer",
            "model=3",
            "law={kind: fit, curves: [{path: none}]}",
        ),
    )
    for override in plans:
        yield case(f"plan --set {override[:40]!r}")(
            lambda root, override=override: ("plan", root / "plan.yaml", "--set", override)
        )
    studies = (
        *(
            "arms={}",
            "arms=3",
            "baseline=x",
            "budgets=[]",
            "budgets=[0]",
            "budgets=[2, 1]",
            "seeds=[-1]",
            "seeds=[]",
        ),
        *(
            "tuning.rates=[]",
            "tuning.rates=[nan]",
            "common=3",
            "common.x=1",
            "common.data=3",
            "output=3",
            "arms.grown.stages=[]",
        ),
        *(
            "arms.grown.model=3",
            "arms.scratch.model.num_hidden_layers=100000",
            "arms.grown.stages.1.grow.to.num_hidden_layers=100000",
        ),
    )
    for override in studies:
        yield case(f"compare --set {override[:40]!r}")(
            lambda root, override=override: (
                "compare",
                root / "study.yaml",
                "--set",
                f"output={root / 'out'}",
                "--set",
                override,
            )
        )


def _words() -> Iterator[Hostile]:
    bad = (
        "a[/]b",
        "[bold",
        "$\\frac{$",
        "\x1b[2J\x07",
        "<script>alert(1)</script>",
        "a\nb",
        "…" * 50,
        "x" * 300,
        "-",
        "\u202e",
    )
    for number, word in enumerate(bad):
        yield case(f"words: source {number}")(lambda root, word=word: ("inspect", root / word))
        yield case(f"words: operator {number}")(
            lambda root, word=word: grow(root, "hub", *DEEPER, "--width", word)
        )
        yield case(f"words: format {number}")(
            lambda root, word=word: grow(root, "hub", *DEEPER, "--format", word)
        )
        yield case(f"words: picture {number}")(
            lambda root, word=word: ("plan", root / "plan.yaml", "--plot", root / word)
        )
        yield case(f"words: method {number}")(
            lambda root, word=word: (*learn(root, "hub", root / "text.txt"), "--method", word)
        )
    for command in (
        "inspect",
        "grow",
        "learn",
        "verify",
        "train",
        "plan",
        "compare",
        "export",
        "\x1b[2J",
        "[/]",
    ):
        yield case(f"words: {command!r} alone")(lambda root, command=command: (command,))
    for flags in (
        ("--noise", "nan"),
        ("--noise", "-1"),
        ("--noise", "inf"),
        ("--seed", "-1"),
        ("--moments", "x"),
        ("--depth", "x"),
        ("--depth", "stack:x=1"),
    ):
        yield case(f"words: {' '.join(flags)}")(
            lambda root, flags=flags: grow(root, "native", *DEEPER, *flags)
        )
    yield case("words: --ranks 10**9")(
        lambda root: grow(root, "hub", *DEEPER, "--dry-run", "--ranks", str(10**9))
    )
    yield case("words: --nproc 10**6")(lambda root: (*train(root), "--nproc", str(10**6)))
    for flags in (
        ("--learning-rate", "nan"),
        ("--learning-rate", "-1"),
        ("--steps", "0"),
        ("--dtype", "float7"),
        ("--device", "tpu"),
    ):
        yield case(f"words: verify {' '.join(flags)}")(
            lambda root, flags=flags: ("verify", root / "native", root / "native", *flags)
        )


def _pipes() -> Iterator[Hostile]:
    places = {
        "config.json": "hub/config.json",
        "weights": "hub/model.safetensors",
        "index": "shards/model.safetensors.index.json",
        "manifest": "native/outgrow.json",
        "record": "native/run.json",
        "optimizer.pt": "trainer/optimizer.pt",
        "trainer_state.json": "trainer/trainer_state.json",
        "generation_config.json": "hub/generation_config.json",
    }
    for name, place in places.items():

        def spoil(root: Path, place: str = place) -> Words:
            fifo(root / place)
            return grow(root, place.split("/")[0])

        yield Hostile(f"pipe: {name}", spoil, may_pass=name == "generation_config.json")
    for name, (file, words) in {
        "run.yaml": ("run.yaml", ("train",)),
        "plan.yaml": ("plan.yaml", ("plan",)),
        "study.yaml": ("study.yaml", ("compare",)),
        "curve.csv": ("curve.csv", ("plan", "--fit")),
        "metrics.jsonl": ("metrics.jsonl", ("plan", "--fit")),
        "events": ("events.out.tfevents.1", ("plan", "--fit")),
    }.items():

        def spoil_file(root: Path, file: str = file, words: Words = words) -> Words:
            fifo(root / file)
            return (*words, root / file)

        yield Hostile(f"pipe: {name}", spoil_file)
    for name, file in (("text", "text.txt"), ("packed text", "t.xz"), ("table", "t.jsonl")):

        def spoil_text(root: Path, file: str = file) -> Words:
            fifo(root / file)
            return train(root, f"data.source={root / file}")

        yield Hostile(f"pipe: {name}", spoil_text)

    @case("pipe: tokenizer")
    def tokenizer(root: Path) -> Words:
        fifo(root / "hub" / "tokenizer.json")
        return train(root)

    @case("pipe: tokenizer for learn")
    def learned(root: Path) -> Words:
        fifo(root / "hub" / "tokenizer.json")
        return learn(root, "hub", root / "text.txt")

    @case("pipe: tokenizer_config.json", may_pass=True)
    def settings(root: Path) -> Words:
        fifo(root / "hub" / "tokenizer_config.json")
        return train(root)

    @case("pipe: images")
    def images(root: Path) -> Words:
        fifo(root / "images.npz")
        return _image_run(root)

    @case("pipe: destination")
    def destination(root: Path) -> Words:
        fifo(root / "out")
        return grow(root, "hub")

    @case("pipe: output of a run")
    def output(root: Path) -> Words:
        fifo(root / "out")
        return train(root)

    @case("pipe: lock of a run")
    def lock(root: Path) -> Words:
        (root / "out").mkdir()
        fifo(root / "out" / ".lock")
        return train(root)

    @case("pipe: picture")
    def picture(root: Path) -> Words:
        fifo(root / "a.png")
        return ("plan", root / "plan.yaml", "--plot", root / "a.png")

    @case("pipe: run of a plan")
    def planned(root: Path) -> Words:
        fifo(root / "a.yaml")
        return ("plan", root / "plan.yaml", "--run", root / "a.yaml")

    @case("pipe: operator")
    def operator(root: Path) -> Words:
        fifo(root / "operator.safetensors")
        return ("grow", root / "hub", root / "out", "--operator", root / "operator.safetensors")

    yield from (tokenizer, learned, settings, images, destination, output, lock, picture, planned, operator)


def _places() -> Iterator[Hostile]:
    outs: dict[str, str] = {
        "root of the disk": "/",
        "a device": "/dev/null",
        "proc": "/proc/x",
        "empty name": "",
        "a name of 300": "x" * 300,
        "a path of 5,000": "/".join(["x" * 200] * 25),
    }
    for name, out in outs.items():
        yield case(f"destination: {name}")(lambda root, out=out: ("grow", root / "hub", out, *DEEPER))
        yield case(f"output: {name}")(lambda root, out=out: train(root, f"output={out}"))
    for name in ("text.txt", "hub", "text.txt/below"):
        yield case(f"destination: {name}")(
            lambda root, name=name: ("grow", root / "hub", root / name, *DEEPER)
        )
        yield case(f"output: {name}")(lambda root, name=name: train(root, f"output={root / name}"))
    yield case("destination: a name of 240")(lambda root: ("grow", root / "hub", "x" * 240, *DEEPER))
    for name, source in (("itself", "hub"), ("a link to itself", "link")):
        yield case(f"destination: inside {name}")(lambda root, source=source: _inside(root, source))
    yield case("destination: inside itself, export")(
        lambda root: ("export", root / "trainer", root / "trainer" / "optimizer_0")
    )
    yield case("destination: a folder of photos, --overwrite")(_photos)
    yield case("destination: a folder of runs, --overwrite")(_of_runs)
    yield case("destination: a model with notes beside it, --overwrite")(_with_notes)


def _inside(root: Path, name: str) -> Words:
    (root / "link").symlink_to("hub")
    return ("grow", root / "hub", root / name / "out", *DEEPER)


def _photos(root: Path) -> Words:
    (root / "out").mkdir()
    (root / "out" / "cat.jpg").write_bytes(b"cat")
    return grow(root, "hub", *DEEPER, "--overwrite")


def _with_notes(root: Path) -> Words:
    shutil.copytree(root / "native", root / "out")
    (root / "out" / "notes.txt").write_text("mine")
    return grow(root, "hub", *DEEPER, "--overwrite")


def _of_runs(root: Path) -> Words:
    (root / "out" / "checkpoint-5").mkdir(parents=True)
    (root / "out" / "config.json").write_text("{}")
    return grow(root, "hub", *DEEPER, "--overwrite")


def _operators() -> Iterator[Hostile]:
    described = {
        "format": "outgrow-operator",
        "format_version": 1,
        "method": "ligo",
        "options": {},
        "to": {"num_hidden_layers": 3},
        "eps": {},
        "record": {},
        "digest": "0",
        "source": {"model_type": "llama", "layers": 2, "shapes": {}, "sample": {}},
    }
    changes: dict[str, Any] = {
        "empty": {},
        "a list": [],
        "method of nobody": {**described, "method": "x"},
        "no digest": {**described},
        "to of text": {**described, "to": {"num_hidden_layers": "3"}},
        "to is a list": {**described, "to": [1]},
        "options of lists": {**described, "options": {"rank": [1]}},
        "source is null": {**described, "source": None},
    }
    for name, content in changes.items():

        def spoil(root: Path, content: Any = content) -> Words:
            one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
            header = {"__metadata__": {"outgrow": json.dumps(content)}, "a": one}
            safetensors(root / "operator.safetensors", header, bytes(8))
            return ("grow", root / "hub", root / "out", "--operator", root / "operator.safetensors")

        yield Hostile(f"operator: {name}", spoil)


def _runs() -> Iterator[Hostile]:
    """A run's folder that was damaged since: read again by `train`, and as a curve by `plan`."""

    def again(root: Path) -> Words:
        text = (root / "done" / "run.yaml").read_text()
        (root / "done.yaml").write_text(text)
        return ("train", root / "done.yaml", "--set", f"output={root / 'done'}")

    for key in (
        "checkpoint",
        "stages",
        "step",
        "flops",
        "seconds",
        "metrics_bytes",
        "finished",
        "data",
        "window",
        "x",
    ):
        for kind, value in VALUES.items():

            def pointer(root: Path, key: str = key, value: Any = value) -> Words:
                edited(root / "done" / "latest.json", with_key(key, value=value))
                return again(root)

            yield Hostile(f"latest.json: {key} is {kind}", pointer, may_pass=True)
    for name, raw in {"empty": b"", "cut": b'{"checkpoint": ', "a list": b"[]", "zeros": bytes(99)}.items():

        def pointer_raw(root: Path, raw: bytes = raw) -> Words:
            (root / "done" / "latest.json").write_bytes(raw)
            return again(root)

        yield Hostile(f"latest.json: {name}", pointer_raw)
    rows = ("machine", "stage", "train", "validation", "growth")
    keys = (
        "kind",
        "stage",
        "step",
        "tokens",
        "flops",
        "loss",
        "val_loss",
        "loss_before",
        "parameters",
        "config",
        "seconds",
        "versions",
        "lr",
    )
    for row in rows:
        for key in keys:
            for kind in ("null", "text", "list", "huge", "true", "gone"):

                def metrics(root: Path, row: str = row, key: str = key, kind: str = kind) -> Words:
                    path, found = root / "done" / "metrics.jsonl", []
                    for line in path.read_text().splitlines():
                        content = json.loads(line)
                        if content["kind"] == row and key in content:
                            content = {**content, key: VALUES.get(kind)}
                            content = {k: v for k, v in content.items() if kind != "gone" or k != key}
                        found.append(json.dumps(content))
                    path.write_text("\n".join(found) + "\n")
                    return again(root)

                yield Hostile(f"metrics.jsonl: {key} of {row} is {kind}", metrics, may_pass=True)


def _types() -> Iterator[Hostile]:
    """Every key of every JSON file once with a value of every type: refused, or read by nobody."""
    keys: dict[str, tuple[str, ...]] = {
        "hub/config.json": (
            *(
                "hidden_size",
                "num_attention_heads",
                "num_key_value_heads",
                "intermediate_size",
                "vocab_size",
                "head_dim",
            ),
            *(
                "rope_parameters",
                "tie_word_embeddings",
                "hidden_act",
                "rms_norm_eps",
                "initializer_range",
                "layer_types",
            ),
            *(
                "max_position_embeddings",
                "architectures",
                "attention_bias",
                "eos_token_id",
                "dtype",
                "id2label",
                "num_labels",
            ),
        ),
        "native/outgrow.json": (
            "format",
            "format_version",
            "files",
            "records",
            "lineage",
            "step",
            "libraries",
            "model_type",
        ),
        "native/optimizer.json": ("name", "groups", "steps", "class"),
        "native/run.json": ("step",),
        "trainer/trainer_state.json": (
            *(
                "global_step",
                "epoch",
                "log_history",
                "max_steps",
                "num_train_epochs",
                "stateful_callbacks",
                "best_model_checkpoint",
            ),
        ),
    }
    for place, names in keys.items():
        for key in names:
            for kind, value in VALUES.items():

                def spoil(root: Path, place: str = place, key: str = key, value: Any = value) -> Words:
                    path = root / place
                    content = json.loads(path.read_text())
                    content[key] = value
                    path.write_text(json.dumps(content))
                    if path.name != "outgrow.json":
                        reseal(path.parent)
                    source = place.split("/")[0]
                    return grow(
                        root, source, *WIDER, *(("--format", "trainer") if source == "trainer" else ())
                    )

                yield Hostile(f"{place}: {key} is {kind}", spoil, may_pass=True)
