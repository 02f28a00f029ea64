"""Trains the pieces of a study, one after the other, in one process or several, and says how far it is.

Every piece is an ordinary resumable run in `pieces/<key>`; what is there is never run again. Several processes may work
on one study, or on studies that share their pieces: a piece that another one holds is left to it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from outgrow.comparing.check import Plans
from outgrow.comparing.pieces import Piece, flops
from outgrow.comparing.provenance import check_data, check_same_data
from outgrow.comparing.ran import diverged, is_finished, note_divergence
from outgrow.errors import TrainingError
from outgrow.files.locks import RunBusyError, is_held
from outgrow.text.numbers import duration
from outgrow.training.loop import train_run

Say = Callable[[str], None]


@dataclass
class PieceTrainer:
    """Trains pieces; the time left is that of the whole study, by what all processes have trained since this one began."""

    plans: Plans
    folder: str
    say: Say
    began: float = field(default_factory=time.monotonic)
    done: float = 0.0
    """FLOPs of all pieces that were finished since, by whatever process."""

    def train(
        self, pieces: Sequence[Piece], title: str, *, later: Sequence[Piece] = (), may_diverge: bool = False
    ) -> None:
        """Train every piece that is not there yet, parents first; those that another process holds are waited for.

        `later` follow after these: the time left counts them. `may_diverge`: that a piece does is a result, kept in
        `diverged.json`, and what would follow it is left out; else it is an error.
        """
        waiting, after = self._missing(pieces), self._missing(later)
        left = self._flops([*waiting, *after])
        if waiting:
            check_data(pieces, self.folder)
            tokens, more = (sum(one.tokens for one in some) for some in (waiting, after))
            self.say(
                f"{title}: {len(waiting)} of {len(pieces)} pieces to train, {tokens:,} tokens"
                + (f", {more:,} after it" if more else "")
            )
        while waiting:
            moved = False
            for piece in list(waiting):
                if may_diverge and diverged(piece, self.folder):
                    waiting.remove(piece)
                    left -= self._flops([piece])  # nobody has trained it
                    moved = True
                elif self._trained(piece, title, may_diverge=may_diverge):
                    check_same_data(pieces, self.folder)
                    waiting.remove(piece)
                    moved = True
                    before, left = left, self._flops(self._missing([*waiting, *after]))
                    self.done += before - left
                    self._say_left(title, piece, left)
            if not moved:
                time.sleep(2.0)

    def _trained(self, piece: Piece, title: str, *, may_diverge: bool) -> bool:
        """Train a piece, if its time has come and nobody else does; whether it is finished."""
        if piece.parent is not None and not is_finished(piece.parent, self.folder):
            return False
        if is_held(Path(self.folder) / piece.key):
            return False  # another process trains it; it is looked at again
        try:
            train_run(piece.run(self.folder), progress=False)
        except RunBusyError:
            return False  # another process was faster
        except TrainingError as error:
            if not may_diverge:
                raise TrainingError(f"{title}: {piece.name} ({piece.key}): {error}") from None
            note_divergence(piece, self.folder, error)
            self.say(f"{title}: {piece.name} ({piece.key}) diverges")
            return False
        # Its last state is all that anybody needs of a finished piece.
        shutil.rmtree(Path(self.folder) / piece.key / "stages", ignore_errors=True)
        return True

    def _missing(self, pieces: Iterable[Piece]) -> list[Piece]:
        return [piece for piece in pieces if not is_finished(piece, self.folder)]

    def _flops(self, pieces: Iterable[Piece]) -> float:
        return sum(flops(piece, self.plans) for piece in pieces)

    def _say_left(self, title: str, piece: Piece, left: float) -> None:
        share = self.done / (self.done + left)
        seconds = (time.monotonic() - self.began) / self.done * left
        self.say(
            f"{title}: {piece.name} ({piece.key}); {share:.0%} of the FLOPs, about {duration(seconds)} left"
        )
