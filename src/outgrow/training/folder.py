"""The run folder, whole at any moment: what a killed run left is enough to go on as if nothing had happened.

run.yaml                       the resolved configuration: run it again, get the same run
metrics.jsonl                  one JSON object per line: machine, stage, train, validation, probe, fit, growth, trigger
latest.json                    where to continue: checkpoint, step, length of metrics.jsonl; replaced atomically
stages/<i>-<name>/step-<n>/    training states;  grown/ beside them is the state a stage started from,
                               operator/ what it fitted
final/                         the last training state
tokenizer/
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from outgrow.errors import ConfigError, OutgrowError
from outgrow.files.atomic import discard, write_json_atomic, write_text_atomic
from outgrow.files.leftovers import clear_leftovers
from outgrow.files.locks import claim, locked
from outgrow.files.metrics_file import check_row, read_rows
from outgrow.files.reading import expanded
from outgrow.files.yaml_file import dump_yaml
from outgrow.parallel.ranks import ALONE, Ranks
from outgrow.run.config import RunConfig
from outgrow.run.run_file import load_run

_MAY_CHANGE = (  # has no influence on the weights but for the order of sums
    "output",
    "data.source",  # of data what they hold is compared
    "data.validation_source",
    "data.images",
    "data.validation_images",
    "checkpoint.keep",
    "checkpoint.asynchronous",
    "tensorboard",
    "parallel.shard",
    "parallel.replicate",
    "parallel.tensor",
    "parallel.reshard_after_forward",
    "parallel.activation_checkpointing",
)
_BRING_BACK = "bring the file back, choose another output, or delete the run"

Natural = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Begun:
    """A stage that has begun: its first step, its position on the schedule there in tokens, and, once over, its end."""

    first: Natural
    position: Natural
    end: Natural | None = None


@dataclass(frozen=True)
class Pointer:
    """A place to continue from. `metrics_bytes` is how much of metrics.jsonl belongs to it.

    `stages` are those that have begun; `window` has loss and gradient norm of the steps since the last row of the log.
    """

    checkpoint: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*(/[^/\\.][^/\\]*)*$")]
    """A path inside the run's folder."""
    stages: Annotated[tuple[Begun, ...], Field(min_length=1)]
    step: Natural
    flops: Finite
    seconds: Finite
    metrics_bytes: Natural
    finished: bool
    data: dict[str, Any]
    window: tuple[Annotated[tuple[float, ...], Field(min_length=2)], ...] = ()


@cache  # building it takes longer than reading a pointer, and a study reads hundreds
def _of_pointers() -> TypeAdapter[Pointer]:
    return TypeAdapter(Pointer)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and its pointer."""

    root: Path

    @property
    def metrics(self) -> Path:
        """The log."""
        return self.root / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's folder."""
        return self.root / "tokenizer"

    @property
    def carried(self) -> Path:
        """Files of the model that the run begins with, which its states carry."""
        return self.root / "carried"

    def stage(self, config: RunConfig, index: int) -> Path:
        """The folder of a stage's states."""
        return self.root / "stages" / f"{index + 1}-{config.stages[index].name}"

    def pointer(self) -> Pointer | None:
        """Where to continue; None for a new run."""
        path = self.root / "latest.json"
        if not path.is_file():
            return None
        try:
            return _of_pointers().validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"{path} is damaged" + "".join(f" at {part}" for part in first["loc"]),
                got=first["msg"],
                fix="choose another output, or delete the run",
            ) from None

    def agreed_pointer(self, ranks: Ranks) -> Pointer | None:
        """The same on every rank: one reads it, so that none sees an older one."""
        record = ranks.first(lambda: None if (found := self.pointer()) is None else asdict(found))
        return None if record is None else _of_pointers().validate_python(record)

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        pointer = self.pointer()
        return pointer is not None and pointer.finished

    def set_pointer(self, pointer: Pointer) -> None:
        """Continue from here after the next start."""
        write_json_atomic(self.root / "latest.json", asdict(pointer))


@contextmanager
def opened_run(config: RunConfig, ranks: Ranks = ALONE) -> Iterator[RunFolder]:
    """Make or check the folder of a run and hold it until the end; rank 0 does it for all."""
    with ExitStack() as held:

        def hold() -> None:
            held.enter_context(_held(config))

        ranks.first(hold)
        yield RunFolder(expanded(config.output))


@contextmanager
def _held(config: RunConfig) -> Iterator[None]:
    root = expanded(config.output)
    run_file = root / "run.yaml"
    if (root / "latest.json").is_file() and run_file.is_file():
        with suppress(OSError):  # `claim` says so better
            (root / ".lock").touch()  # a copy may be without hidden files
    new = [path for path in (root, *root.parents) if not path.exists()]
    claim(root, run_file.name)
    with locked(root), _undone(new):
        folder = RunFolder(root)
        for place in (root, *(path for path in (root / "stages").glob("*") if path.is_dir())):
            clear_leftovers(place)
        if (root / "latest.json").is_file():
            _check_same(run_file, config)
        else:  # nothing to continue: a start that failed early may be started again with another configuration
            _check_not_begun(root)
            shutil.rmtree(folder.tokenizer, ignore_errors=True)
            shutil.rmtree(folder.carried, ignore_errors=True)
            write_text_atomic(run_file, dump_yaml(config.resolved()))
        yield


