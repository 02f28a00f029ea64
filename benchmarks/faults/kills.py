"""Killed at any file-system call, started again: nothing half visible, nothing lost, nothing left, the same end.

Each case runs a command once whole, counts the calls by which it changes files, and is then killed before or after one of them
(by SIGKILL; training also by SIGTERM and Ctrl-C, which must save and end with 143 and 130).
"""

from __future__ import annotations

import errno
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.forked import (
    CHANGING,
    COUNT,
    FAIL,
    FAIL_FROM,
    HALF,
    INTERRUPT,
    KILL_AFTER,
    KILL_BEFORE,
    READING,
    TERMINATE,
    Fault,
    Outcome,
    emptied,
    run,
    tree,
)
from faults.sources import WIDER, filled

Tree = dict[str, str]
Words = tuple[object, ...]
_TIMED = ("operator.json", "operator.safetensors", "outgrow.json")
_TIMES = ("seconds", "tokens_per_second", "growth_seconds", "fit_seconds")


@dataclass(frozen=True)
class Case:
    """A command whose results lie in `work`; `end` is what must be the same however often it was killed."""

    name: str
    words: Callable[[Path, Path], Words]
    """From the sources and the folder of work."""
    end: Callable[[Path], Any]
    whole: tuple[str, ...]
    """Names in the folder of work that are absent, as they were, or as they will be: never in between."""
    before: Callable[[Path, Path], None] = lambda root, work: None
    repeats: bool = True
    """Whether the command may be given again once it is done."""


def _grow(name: str, source: str, *more: str, over: bool = False) -> Case:
    def before(root: Path, work: Path) -> None:
        if over:
            shutil.copytree(root / "native", work / "out")

    words = (*WIDER, "--to", "num_hidden_layers=3", "--width", "isometric", "--depth", "identity", *more)
    overwrite = ("--overwrite",) if over else ()
    return Case(
        f"grow {name}",
        lambda root, work: ("grow", root / source, work / "out", *words, *overwrite),
        lambda work: tree(work / "out"),
        ("out",),
        before,
        repeats=over,
    )


def _train(root: Path, work: Path) -> Words:
    from faults.sources import RUN

    (work.parent / "run.yaml").write_text(filled(RUN, root, work / "out"))
    return ("train", work.parent / "run.yaml")


def _trained(work: Path) -> Any:
    rows = [json.loads(line) for line in (work / "out" / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if k not in _TIMES} for row in rows if row["kind"] != "machine"]
    return tree(work / "out" / "final"), kept, sorted(path.name for path in (work / "out").iterdir())


def _learn(name: str, *more: str, keep: bool = True, over: bool = False) -> Case:
    """A fit, kept or not; `over` puts a model grown before, and its operator, in its way. LESA wants three layers."""
    lesa = "lesa" in more

    def words(root: Path, work: Path) -> Words:
        text = () if lesa else ("--data", root / "text.txt", "--sequences", "2", "--length", "16")
        deeper = ("--to", f"num_hidden_layers={4 if lesa else 3}", "--steps", "2")
        kept = ("--save-operator", work / "op") if keep else ()
        overwrite = ("--overwrite",) if over else ()
        source = root / ("deep" if lesa else "hub")
        return ("learn", source, work / "out", *deeper, *text, *more, *kept, *overwrite)

    def before(root: Path, work: Path) -> None:
        if not over:
            return
        shutil.copytree(root / "native", work / "out")
        if keep:
            (work / "op").mkdir()
            (work / "op" / "operator.json").write_text("{}")
            shutil.copy(root / "hub" / "model.safetensors", work / "op" / "operator.safetensors")

    def end(work: Path) -> Any:
        operator = json.loads((work / "op" / "operator.json").read_text())["digest"] if keep else None
        return tree(work / "out")["model.safetensors"], operator

    return Case(name, words, end, ("op", "out") if keep else ("out",), before, repeats=over)


