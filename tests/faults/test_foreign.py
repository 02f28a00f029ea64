"""Folders of another kind are named for what they are; what would hang or fill the memory is refused before it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from outgrow.errors import CheckpointError, ConfigError
from outgrow.files.metrics_file import check_row, read_rows
from outgrow.files.reading import check_regular, expanded, read_lines
from outgrow.files.yaml_file import apply_override, read_yaml
from outgrow.models.architecture import resolve
from outgrow.models.library import config_object
from outgrow.store.config_file import load_config

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def gguf(folder: Path) -> None:
    (folder / "a-Q4.gguf").write_bytes(b"GGUF")


def pointer(folder: Path) -> None:
    (folder / "config.json").write_text(POINTER)


def snapshots(folder: Path) -> None:
    (folder / "snapshots" / "0123").mkdir(parents=True)


def cache(folder: Path) -> None:
    (folder / "models--a--b").mkdir()


def broken_link(folder: Path) -> None:
    (folder / "config.json").symlink_to("../blobs/0")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (adapter, "merge"),
        (gguf, "GGUF"),
        (pointer, "git lfs pull"),
        (snapshots, "snapshots/0123"),
        (cache, "models--a--b"),
        (broken_link, "link to nothing"),
        (pipe, "a pipe"),
    ],
)
def test_folders_of_another_kind(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        load_config(tmp_path)


def test_names_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hf download someone/small --local-dir"):
        load_config(Path("someone/small"))
    (tmp_path / "a").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="a GGUF file"):
        load_config(tmp_path / "a")


@pytest.mark.parametrize(
    "size", [{"num_hidden_layers": 100_000}, {"num_labels": 10**12}, {"vocab_size": 10**15}]
)
def test_sizes_are_checked_before_a_model_is_built(size: dict[str, int]) -> None:
    for build in (resolve, config_object):
        with pytest.raises(CheckpointError, match=r"beyond what outgrow builds"):
            build({"model_type": "llama", **size})


@pytest.mark.parametrize("names", [True, -1, 0.5, {"a": {}}, [3], "LlamaForCausalLM"])
def test_class_names_are_a_list_of_words(names: object) -> None:
    for build in (resolve, config_object):
        with pytest.raises(CheckpointError, match=r"no list of class names"):
            build({"model_type": "llama", "architectures": names})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a: &a [x, x]\n"
            + "".join(
                f"{n}: &{n} [{'*' + o}, *{o}]\n"
                for o, n in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
            ),
            "aliases counted",
        ),
        ("a: &a [*a]\n", "stands for itself"),
        ("a: " + "[" * 10_000, "invalid YAML"),
        ("a: " + "9" * 100_000, "invalid YAML"),
        ("a: " + "x" * 1_000_000, "too long"),
    ],
)
def test_yaml(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as refused:
        read_yaml(tmp_path / "a.yaml")
    assert len(str(refused.value)) < 3000


def test_overrides_are_numbers_where_a_list_stands() -> None:
    for part in ("²", "9" * 5000, "-1"):
        with pytest.raises(ConfigError, match="no such place"):
            apply_override({"a": [1]}, f"a.{part}=1")


def test_pipes_lines_and_homes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for refuse in (check_regular, read_yaml, lambda path: list(read_lines(path)), read_rows):
        with pytest.raises(ConfigError, match="a pipe"):
            refuse(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="home of nobody"):
        expanded("~nobody_of_this_name/x")
    (tmp_path / "long").write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="longer than 4,096"):
        list(read_lines(tmp_path / "long", 4096))


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"kind": ["stage"]},
        {"kind": "machine", "versions": None},
        {
            "kind": "validation",
            "stage": "a",
            "step": 1,
            "tokens": 1,
            "flops": 1,
            "seconds": 1,
            "val_loss": "x",
        },
        {"kind": "train", "stage": "a", "step": True},
    ],
)
def test_rows_of_a_log(row: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="line 7"):
        check_row(Path("metrics.jsonl"), 7, json.loads(json.dumps(row)))
