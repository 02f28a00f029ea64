"""T5 trains by writing hidden spans: which are hidden, what a run of it keeps, what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from outgrow.cost.flops import asked_places, model_cost, training_flops_per_token
from outgrow.cost.frozen_flops import frozen_training_flops
from outgrow.cost.memory import training_memory
from outgrow.cost.spans import span_lengths
from outgrow.data.needs import TextNeeds, model_config
from outgrow.data.objectives import objective_of, summed_loss
from outgrow.data.spans import Corruption
from outgrow.data.tokenizer import open_tokenizer
from outgrow.engine.step import build_for_training
from outgrow.errors import ConfigError
from outgrow.run.run_file import parse_run
from outgrow.state.training_state import TrainingState
from outgrow.training import dry_run, loop, train_run

Tiny = Callable[..., dict[str, Any]]
T5 = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "d_ff": 24,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
}
LARGER = {"to": {"d_model": 24, "num_heads": 3, "d_ff": 40, "num_decoder_layers": 2}, "depth": "identity"}
SENTINELS = tuple(range(1000, 1100))


def runs(tokens: list[int]) -> list[list[int]]:
    """Written tokens, cut before every sentinel."""
    found: list[list[int]] = []
    for token in tokens:
        found = [*found, [token]] if token in SENTINELS else [*found[:-1], [*found[-1], token]]
    return found


@pytest.mark.parametrize(("length", "share"), [(2, 0.15), (3, 0.9), (7, 0.15), (40, 0.15), (64, 0.5)])
def test_both_stacks_together_are_the_text(length: int, share: float) -> None:
    texts = torch.arange(6 * length).view(6, length) % 1000
    read, written = Corruption(SENTINELS, share).apply(texts, (0, 7, 3))
    made = span_lengths(length, share)
    assert (read.shape, written.shape) == ((6, made.encoder), (6, made.decoder))
    for text, left, right in zip(texts.tolist(), read.tolist(), written.tolist(), strict=True):
        spans = {first: rest for first, *rest in runs(right)}
        assert list(spans) == list(SENTINELS[: made.spans + 1])
        assert spans.pop(SENTINELS[made.spans]) == []
        assert all(spans.values())
        assert [one for token in left for one in spans.get(token, [token])] == text


def test_spans_are_a_function_of_the_key_and_three_tokens_long_on_average() -> None:
    texts, corruption = torch.arange(200).expand(300, -1), Corruption(SENTINELS)
    _, written = corruption.apply(texts, (0, 7, 3))
    assert torch.equal(written, corruption.apply(texts, (0, 7, 3))[1])
    assert not torch.equal(written, corruption.apply(texts, (0, 7, 4))[1])
    lengths = np.array([len(run) - 1 for row in written.tolist() for run in runs(row)[:-1]])
    assert lengths.mean() == 3
    assert set(lengths[:2000]) > set(range(1, 8))
    hidden = np.zeros(200)
    np.add.at(hidden, written[written < 1000].numpy(), 1 / 300)
    # a kept span comes first and a hidden one last; between them every place is hidden as often, 5 sigma of 300 draws
    assert hidden[20:-20] == pytest.approx(0.15, abs=5 * (0.15 * 0.85 / 300) ** 0.5)


def test_t5_learns_grows_and_goes_on_to_the_bit(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [
        {"name": "small", "tokens": 128 * 20},
        {"name": "large", "tokens": 128 * 20, "grow": {**LARGER, "noise": 0.0}},
    ]
    content = tiny(model=T5, stages=stages)
    content["data"] |= {"sequence_length": 32}
    dry = dry_run(parse_run(content))
    result = train_run(parse_run(content), progress=False)
    small, large = result.stages
    assert large.loss_after_growth == pytest.approx(large.loss_before_growth, rel=1e-5)
    assert small.final_loss is not None
    assert large.final_loss is not None
    assert large.final_loss < small.final_loss < np.log(300)
    assert [one.flops for one in dry.stages] == [pytest.approx(one.flops) for one in result.stages]
    final = TrainingState.from_pretrained(tmp_path / "run" / "final")
    assert large.flops == pytest.approx(large.tokens * training_flops_per_token(final.config, 32))
    assert final.config["decoder_start_token_id"] == final.config["pad_token_id"] == 1
    tokenizer = open_tokenizer(tmp_path / "run" / "final")
    assert tokenizer.sentinels == tuple(range(2, 2 + span_lengths(32).spans + 1))

    content["output"] = str(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        for _ in range(2):  # at the end of either stage
            patch.setattr(loop, "_leave", killed)
            with pytest.raises(KeyboardInterrupt):
                train_run(parse_run(content), progress=False)
    train_run(parse_run(content), progress=False)
    other = TrainingState.from_pretrained(tmp_path / "stopped" / "final")
    for slot in ("weight", "exp_avg"):
        for name in final.source.names(slot):
            assert torch.equal(final.source.read(name, slot), other.source.read(name, slot)), name


def killed(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_too_few_tokens_that_stand_for_spans_are_told(tiny: Tiny, tmp_path: Path) -> None:
    content = tiny(model=T5)
    content["data"]["sequence_length"] = 1
    with pytest.raises(ConfigError, match="a text of one token has no span to hide"):
        dry_run(parse_run(content))
    content["data"] |= {"sequence_length": 16, "tokenizer": {"vocab_size": 258}}
    with pytest.raises(ConfigError, match="no room for the tokens that stand for what is hidden"):
        dry_run(parse_run(content))
    content["data"]["tokenizer"] = {"vocab_size": 300}
    content["stages"] = [{"name": "small", "tokens": 64}]
    train_run(parse_run(content), progress=False)
    content["data"] |= {"tokenizer": {"path": str(tmp_path / "run" / "final")}, "sequence_length": 64}
    with pytest.raises(ConfigError, match="3 hidden spans"):
        dry_run(parse_run(content))


GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
PLAIN = {"feed_forward_proj": "relu", "tie_word_embeddings": True, "num_layers": 4}


def t5(**changes: Any) -> dict[str, Any]:
    """A config of its own sizes in either stack, nothing dropped."""
    own = {
        **T5,
        "num_decoder_layers": 3,
        "vocab_size": 101,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        **changes,
    }
    return model_config(own, TextNeeds(101, 50, 1))


@pytest.mark.parametrize("changes", [GATED, PLAIN])
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_flops_are_those_of_each_stack_at_its_own_places(changes: dict[str, Any], share: float) -> None:
    config = t5(**changes)
    length, objective = 50, objective_of(config)
    model: Any = build_for_training(config)
    model.set_attn_implementation("eager")  # the counter knows no fused kernel of a CPU
    read, written = objective.example(config, 2, length, share)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        scores, _ = objective.scores(model, read, written)
    cost = model_cost(config)
    per_token = cost.forward(length, share=share)
    assert per_token == counted.get_total_flops() // (2 * length)
    assert training_flops_per_token(config, length, share) == 3 * per_token
    assert frozen_training_flops(config, length, (), share) == pytest.approx(3 * per_token, rel=1e-3)
    assert scores.shape[1] == asked_places(config, length, share) == span_lengths(length, share).decoder
    triangle = cost.forward(length) - cost.forward(length, causal=True)
    own = replace(cost, encoder=None).attention_width - cost.encoder.width - cost.encoder.crossing
    places = span_lengths(length).decoder
    assert triangle == pytest.approx(own * places * (places - 1) / length, abs=1)


@pytest.mark.parametrize("changes", [GATED, PLAIN])
def test_memory_is_what_pytorch_keeps(changes: dict[str, Any]) -> None:
    """Within 8 %: what is left out are masks, numbers of buckets, and a number or two per token and norm."""
    config, length = t5(d_model=64, d_ff=160, num_heads=4, d_kv=16, **changes), 128
    model, objective = build_for_training(config), objective_of(config)
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = summed_loss(*objective.scores(model, *objective.example(config, 2, length, 0.15)))
        measured = sum(size for place, size in kept.items() if place not in own)
    assert loss.requires_grad
    assert training_memory(config, sequences=2, sequence_length=length).activations == pytest.approx(
        measured, rel=0.08
    )