def _plan(root: Path, work: Path) -> Words:
    return ("plan", root / "plan.yaml", "--plot", work / "plan.png", "--run", work / "run.yaml")


def _compare(root: Path, work: Path) -> Words:
    from faults.sources import STUDY

    (work.parent / "study.yaml").write_text(filled(STUDY, root, work / "out"))
    return ("compare", work.parent / "study.yaml")


def _compared(work: Path) -> Any:
    result = json.loads((work / "out" / "study.json").read_text())
    losses = [[point["arm"], point["budget"], point["loss"]] for point in result["points"]]
    return losses, result["rates"], sorted(path.name for path in (work / "out").iterdir())


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        _grow("native", "native"),
        _grow("native over", "native", over=True),
        _grow("trainer", "trainer", "--format", "trainer"),
        _grow("hub", "shards", "--format", "hub"),
        Case("train", _train, _trained, ()),
        _learn("learn"),
        _learn("learn over", over=True),
        _learn("learn lesa", "--method", "lesa"),
        _learn("learn unkept", keep=False, over=True),
        Case("plan", _plan, tree, ("plan.png", "run.yaml")),
        Case("compare", _compare, _compared, ()),
    )
}


def _timeless(path: Path) -> str:
    """What a file holds that tells how long a fit took, without that: the length and padding of a header hang on it too."""
    return re.sub(rb'(seconds|crc32)[\\\\"]*:[^,}]*', b"", path.read_bytes()[8:].replace(b" ", b"")).hex()


@dataclass
class Bench:
    """A case with its reference and its number of calls."""

    case: Case
    root: Path
    work: Path
    kinds: tuple[str, ...] = CHANGING

    def __post_init__(self) -> None:
        self.fresh()
        self.old = self.seen()
        log = self.work.parent / "calls.txt"
        done = self.go(Fault(self.work, 0, COUNT, 0, self.kinds, log))
        assert done.code == 0, done.err
        self.calls = [line.split(" ", 2)[1] for line in log.read_text().splitlines()]
        self.end, self.new = self.case.end(self.work), self.seen()
        self.names = sorted(path.name for path in self.work.iterdir())

    def fresh(self) -> None:
        """The folder of work as before the first start."""
        emptied(self.work)
        self.case.before(self.root, self.work)

    def go(self, fault: Fault | None = None, **options: Any) -> Outcome:
        """One start of the command."""
        return run(self.case.words(self.root, self.work), fault=fault, seconds=300, **options)

    def seen(self) -> dict[str, Any]:
        """What stands under the names that are whole or absent."""
        return {name: self._one(self.work / name) for name in self.case.whole}

    def _one(self, path: Path) -> Any:
        if path.is_file():
            return path.stat().st_size
        found = tree(path)
        if self.case.name.startswith("learn"):
            found |= {name: _timeless(path / name) for name in _TIMED if name in found}
        return found

    def wrong(self) -> Iterator[str]:
        """What is half visible now."""
        for name, found in self.seen().items():
            if found not in (self.old[name], self.new[name]):
                yield f"{name} is half visible"
        pointer = self.work / "out" / "latest.json"
        if pointer.is_file():
            target = self.work / "out" / json.loads(pointer.read_text())["checkpoint"]
            if not (target / "outgrow.json").is_file():
                yield "latest.json points to nothing"

    def again(self) -> Iterator[str]:
        """Start it again until the end; what is wrong then."""
        done = self.case.repeats is False and self.seen() == self.new
        result = self.go()
        if done:
            if result.code != 2:
                yield f"what was done is done again: {result.code}"
        elif result.code != 0:
            yield f"started again: {result.code} {result.message}"
            return
        if self.case.end(self.work) != self.end:
            yield "another end"
        if (names := sorted(path.name for path in self.work.iterdir())) != self.names:
            yield f"left: {set(names) ^ set(self.names)}"
        if temporary := [str(path) for path in self.work.rglob("*.tmp-*")]:
            yield f"left: {temporary[:2]}"


