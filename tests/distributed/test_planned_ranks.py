"""What a growth on many ranks is said to read is what it reads, and its parts are those that are written."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from battery import growing, zoo
from outgrow.growth.rank_costs import rank_costs
from outgrow.state.grown_view import GrownView
from outgrow.store.source import MemorySource, Rows
from outgrow.store.writer import blocks_of, shares

SLOTS = ("weight", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Counting(MemorySource):
    """Remembers which rows of which tensor were asked for."""

    rows: dict[tuple[str, str], set[int]] = field(default_factory=lambda: defaultdict(set))

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        tensor = self.tensors[slot][name]
        asked = torch.arange(len(tensor))[slice(None) if rows is None else rows]
        self.rows[slot, name].update(asked.tolist())
        return super().read(name, slot, rows)

    def bytes(self) -> int:
        return sum(
            len(rows) * self.meta(name, slot).bytes // self.meta(name, slot).shape[0]
            for (slot, name), rows in self.rows.items()
        )


@pytest.mark.parametrize(
    ("width", "depth"), [("isometric", "stack"), ("duplicate", "interleave"), ("aki", "stack")]
)
@pytest.mark.parametrize("placement", ["files", "shards"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_need_what_is_planned(width: str, depth: str, placement: str, ranks: int) -> None:
    made = growing.planned(
        "gpt2", growing.deeper("gpt2", growing.usual(width, "gpt2"), 6), width=width, depth=depth
    )
    weights = growing.weights(zoo.build(zoo.config("gpt2"), dtype=torch.float32))
    block = 1 << 10
    cost = rank_costs(made, ranks, placement, block_bytes=block)  # type: ignore[arg-type]
    assert cost.written.sum() == 3 * 4 * made.large.num_parameters
    for rank in range(ranks):
        source = Counting(dict.fromkeys(SLOTS, weights))
        view = GrownView(made, source)
        if placement == "files":
            places = {(slot, name): (0, 0) for slot in SLOTS for name in view.names(slot)}
            blocks = list(blocks_of(view, places, block))
            share = shares([one.size * len(one.keys) for one in blocks], ranks)[rank]
            parts = [(one.keys[0][0], one.keys[0][1], one.rows) for one in blocks[share.start : share.stop]]
            assert cost.written[rank] == sum(
                one.size * len(one.keys) for one in blocks[share.start : share.stop]
            )
        else:
            parts = []
            for slot in SLOTS:
                for name in view.names(slot):
                    step = -(-view.meta(name, slot).shape[0] // ranks)
                    parts.append((slot, name, slice(rank * step, (rank + 1) * step)))
        for slot, name, rows in parts:
            view.read(name, slot, rows)
        assert cost.needed[rank] == source.bytes(), (rank, placement)
    # every width operator that copies whole units, and every depth operator: a byte is read once by each who needs it
    assert cost.amplification <= (1.1 if width != "aki" else 2.0)


def test_a_growth_of_70_billion_on_1024_ranks() -> None:
    llama = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}
    from outgrow.growth.plan import plan
    from outgrow.methods.build import build
    from outgrow.models.architecture import resolve

    made = plan(build(resolve({**llama, **heads}), {"num_hidden_layers": 160}, depth="stack", noise=0.1))
    cost = rank_costs(made, 1024, "files")
    assert made.large.num_parameters > 139e9
    assert cost.read.max() < 2 * cost.read.mean()
    assert cost.written.max() < 1.05 * cost.written.mean()
    assert cost.amplification == 1.0
