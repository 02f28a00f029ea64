"""Parameters behind the numbers of an `optimizer.pt`: Trainer's groups, older orders, frozen ones, and readings that are refused.

The orders of transformers 4.46.3 in `orders_of_4.46.json` were written by that version itself (qwen3_moe: by 4.57.1): name, shape, decayed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DeiTForImageClassification,
    RobertaForMaskedLM,
    ViTForImageClassification,
)

from outgrow.errors import CheckpointError
from outgrow.models.library import library_names
from outgrow.state.training_state import TrainingState
from outgrow.store.config_file import load_config
from outgrow.store.optimizer_order import in_memory

OLD = json.loads((Path(__file__).parent / "orders_of_4.46.json").read_text())
CLASSES = {
    "roberta": RobertaForMaskedLM,
    "vit": ViTForImageClassification,
    "deit": DeiTForImageClassification,
}


def model_of(kind: str, **changes: Any) -> Any:
    """A model of today with the sizes that the old orders were written with."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**OLD[kind]["config"], **changes})
    return CLASSES[kind](config) if kind in CLASSES else AutoModelForCausalLM.from_config(config)


def written(
    folder: Path, kind: str, version: str | None = "4.46.3", drop: tuple[str, ...] = (), **changes: Any
) -> dict[str, torch.Tensor]:
    """A checkpoint as Trainer 4.46 wrote it: moment i is full of i + 1. Returns the moments under their old names."""
    model = model_of(kind, **changes)
    model.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    content["transformers_version"] = version
    (folder / "config.json").write_text(json.dumps(content))
    now = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    rows = [(name, now.get(name, shape), decay) for name, shape, decay in OLD[kind]["parameters"]]
    groups = [[row for row in rows if row[2] == decay and row[0] not in drop] for decay in (True, False)]
    state: dict[int, Any] = {}
    param_groups, moments = [], {}
    for decay, group in zip((0.1, 0.0), groups, strict=True):
        numbers = list(range(len(state), len(state) + len(group)))
        for number, (name, shape, _) in zip(numbers, group, strict=True):
            moments[name] = torch.full(shape, float(number + 1))
            state[number] = {
                "step": torch.tensor(7.0),
                "exp_avg": moments[name],
                "exp_avg_sq": moments[name] ** 2,
            }
        options = dict(torch.optim.AdamW([torch.zeros(1)]).defaults)
        param_groups.append({**options, "weight_decay": decay, "initial_lr": 1e-3, "params": numbers})
    torch.save({"state": state, "param_groups": param_groups}, folder / "optimizer.pt")
    return moments


@pytest.mark.parametrize("kind", sorted(OLD))
def test_orders_of_older_transformers(tmp_path: Path, kind: str) -> None:
    """Every moment comes back under today's name of its parameter, that of each expert at its place in the stack."""
    moments = written(tmp_path, kind)
    state = TrainingState.from_pretrained(tmp_path)
    assert not state.unread
    names, seen = library_names(load_config(tmp_path)), set()
    for old, value in moments.items():
        piece = in_memory(old, names)
        assert piece is not None
        whole = state.source.read(piece.name, "exp_avg")
        if piece.unit >= 0:
            rows = piece.shape[0]
            whole = whole[piece.unit, piece.part * rows : (piece.part + 1) * rows]
        assert torch.equal(whole, value), old
        assert torch.equal(
            state.source.read(piece.name, "exp_avg", slice(0, 1)),
            state.source.read(piece.name, "exp_avg")[:1],
        )
        seen.add(piece.name)
    assert seen == set(state.source.names("weight"))
    assert set(state.steps.values()) == {7.0}


