"""Conversions: every edge describes the same function, training commutes with it, and every mistake is named first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from battery import zoo
from outgrow.cli import app
from outgrow.errors import ArchitectureError, GrowthError, OutgrowError
from outgrow.models import conversion as conversions
from outgrow.models.conversion import conversion, edges
from outgrow.proof.verify import verify
from outgrow.state.converting import convert
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState

EDGES = edges()
SOURCES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **zoo.LLAMA},
    "mistral": {"model_type": "mistral", **zoo.LLAMA, "sliding_window": None},
    "qwen2": {"model_type": "qwen2", **zoo.QWEN2},
    "qwen3": {"model_type": "qwen3", **zoo.LLAMA},
}


@contextmanager
def everything_in_float64() -> Iterator[None]:
    """Every cast to float32 inside a model leaves float64 as it is, so that 1e-15 means exact."""
    to, cast = Tensor.to, Tensor.float

    def stays(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.dtype == torch.float64 and torch.float32 in (*args, *kwargs.values()):
            return self
        return to(self, *args, **kwargs)

    Tensor.to, Tensor.float = stays, lambda self: stays(self, torch.float32)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.to, Tensor.float = to, cast  # type: ignore[method-assign]


def made(source: str, seed: int = 0, **fields: Any) -> nn.Module:
    """A small model of a source type with random weights."""
    settings = {**zoo.TOKENS, **SOURCES[source], **fields}
    full = zoo.transformers.AutoConfig.for_model(settings.pop("model_type"), **settings).to_dict()
    return zoo.build(full, seed)


def loaded(state: TrainingState) -> nn.Module:
    """A live model that holds a state."""
    model = zoo.empty(state.config).double().eval()
    state.load_into(model)
    return model


@pytest.mark.parametrize(("source", "target"), EDGES)
def test_an_edge_keeps_the_function_and_the_gradients(source: str, target: str) -> None:
    model = made(source, tie_word_embeddings=target == "smollm3")
    state = convert(TrainingState.from_model(model), target)
    other = loaded(state)
    # Routers and norms of transformers go through float32 by functional calls, which `to` does not see.
    models = [zoo.norms_in_float64(one) for one in (model, other)]
    with everything_in_float64():
        before, after = (zoo.logits(one, zoo.batch()) for one in models)
        (_, old), (_, new) = (zoo.loss_and_gradients(one, zoo.batch()) for one in models)
    assert float((before - after).abs().max().detach() / before.abs().max().detach()) < 1e-13
    carried = TrainingState.from_model(model)
    for name, gradient in old.items():  # the conversion moves gradients as it moves weights
        dict(model.named_parameters())[name].data.copy_(gradient)
    moved = convert(carried, target)
    floor = 1e-9 * max(float(gradient.norm()) for gradient in old.values())
    for name, rule in conversion(carried.config, target).tensors.items():
        if rule.sources:
            wrong = (moved.source.read(name, "weight") - new[name]).norm()
            assert float(wrong) <= 1e-11 * float(new[name].norm()) + floor, name


@pytest.mark.parametrize(("source", "target"), EDGES)
def test_a_file_names_every_field_and_every_tensor_is_moved_once(source: str, target: str) -> None:
    found = conversion(TrainingState.from_model(made(source)).config, target)
    used = [name for rule in found.tensors.values() for name in rule.sources]
    assert sorted(used) == sorted(found.small.parameters)
    assert found.config["rms_norm_eps"] == found.small.config["rms_norm_eps"]
    assert found.small.config["rope_parameters"].items() <= found.config["rope_parameters"].items()


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    with everything_in_float64():
        for step in range(first, first + count):
            optimizer.zero_grad()
            zoo.loss(model, zoo.batch(seed=step)).backward()
            optimizer.step()


def test_llama_to_mixtral_commutes_with_adamw() -> None:
    """Train 4 + 6 steps and convert, or train 4, convert and train 6: the same model, within rounding of six steps."""
    torch.manual_seed(0)
    dense = zoo.norms_in_float64(made("llama"))
    adamw = torch.optim.AdamW(dense.parameters(), lr=1e-2, weight_decay=0.1)
    stepped(dense, adamw, 0, 4)
    early = convert(TrainingState.from_model(dense, adamw), "mixtral")
    assert set(early.steps.values()) == {4.0, 0.0}  # the router begins here
    mixture = zoo.norms_in_float64(zoo.empty(early.config).double().eval())
    again = torch.optim.AdamW(mixture.parameters(), lr=1e-2, weight_decay=0.1)
    early.load_into(mixture, again)
    stepped(mixture, again, 4, 6)
    stepped(dense, adamw, 4, 6)
    late = convert(TrainingState.from_model(dense, adamw), "mixtral")
    trained = TrainingState.from_model(mixture, again)
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        for name in late.source.names(slot):
            if "mlp.gate.weight" not in name:  # it has no gradient with one expert, and decays
                wanted, got = late.source.read(name, slot), trained.source.read(name, slot)
                assert float((got - wanted).norm()) <= 1e-9 * float(wanted.norm()), (slot, name)


def test_a_converted_state_is_written_opened_proved_and_grown(tmp_path: Path) -> None:
    dense = made("llama").float()
    adamw = torch.optim.AdamW(dense.parameters(), lr=1e-3)
    zoo.loss(dense, zoo.batch()).backward()
    adamw.step()
    small = TrainingState.from_model(dense, adamw)
    small.save_pretrained(tmp_path / "dense")
    arguments = [str(tmp_path / "dense"), str(tmp_path / "moe"), "--as", "mixtral"]
    result = CliRunner().invoke(app, ["convert", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["new"] == ["mlp.gate.weight"]
    opened = TrainingState.from_pretrained(tmp_path / "moe")
    assert opened.optimizer is not None
    report = verify(small, opened, [{"input_ids": zoo.batch(), "labels": zoo.batch()}], steps=1)
    assert report.passed
    assert report.gradient_error < 1e-6
    wider = grow(small, to={"hidden_size": 36, "num_attention_heads": 6}, as_="mixtral", depth="identity")
    wider.save_pretrained(tmp_path / "wide")
    again = TrainingState.from_pretrained(tmp_path / "wide")
    assert [next(iter(entry)) for entry in again.lineage] == ["conversion", "growth"]
    assert verify(small, again, [{"input_ids": zoo.batch(), "labels": zoo.batch()}], steps=1).passed


@pytest.mark.parametrize(("source", "target"), [("llama", "qwen2"), ("qwen2", "llama")])
def test_biases_that_a_conversion_made_break_no_proof(source: str, target: str, tmp_path: Path) -> None:
    """They begin at zero and have a gradient of their own: the small model has none to hold it against."""
    small = TrainingState.from_model(made(source).float())
    small.save_pretrained(tmp_path / "small")
    arguments = [str(tmp_path / "small"), str(tmp_path / "large"), "--as", target]
    result = CliRunner().invoke(app, ["convert", *arguments])
    assert result.exit_code == 0, result.output
    large = TrainingState.from_pretrained(tmp_path / "large")
    report = verify(small, large, [{"input_ids": zoo.batch(), "labels": zoo.batch()}], steps=1)
    assert report.passed
    assert report.gradient


HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
"""Llama turns whole heads with it, Phi-3 halves of them."""


@pytest.mark.parametrize(
    ("source", "fields", "target", "error", "words"),
    [
        ("llama", {}, "mixtrl", GrowthError, "did you mean mixtral"),
        ("llama", {}, "bert", GrowthError, "no conversion leads from llama to 'bert'"),
        ("llama", {"attention_bias": True}, "mixtral", GrowthError, "attention_bias = False"),
        ("mistral", {"sliding_window": 5}, "llama", GrowthError, "sliding_window = None"),
        (
            "llama",
            {"rope_parameters": HALF},
            "phi3",
            GrowthError,
            "rope_parameters.partial_rotary_factor = 1.0",
        ),
    ],
)
def test_what_the_target_cannot_say_is_refused(
    source: str, fields: dict[str, Any], target: str, error: type[Exception], words: str
) -> None:
    state = TrainingState.from_model(made(source, **fields))
    with pytest.raises(error, match=words):
        convert(state, target)


def test_a_field_of_neither_list_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    state = TrainingState.from_model(made("llama"))
    whole = conversions.load_conversion("llama", "mixtral")
    for name, verb in (("rms_norm_eps", "has"), ("router_jitter_noise", "wants")):
        keep = tuple(one for one in whole.keep if one != name)
        config = {field: value for field, value in whole.config.items() if field != name}
        lacking = whole.model_copy(update={"keep": keep, "config": config})
        monkeypatch.setattr(conversions, "load_conversion", lambda *_, lacking=lacking: lacking)
        with pytest.raises(ArchitectureError, match=f"{verb} a config field '{name}'"):
            convert(state, "mixtral")


def test_model_types_with_a_dash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTGROW_ARCHITECTURES", str(tmp_path))
    folder = tmp_path / "conversions"
    folder.mkdir()
    (folder / "xlm-roberta-deberta-v2.yaml").write_text("from: xlm-roberta\n")
    (folder / "roberta-xlm-roberta.yaml").write_text("from: roberta\n")
    assert {("xlm-roberta", "deberta-v2"), ("roberta", "xlm-roberta"), ("llama", "mixtral")} <= set(edges())
    for wrong in ("notes.yaml", "my-llama-mixtral.yaml"):
        (folder / wrong).write_text("")
        with pytest.raises(ArchitectureError, match=r"no name of a conversion file[^$]*FROM-TO\.yaml"):
            edges()
        (folder / wrong).unlink()
    for name in ("roberta", "roberta-xlm"):
        (tmp_path / f"{name}.yaml").write_text("")
    with pytest.raises(ArchitectureError, match="roberta to xlm-roberta or roberta-xlm to roberta"):
        edges()


def test_a_users_folder_holds_conversions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Path(conversions.__file__).parent.parent / "conversions" / "llama-qwen2.yaml"
    text = ours.read_text().replace("from: llama", "from: mistral").replace("drop: [pretraining_tp]", "")
    text = text.replace("{attention_bias: false, mlp_bias: false}", "{sliding_window: null}")
    (tmp_path / "conversions").mkdir()
    (tmp_path / "conversions" / "mistral-qwen2.yaml").write_text(text)
    state = TrainingState.from_model(made("mistral"))
    with pytest.raises(GrowthError, match="no conversion leads"):
        convert(state, "qwen2")
    monkeypatch.setenv("OUTGROW_ARCHITECTURES", str(tmp_path))
    assert not convert(state, "qwen2").source.read("model.layers.0.self_attn.q_proj.bias", "weight").any()
    (tmp_path / "conversions" / "mistral-qwen2.yaml").write_text(text + "rename: {}\n")
    with pytest.raises(ArchitectureError, match="unknown key rename"):
        convert(state, "qwen2")


def test_moments_that_are_no_entries_are_refused() -> None:
    model = made("llama").float()
    adafactor = torch.optim.Adafactor(model.parameters(), lr=1e-3)
    zoo.loss(model, zoo.batch()).backward()
    adafactor.step()
    state = TrainingState.from_model(model, adafactor)
    with pytest.raises(GrowthError, match="factored second moment"):
        convert(state, "mixtral")
    assert not convert(state, "mixtral", moments="reset").steps
    assert convert(state, "mistral").steps


def test_a_dense_state_becomes_a_mixture_of_eight_from_file_to_file(tmp_path: Path) -> None:
    dense = made("llama").float()
    adamw = torch.optim.AdamW(dense.parameters(), lr=1e-3)
    zoo.loss(dense, zoo.batch()).backward()
    adamw.step()
    small = TrainingState.from_model(dense, adamw)
    small.save_pretrained(tmp_path / "dense")
    folders = [str(tmp_path / "dense"), str(tmp_path / "moe")]
    sizes = ["--to", "num_local_experts=8", "--to", "num_experts_per_tok=2"]
    result = CliRunner().invoke(
        app, ["grow", *folders, "--as", "mixtral", *sizes, "--experts", "copy", "--json"]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["keeps_function"], told["keeps_gradient_law"], told["is_caged"]) == (True, True, False)
    large = TrainingState.from_pretrained(tmp_path / "moe")
    assert large.steps["model.layers.0.mlp.experts.down_proj"] == 1.0
    assert large.steps["model.layers.0.mlp.gate.weight"] == 0.0
    batches = [{"input_ids": zoo.batch(seed), "labels": zoo.batch(seed)} for seed in range(3)]
    report = verify(small, large, batches, steps=3)
    assert report.passed
    assert report.function_error < 1e-6
    assert report.gradient_error < 1e-5
    assert report.experts["spread"][0] == 0.0 < report.experts["spread"][1]
    assert report.experts["load_max"][0] > 1.0
    halves = grow(
        small, to={"num_local_experts": 6, "num_experts_per_tok": 4}, as_="mixtral", experts="split:pieces=2"
    )
    again = verify(small, halves, batches, steps=1)
    assert again.passed
    assert again.experts["spread"][0] == 0.0


def test_what_is_no_growth_says_how_to_convert(tmp_path: Path) -> None:
    TrainingState.from_model(made("llama").float()).save_pretrained(tmp_path / "dense")
    folders = [str(tmp_path / "dense"), str(tmp_path / "moe")]
    for arguments, words in (
        (["grow", *folders, "--as", "mixtral"], "outgrow convert"),
        (["convert", *folders, "--as", "bert"], "no conversion leads from llama"),
    ):
        failed = CliRunner().invoke(app, arguments)
        assert isinstance(failed.exception, OutgrowError)
        assert words in str(failed.exception)
    assert not (tmp_path / "moe").exists()


def test_a_shared_expert_begins_silent_and_grows() -> None:
    model = made("qwen2")
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 17}
    other = loaded(grow(TrainingState.from_model(model), to=sizes, as_="qwen2_moe"))
    assert other.model.layers[0].mlp.shared_expert.up_proj.weight.shape == (17, 32)
    models = [zoo.norms_in_float64(one) for one in (model, other)]
    with everything_in_float64(), torch.no_grad():
        before, after = (zoo.logits(one, zoo.batch()) for one in models)
    assert float((before - after).abs().max() / before.abs().max()) < 1e-13