@contextmanager
def _undone(new: Sequence[Path]) -> Iterator[None]:
    """A mistake that is found before the log was begun leaves nothing: folders that this start made go again."""
    try:
        yield
    except OutgrowError:
        if new and not (new[0] / "metrics.jsonl").exists():
            shutil.rmtree(new[0])
            with suppress(OSError):  # somebody else may have put something there
                for path in new[1:]:
                    path.rmdir()
        raise


def _check_not_begun(root: Path) -> None:
    """A lost `latest.json` is told: to begin again would write over what the run has reached. A first state may have none yet."""
    states = sorted(path.parent for path in root.glob("stages/*/step-*/outgrow.json"))
    later = [path for path in states if not path.parent.name.startswith("1-")]
    if later or len(states) > 1:
        raise ConfigError(
            f"{root} has the states of a run, but not its latest.json, which says where to go on",
            got=f"{len(states)} states, the last {states[-1].relative_to(root)}",
            fix="bring latest.json back, choose another output, or delete the run",
        )


def load_to_train(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run of a file. Raises ConfigError for the one in a run's folder that was moved: the old place would begin anew."""
    config, run_file = load_run(path, overrides), Path(path)
    folder = run_file.absolute().parent
    own = run_file.name == "run.yaml" and (folder / "latest.json").is_file()
    said = any(one.partition("=")[0].strip() == "output" for one in overrides)
    if own and not said and folder.resolve() != expanded(config.output).resolve():
        raise ConfigError(
            f"{run_file} is of the run in its folder, but names another output: the folder was moved, or the command"
            " was started elsewhere",
            got=config.output,
            expected=f"output: {folder}",
            fix=f"to go on with it, add --set output={folder}; for a new run, --set output=NEW",
        )
    return config


def _check_same(run_file: Path, config: RunConfig) -> None:
    # with the defaults of keys that it is too old for
    then, now = load_run(run_file).resolved(), config.resolved()
    if changed := differences(then, now):
        before, after = _flat(then), _flat(now)
        lines = ", ".join(f"{key} (was {before.get(key)!r}, is {after.get(key)!r})" for key in changed)
        raise ConfigError(
            f"{run_file.parent} holds a run with another configuration",
            got=lines,
            fix="choose another output, delete the run, or undo the changes to continue it",
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys of two resolved configurations that differ and matter; a section that only one has differs in each key."""
    first, second = _flat(dict(before)), _flat(dict(now))
    keys = (first.keys() | second.keys()) - {*_MAY_CHANGE}
    return sorted(key for key in keys if first.get(key) != second.get(key))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        items = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list) and value:
        items = [(str(place), part) for place, part in enumerate(value)]
    else:
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, part in items:
        result.update(_flat(part, f"{prefix}.{key}" if prefix else key))
    return result


class MetricsLog:
    """metrics.jsonl, cut to what belongs to the checkpoint and then appended to."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        _check_rows(path, keep_bytes)
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(keep_bytes)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Bring everything to the disk; the length in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Done."""
        self._file.close()


def _check_rows(path: Path, keep_bytes: int) -> None:
    """The log has what belongs to the checkpoint, and a row ends there: else the whole rest would be trained, and not reported."""
    size = path.stat().st_size if path.is_file() else 0
    if size < keep_bytes:
        raise ConfigError(
            f"{path} is shorter than the checkpoint says", got=size, expected=keep_bytes, fix=_BRING_BACK
        )
    if keep_bytes:
        with path.open("rb") as file:
            file.seek(keep_bytes - 1)
            last = file.read(1)
        if last != b"\n":
            raise ConfigError(
                f"{path} is not as its run left it: no row ends where the checkpoint says",
                got=f"{last!r} at byte {keep_bytes - 1:,}",
                fix=_BRING_BACK,
            )


def finished_metrics(run: RunFolder) -> list[dict[str, Any]]:
    """All rows of a finished run, the last of which say what it came to.

    Raises ConfigError where the log has lost its end, so that an earlier loss is never taken for the last, and where a
    validation loss is no finite number.
    """
    pointer = run.pointer()
    assert pointer is not None, "it is finished"
    fix = f"the file is damaged: bring it back, or delete {run.root}, which is then trained again"
    size = run.metrics.stat().st_size if run.metrics.is_file() else 0
    if size < pointer.metrics_bytes:
        raise ConfigError(
            f"{run.metrics} has lost its end",
            got=f"{size:,} bytes",
            expected=f"{pointer.metrics_bytes:,}, as its run left it",
            fix=fix,
        )
    rows = read_metrics(run.metrics)
    losses = [row["val_loss"] for row in rows if row["kind"] == "validation"]
    if not losses or not all(map(math.isfinite, losses)):
        got = next((one for one in losses if not math.isfinite(one)), "none")
        raise ConfigError(
            f"{run.metrics}: a finished run has validation losses",
            got=got,
            expected="finite numbers",
            fix=fix,
        )
    return rows


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole rows; a line cut short by a kill is left out."""
    rows = read_rows(path)[0] if path.is_file() else []
    for line, row in rows:
        check_row(path, line, row)
    return [row for _, row in rows]


def prune(stage_folder: Path, keep: int) -> None:
    """Delete all but the newest checkpoints inside a stage, and what a killed process left of others."""
    found = sorted(path for path in stage_folder.glob("step-*") if path.name.removeprefix("step-").isdigit())
    whole = [path for path in found if (path / "outgrow.json").is_file()]
    for path in found:
        if path not in whole[-keep:]:
            discard(path)