def test_a_grown_checkpoint_of_an_older_version_has_the_groups_of_today(tmp_path: Path) -> None:
    """4.46 decayed Mistral's norms; Trainer of today has them in its second group, where it looks for them."""
    from outgrow.models.library import decay_names
    from outgrow.state.growing import grow

    written(tmp_path / "small", "mistral")
    (tmp_path / "small" / "trainer_state.json").write_text('{"global_step": 7}')
    grown = grow(TrainingState.from_pretrained(tmp_path / "small"), to={"num_hidden_layers": 3})
    out = grown.save_pretrained(tmp_path / "large", format="trainer")
    groups = torch.load(out / "optimizer.pt", weights_only=True)["param_groups"]
    decayed = decay_names(AutoModelForCausalLM.from_pretrained(out))
    assert tuple(groups[0]["param_names"]) == decayed
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_the_version_decides_where_shapes_do_not(tmp_path: Path) -> None:
    """With as many positions as token types RoBERTa's two tables have one shape, and 4.46 had them in another order."""
    position = "roberta.embeddings.position_embeddings.weight"
    same = {"type_vocab_size": OLD["roberta"]["config"]["max_position_embeddings"]}
    moments = written(tmp_path / "old", "roberta", **same)
    state = TrainingState.from_pretrained(tmp_path / "old")
    assert torch.equal(state.source.read(position, "exp_avg"), moments[position])
    written(tmp_path / "unknown", "roberta", version=None, **same)
    (left,) = TrainingState.from_pretrained(tmp_path / "unknown").unread
    assert "several ways" in left.why
    assert "position_embeddings" in left.why


def test_frozen_parameters_have_no_moments(tmp_path: Path) -> None:
    """The embedding was frozen: one reading fits. A frozen matrix of one layer could be that of any: none is taken."""
    from outgrow.state.growing import grow

    frozen = "model.embed_tokens.weight"
    moments = written(tmp_path / "one", "llama", version="5.0.0", drop=(frozen,))
    (tmp_path / "one" / "trainer_state.json").write_text('{"global_step": 7}')
    state = TrainingState.from_pretrained(tmp_path / "one")
    assert not state.unread
    assert frozen not in state.source.names("exp_avg")
    assert all(torch.equal(state.source.read(name, "exp_avg"), value) for name, value in moments.items())
    grown = grow(state, to={"num_hidden_layers": 3, "hidden_size": 48})
    for format in ("native", "trainer"):
        back = TrainingState.from_pretrained(grown.save_pretrained(tmp_path / format, format=format))  # type: ignore[arg-type]
        assert frozen not in back.source.names("exp_avg")
        assert back.steps == grown.steps
    written(tmp_path / "two", "llama", version="5.0.0", drop=("model.layers.1.mlp.up_proj.weight",))
    (left,) = TrainingState.from_pretrained(tmp_path / "two").unread
    assert "several ways" in left.why


def test_names_are_taken_as_they_are_stored(tmp_path: Path) -> None:
    """Under the prefixes of wrappers, some frozen; one that never had a gradient begins at zero, step 0."""
    model = model_of("llama")
    model.save_pretrained(tmp_path)
    chosen = [(f"module._orig_mod.{name}", p) for name, p in model.named_parameters() if "layers.1." in name]
    optimizer = torch.optim.AdamW(chosen[::-1], lr=1e-3)
    for _, parameter in chosen[1:]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    state = TrainingState.from_pretrained(tmp_path)
    assert not state.unread
    assert set(state.source.names("exp_avg")) == {
        name.removeprefix("module._orig_mod.") for name, _ in chosen
    }
    idle = chosen[0][0].removeprefix("module._orig_mod.")
    assert not state.source.read(idle, "exp_avg_sq").any()
    assert {name: step for name, step in state.steps.items() if step != 1.0} == {idle: 0.0}


def test_an_unnamed_adamw_of_older_transformers_is_read(tmp_path: Path) -> None:
    moments = written(tmp_path, "llama")
    content = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    for group in content["param_groups"]:
        for name in set(group) - {"params", "lr", "betas", "eps", "weight_decay", "initial_lr"}:
            group.pop(name)
        group["correct_bias"] = True
    torch.save(content, tmp_path / "optimizer.pt")
    state = TrainingState.from_pretrained(tmp_path)
    assert state.optimizer is not None
    assert state.optimizer.name == "AdamW"
    assert torch.equal(state.source.read("model.norm.weight", "exp_avg"), moments["model.norm.weight"])


def test_states_in_other_files_are_named(tmp_path: Path) -> None:
    for name, made in (("optimizer_0", "dir"), ("global_step10", "dir"), ("scheduler.pt", "file")):
        folder = tmp_path / name / "small"
        model_of("llama").save_pretrained(folder)
        if made == "dir":
            (folder / name).mkdir()
        else:
            torch.save({"base_lrs": [1.0]}, folder / name)
        state = TrainingState.from_pretrained(folder)
        with pytest.raises(CheckpointError, match="half deleted" if made == "file" else name):
            state.save_pretrained(folder.parent / "out")
        state.save_pretrained(folder.parent / "out", format="hub")
