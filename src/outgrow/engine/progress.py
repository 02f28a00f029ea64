"""What a person sees while work goes on: a bar with the time left on a terminal; of a run, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

from outgrow.errors import printable
from outgrow.text.numbers import amount


class Progress(Protocol):
    """The loop's only words to the outside."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage begins: steps done and in total."""

    def step(self, done: int, row: dict[str, Any]) -> None:
        """Steps done in this stage, and the newest row of the log."""

    def read(self, name: str, done: int, total: int) -> None:
        """Bytes of a saved state that are read."""

    def __enter__(self) -> Progress: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_progress(show: bool) -> Progress:
    """A bar where standard error is a terminal, plain lines where it is not, silence where nothing is wanted."""
    if not show:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


class Silent:
    """Nothing."""

    def say(self, text: str) -> None:
        pass

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def step(self, done: int, row: dict[str, Any]) -> None:
        pass

    def read(self, name: str, done: int, total: int) -> None:
        pass

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Lines(Silent):
    """A line every few seconds, on standard error."""

    def __init__(self, every_seconds: float = 5.0) -> None:
        self._every = every_seconds
        self._last = self._began = time.monotonic()
        self._name, self._first, self._total = "", 0, 0

    def say(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    def stage(self, name: str, done: int, total: int) -> None:
        self._name, self._first, self._total = name, done, total
        self._began = self._last = time.monotonic()

    def step(self, done: int, row: dict[str, Any]) -> None:
        if not self._due(done, self._total):
            return
        now = time.monotonic()
        left = (now - self._began) / max(1, done - self._first) * (self._total - done)
        self.say(f"{self._name}: step {done}/{self._total}  {_numbers(row)}  {left:.0f} s left in this stage")

    def read(self, name: str, done: int, total: int) -> None:
        if done < total and self._due(done, total):
            self.say(f"{name}: read {amount(done)}B of {amount(total)}B")

    def _due(self, done: int, total: int) -> bool:
        """Whether it is time for a line, or nothing is left."""
        now = time.monotonic()
        due = now - self._last >= self._every
        self._last = now if due else self._last
        return due or done >= total

    def __enter__(self) -> Lines:
        return self


class Bar:
    """One rich bar per stage, with the newest loss and the time left."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._bars = progress.Progress(
            progress.TextColumn("{task.description}", style="bold", markup=False),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[numbers]}", markup=False),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: Any = None
        self._total = 0
        self._reading: Any = None

    def say(self, text: str) -> None:
        self._bars.console.print(printable(text), highlight=False, markup=False, emoji=False)

    def stage(self, name: str, done: int, total: int) -> None:
        self._total = total
        self._task = self._bars.add_task(
            printable(name), total=total, completed=done, numbers=f"{done}/{total}"
        )

    def step(self, done: int, row: dict[str, Any]) -> None:
        numbers = f"{done}/{self._total} {_numbers(row)}"
        self._bars.update(self._task, completed=done, numbers=numbers)

    def read(self, name: str, done: int, total: int) -> None:
        if self._reading is None:
            self._reading = self._bars.add_task(printable(name), total=total, numbers="")
        self._bars.update(self._reading, completed=done, numbers=f"read {amount(done)}B of {amount(total)}B")
        if done >= total:
            self._bars.remove_task(self._reading)
            self._reading = None

    def __enter__(self) -> Bar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def _numbers(row: dict[str, Any]) -> str:
    if "loss" not in row:
        return ""
    return f"loss {row['loss']:.3f}  lr {row['lr']:.1e}  {row['tokens_per_second'] / 1000:.1f}k tokens/s"


@contextmanager
def bytes_progress(what: str, *, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes read or written, with speed and time left, where standard error is a terminal; elsewhere nothing."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True, quiet=not show)
    columns = (
        progress.TextColumn(what),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    # where nobody looks on, rich would still end the bar with an empty line
    with progress.Progress(
        *columns, console=console, transient=True, disable=not (show and console.is_terminal)
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