def kill(bench: Bench, number: int, how: int) -> list[str]:
    """Kill it at one call, and start it again."""
    bench.fresh()
    result = bench.go(Fault(bench.work, number, how, 0, bench.kinds))
    wanted = {TERMINATE: 143, INTERRUPT: 130}.get(how, -9)
    wrong = list(bench.wrong())
    if result.code not in (wanted, 0) or (how in (KILL_BEFORE, KILL_AFTER) and result.code == 0):
        wrong.append(f"ended with {result.code}: {result.message}")
    return [*wrong, *bench.again()]


def kills(bench: Bench, count: int, seed: int) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Names and checks of `count` kills: spread over all calls, first those that are no repetition of the call before."""
    dice = random.Random(f"{bench.case.name} {seed}")
    ways = [(number, how) for number in range(1, len(bench.calls) + 1) for how in (KILL_BEFORE, KILL_AFTER)]
    if bench.case.name == "train":
        ways += [(number, how) for number in range(1, len(bench.calls) + 1) for how in (TERMINATE, INTERRUPT)]
    dice.shuffle(ways)
    ways.sort(key=lambda way: way[0] > 1 and bench.calls[way[0] - 1] == bench.calls[way[0] - 2])
    for number, how in ways[:count]:
        kind = {KILL_BEFORE: "before", KILL_AFTER: "after", TERMINATE: "SIGTERM at", INTERRUPT: "SIGINT at"}[
            how
        ]
        yield f"{kind} call {number}", lambda number=number, how=how: kill(bench, number, how)


ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EFBIG": errno.EFBIG, "EACCES": errno.EACCES}


def failures(case: Case, root: Path, work: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Every call of a growth failed once, by every error in turn; writes also by half, or from one call on."""
    bench = Bench(case, root, work)
    for number, kind in enumerate(bench.calls, start=1):
        name = list(ERRORS)[number % len(ERRORS)]
        yield (
            f"{kind} {number}: {name}",
            lambda number=number, name=name: fail(bench, number, FAIL, ERRORS[name]),
        )
        if kind == "write":
            yield f"{kind} {number}: half", lambda number=number: fail(bench, number, HALF, 0)
        if number % 5 == 0:
            yield (
                f"from {number} on: ENOSPC",
                lambda number=number: fail(bench, number, FAIL_FROM, errno.ENOSPC),
            )
    copy = work.parent / "source"
    read = Case(
        case.name, lambda _, place: case.words(copy, place), case.end, case.whole, case.before, case.repeats
    )
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy)
    other = Bench(read, root, work)
    log = work.parent / "calls.txt"
    other.fresh()
    other.go(Fault(copy, 0, COUNT, 0, READING, log))
    for number, line in enumerate(log.read_text().splitlines(), start=1):
        yield (
            f"source {line.split(' ', 2)[1]} {number}: EIO",
            lambda number=number: fail(other, number, FAIL, errno.EIO, folder=copy, kinds=READING),
        )


def fail(
    bench: Bench,
    number: int,
    how: int,
    error: int,
    *,
    folder: Path | None = None,
    kinds: tuple[str, ...] = CHANGING,
) -> list[str]:
    """Fail one call: done all the same, or exit code 2 and one message; and a start after it is right."""
    bench.fresh()
    removing = ("unlink", "rmdir")
    kept = tuple(kind for kind in kinds if how != FAIL_FROM or kind not in removing)
    result = bench.go(Fault(folder or bench.work, number, how, error, kept))
    wrong = list(bench.wrong())
    if result.code not in (0, 2):
        wrong.append(f"ended with {result.code}: {result.message}")
    if "Traceback" in result.err:
        wrong.append("a traceback")
    if result.code == 0 and bench.case.end(bench.work) != bench.end:
        wrong.append("exit code 0, and another result")
    return [*wrong, *bench.again()]
