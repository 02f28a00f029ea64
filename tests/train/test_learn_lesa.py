"""LESA as an operator of its own: predicted once, saved, applied again to the same bits, refused on another source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from battery import zoo
from outgrow import TrainingState, grow
from outgrow.errors import ConfigError, GrowthError
from outgrow.growth.new_entries import new_entries
from outgrow.growth.plan import plan
from outgrow.growth.target import target
from outgrow.learning.learn import begin
from outgrow.learning.lesa import fit_lesa, learn_lesa, lesa_form
from outgrow.methods.learned.mango import Mango, ring_start
from outgrow.models.architecture import load_architecture, resolve
from outgrow.models.library import build_model
from outgrow.proof import tiny_model
from outgrow.run.learn_options import LearnOptions, LesaOptions
from outgrow.state.growing import apply
from outgrow.state.grown_view import GrownView
from outgrow.state.operator_file import load_operator, save_operator
from test_cli import outgrow, refused

TO = {"num_hidden_layers": 4, "intermediate_size": 56}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = zoo.build({**zoo.config("llama"), "num_hidden_layers": 3}, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    zoo.loss(model, zoo.batch()).backward()
    optimizer.step()
    folder = tmp_path_factory.mktemp("lesa") / "small"
    TrainingState.from_model(model, optimizer).save_pretrained(folder)
    return folder


def test_a_saved_operator_holds_the_predicted_layers(checkpoint: Path, tmp_path: Path) -> None:
    state = TrainingState.from_pretrained(checkpoint)
    options = LesaOptions(steps=5, hidden=8, rank=6, noise=0.05, seed=3)
    operator, found = learn_lesa(state, TO, options)
    save_operator(operator, tmp_path / "op")
    loaded = load_operator(tmp_path / "op")
    assert loaded.method == "lesa"
    assert loaded.record["error"] == found.error
    assert loaded.options == {"width": "isometric", "noise": 0.05, "seed": 3}
    grown = grow(state, operator=tmp_path / "op")
    direct = fit_lesa(state, TO, noise=0.05, steps=5, hidden=8, rank=6, seed=3)
    wanted = apply(plan(direct, "reset"), state)
    for name in wanted.source.names("weight"):
        assert torch.equal(grown.source.read(name, "weight"), wanted.source.read(name, "weight")), name
    new = grown.source.read("model.layers.2.mlp.down_proj.weight", "weight")  # gap 1 of two
    assert not torch.equal(new, grown.source.read("model.layers.1.mlp.down_proj.weight", "weight"))
    other = TrainingState.from_model(zoo.build(dict(state.config), dtype=torch.float32))
    with pytest.raises(GrowthError, match="predicted from other weights"):
        grow(other, operator=tmp_path / "op")
    model = state.to_model()
    late = "model.layers.2.self_attn.v_proj.weight"  # as a fine-tuning of some weights leaves the others
    with torch.no_grad():
        model.get_parameter(late).add_(0.1)
    with pytest.raises(GrowthError, match=f"predicted from other weights: '{late}' differs"):
        grow(TrainingState.from_model(model), operator=tmp_path / "op")
    moved = grow(state, operator=tmp_path / "op", moments="transport")
    assert set(moved.source.names("exp_avg")) == set(moved.source.names("weight"))


@pytest.mark.parametrize("width", ["isometric", "pad", "net2net", "duplicate"])
def test_predicted_layers_grow_in_width_as_old_ones_do(checkpoint: Path, width: str) -> None:
    """A width that fills new units from means asks for those of predicted layers too, which no file holds."""
    state = TrainingState.from_pretrained(checkpoint)
    to = {"num_hidden_layers": 4, "hidden_size": 2 * int(state.config["hidden_size"])}
    operator, _ = learn_lesa(state, to, LesaOptions(width=width, steps=1, hidden=2, rank=2))
    grown = grow(state, operator=operator)
    for name in grown.source.names("weight"):
        assert bool(grown.source.read(name, "weight").isfinite().all()), name


def test_predicted_layers_are_new(checkpoint: Path) -> None:
    state = TrainingState.from_pretrained(checkpoint)
    entries = new_entries(plan(fit_lesa(state, {"num_hidden_layers": 4}, steps=1, hidden=2, rank=2)))
    new = {name for name, one in entries.items() if one.any}
    assert new == {name for name in entries if name.startswith("model.layers.2.")}
    assert all(entries[name].all for name in new)


def test_another_source_is_refused_by_name_and_shape(checkpoint: Path) -> None:
    state = TrainingState.from_pretrained(checkpoint)
    operator, _ = learn_lesa(state, {"num_hidden_layers": 4}, LesaOptions(steps=1, hidden=2, rank=2))
    for change, says in (
        ({"num_hidden_layers": 4}, "number of layers"),
        ({"intermediate_size": 48}, "model.layers.{L}.mlp.gate_proj.weight"),
        ({"model_type": "mistral"}, "model type"),
    ):
        with pytest.raises(GrowthError, match="another source") as caught:
            operator.growth({**state.config, **change})
        assert says in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("deepseek_v3", r"layers of this model differ: 'model.layers.\{L\}.mlp.gate_proj.weight'"),
        ("modernbert", "got: +layer 0: none; layer 1: "),
        ("lfm3", "layers of this model differ"),
        ("mamba2", "has 3 dimensions"),
        ("mixtral", "has 3 dimensions"),
    ],
)
def test_lesa_wants_layers_of_one_kind(model_type: str, says: str) -> None:
    """What only some layers have (a router, an attention, a norm) has no neighbours to be predicted from."""
    config = tiny_model.example(load_architecture(model_type))
    small = resolve(config)
    with pytest.raises(GrowthError, match=says):
        lesa_form(config, {small.spec.layers.count: small.layers + 1}, LesaOptions())


@pytest.mark.parametrize("method", ["ligo", "mango"])
def test_what_mixes_layers_wants_them_of_one_kind(method: str) -> None:
    """Wider too: the layers of a kind are mapped as one tensor. Mamba has no matrix beside those of its MLP."""
    options = LearnOptions(method=method, start="published")
    small = resolve(tiny_model.example(load_architecture("llama4_text")))
    with pytest.raises(GrowthError, match=f"{method} makes layers of other layers, and layers of this"):
        begin(small, {"num_hidden_layers": 5}, options)
    mamba = resolve(tiny_model.example(load_architecture("mamba")))
    if method == "mango":
        with pytest.raises(GrowthError, match="has no others"):
            begin(mamba, {"num_hidden_layers": 4}, options)


def test_mango_leaves_out_what_is_stored_the_other_way_round() -> None:
    """umT5's relative positions, of every layer, are (read, written): no sum of maps makes a query matrix of them."""
    config = tiny_model.example(load_architecture("umt5"))
    state = TrainingState.from_model(build_model(config, torch.float32))
    large = target(resolve(config), {"d_model": 42, "num_heads": 6})
    form = Mango(resolve(config), large, 1)
    values = ring_start(form)
    assert not any("relative_attention_bias" in one for one in form.own)
    made = GrownView(plan(form.growth(values), "reset"), state.source)
    for name in made.plan.large.parameters:
        assert bool(made.read(name, "weight").isfinite().all()), name


def test_lesa_grows_a_model_whose_config_is_inside_another() -> None:
    config = tiny_model.example(load_architecture("gemma3"))
    state = TrainingState.from_model(build_model(config, torch.float32))
    operator, _ = learn_lesa(state, {"num_hidden_layers": 4}, LesaOptions(steps=1, hidden=2, rank=2))
    assert list(operator.source["eps"]) == ["text_config.rms_norm_eps"]
    grown = grow(state, operator=operator)
    assert resolve(grown.config).layers == 4
    grown.to_model()


def test_what_lesa_cannot_do(checkpoint: Path) -> None:
    state = TrainingState.from_pretrained(checkpoint)
    with pytest.raises(GrowthError, match="none to predict"):
        learn_lesa(state, {"intermediate_size": 56}, LesaOptions())
    with pytest.raises(GrowthError, match="at most 5 layers"):
        learn_lesa(state, {"num_hidden_layers": 6}, LesaOptions())
    with pytest.raises(ConfigError, match="rank"):
        LesaOptions(rank=0)


def test_lesa_from_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    learn = ("learn", checkpoint, tmp_path / "large", "--method", "lesa", "--to", "num_hidden_layers=4")
    own = ("--steps", "3", "--hidden", "4", "--rank", "5")
    done = outgrow(*learn, *own, "--save-operator", tmp_path / "op", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new_layers"] == 1
    again = outgrow("grow", checkpoint, tmp_path / "again", "--operator", tmp_path / "op")
    assert again.returncode == 0, again.stderr
    first, second = (tmp_path / name / "model.safetensors" for name in ("large", "again"))
    assert first.read_bytes() == second.read_bytes()
    proved = outgrow("verify", checkpoint, tmp_path / "again", "--steps", "1")
    assert proved.returncode == 0, proved.stdout + proved.stderr
    replaced = outgrow(*learn, *own, "--save-operator", tmp_path / "op", "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert "reads no data" in refused(*learn, "--data", "stdlib")
    assert "no use for --warmup, --start" in refused(*learn, "--warmup", "3", "--start", "published")
    ligo = ("learn", checkpoint, tmp_path / "x", "--to", "num_hidden_layers=4")
    assert "is fitted to data" in refused(*ligo)
    assert "no use for --hidden" in refused(*ligo, "--data", "stdlib", "--hidden", "4")
