"""A fitted operator on the disk: saved, applied again, replayed by verify, from the command line; and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

from battery import zoo
from outgrow import TrainingState, grow, verify
from outgrow.algebra.recipe import PANEL_ROWS
from outgrow.commands.learn import run as run_learn
from outgrow.commands.options import LearnCall
from outgrow.data import learn_data
from outgrow.data.learn_data import learn_source
from outgrow.data.tokenizer import find_tokenizer
from outgrow.errors import CheckpointError, ConfigError, GrowthError, OutgrowError
from outgrow.growth.plan import plan
from outgrow.growth.target import target
from outgrow.learning.fit import Fit
from outgrow.learning.learn import begin, fit_operator
from outgrow.methods.learned.fitted import FittedOperator, describe_source
from outgrow.methods.learned.ligo import Ligo, initial
from outgrow.models.architecture import resolve
from outgrow.run.learn_options import LearnOptions
from outgrow.state.grown_view import GrownView
from outgrow.state.operator_file import FILE, load_operator, save_operator
from outgrow.store.assets import Asset
from outgrow.store.source import MemorySource
from test_cli import outgrow, refused


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A Llama folder with a byte-level tokenizer of 300 tokens, trained moments and steps."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=301,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(3, 300, (2, 9))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    folder = tmp_path_factory.mktemp("learn") / "small"
    TrainingState.from_model(model, optimizer).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([corpus.read_text()], trainer)
    state = TrainingState.from_pretrained(folder)
    tokenizer.save(str(folder.parent / "tokenizer.json"))

    whole = folder.parent / "whole"
    replace(state, assets=(Asset.of(folder.parent / "tokenizer.json"),)).save_pretrained(whole)
    return whole


SIZES = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def fitted(
    checkpoint: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, FittedOperator, Fit]:
    """An operator fitted for 6 steps, and its folder."""
    state = TrainingState.from_pretrained(checkpoint)
    data = learn_source(state.config, checkpoint, str(corpus)).read(sequences=4, length=16)
    options = LearnOptions(steps=6, learning_rate=3e-3)
    operator, found = fit_operator(state, SIZES, data.batch, data.evaluation(1), options, data=data.record)
    folder = tmp_path_factory.mktemp("operator") / "op"
    return folder, save_operator(operator, folder), found


def test_a_saved_operator_is_applied_again_bit_for_bit(
    fitted: tuple[Path, FittedOperator, Fit], checkpoint: Path, tmp_path: Path
) -> None:
    folder, operator, found = fitted
    state = TrainingState.from_pretrained(checkpoint)
    loaded = load_operator(folder)
    assert (loaded.method, loaded.to, loaded.digest) == ("ligo", operator.to, operator.digest)
    in_memory = GrownView(plan(operator.growth(state.config), "reset"), state.source)
    grown = grow(state, operator=folder)
    grown.save_pretrained(tmp_path / "large")
    saved = TrainingState.from_pretrained(tmp_path / "large")
    for name in in_memory.names("weight"):
        assert torch.equal(saved.source.read(name, "weight"), in_memory.read(name, "weight")), name
    assert saved.steps == {}
    assert saved.lineage[-1]["operators"][0]["flops"] == found.flops > 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "large")
    assert model.config.num_hidden_layers == 3


def test_verify_replays_a_fitted_growth(
    fitted: tuple[Path, FittedOperator, Fit], checkpoint: Path, tmp_path: Path
) -> None:
    state = TrainingState.from_pretrained(checkpoint)
    grow(state, operator=fitted[0], moments="transport").save_pretrained(tmp_path / "large")
    large = TrainingState.from_pretrained(tmp_path / "large")
    assert set(large.source.names("exp_avg")) == set(large.source.names("weight"))
    tokens = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    report = verify(state, large, [{"input_ids": tokens, "labels": tokens}], steps=1)
    assert report.matches_plan
    assert report.passed
    assert not report.promised
    (tmp_path / "large" / FILE).unlink()
    with pytest.raises(OutgrowError, match="operator"):
        verify(state, TrainingState.from_pretrained(tmp_path / "large"), [], steps=1)


@pytest.mark.parametrize(("method", "start"), [("mango", "published"), ("ligo", "published")])
def test_verify_replays_every_method(
    checkpoint: Path, corpus: Path, tmp_path: Path, method: Any, start: str
) -> None:
    """Their weights are sums of several tensors, so there is no subspace to escape from."""
    state = TrainingState.from_pretrained(checkpoint)
    data = learn_source(state.config, checkpoint, str(corpus)).read(sequences=2, length=16)
    options = LearnOptions(method=method, start=start, steps=2)
    operator, _ = fit_operator(state, SIZES, data.batch, data.evaluation(1), options, data=data.record)
    save_operator(operator, tmp_path / "op")
    report = verify(state, grow(state, operator=tmp_path / "op"), [data.batch(0)], steps=1)
    assert report.matches_plan
    assert report.escape is None


def test_rows_of_a_dense_growth_have_the_same_bits_however_they_are_read() -> None:
    """A matrix product rounds by its shape: panels keep streaming, sharded loading and memory alike."""
    config = {**zoo.config("gpt2"), "vocab_size": 2 * PANEL_ROWS + 77, "n_embd": 40, "n_inner": 300}
    small = resolve(config)
    form = Ligo(small, target(small, {"n_embd": 60, "n_inner": 3 * PANEL_ROWS + 5, "n_layer": 4}))
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(small.shape(name), generator=generator) for name in small.parameters}
    view = GrownView(plan(form.growth(initial(form)), "reset"), MemorySource({"weight": weights}))
    for name in ("transformer.wte.weight", "transformer.h.2.mlp.c_proj.weight"):
        whole = view.read(name, "weight")
        for start, stop in ((0, 1), (250, 260), (255, 256), (511, 589), (13, 400)):
            assert torch.equal(view.read(name, "weight", slice(start, stop)), whole[start:stop]), (
                name,
                start,
            )


def test_learn_from_the_command_line(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    sizes = [word for name, size in SIZES.items() for word in ("--to", f"{name}={size}")]
    common = ("learn", checkpoint, tmp_path / "large", *sizes, "--data", corpus, "--steps", "3")
    batch = ("--sequences", "2", "--length", "16")
    dry = outgrow(*common, *batch, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert json.loads(dry.stdout)["free"] > 0
    assert not (tmp_path / "large").exists()
    kept, picture = tmp_path / "op", tmp_path / "fit.png"
    done = outgrow(*common, *batch, "--save-operator", kept, "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert "small model" in done.stdout
    assert "FLOPs" in done.stdout
    assert picture.stat().st_size > 5000
    again = outgrow("grow", checkpoint, tmp_path / "again", "--operator", kept, "--json")
    assert again.returncode == 0, again.stderr
    first, second = (tmp_path / name / "model.safetensors" for name in ("large", "again"))
    assert first.read_bytes() == second.read_bytes()
    assert outgrow("verify", checkpoint, tmp_path / "again", "--data", corpus, "--steps", "1").returncode == 0
    assert "already exists" in refused(*common, *batch)
    assert "other sizes" in refused(
        "grow", checkpoint, tmp_path / "x", "--operator", kept, "--to", "hidden_size=32"
    )
    assert "its own width" in refused(
        "grow", checkpoint, tmp_path / "x", "--operator", kept, "--width", "pad"
    )
    assert "--to NAME=NUMBER, or --operator" in refused("grow", checkpoint, tmp_path / "x")


def refuse(operator: FittedOperator, **changes: Any) -> str:
    config = {**zoo.config("llama"), **changes}
    with pytest.raises(GrowthError) as caught:
        operator.growth(config)
    return str(caught.value)


def test_another_source_is_refused_by_name_and_shape() -> None:
    small = zoo.resolved("llama")
    form = Ligo(small, target(small, {"hidden_size": 48}))
    operator = FittedOperator(
        "ligo",
        {"tie": "published", "offsets": []},
        {"hidden_size": 48},
        {},
        describe_source(small),
        initial(form),
    )
    operator.growth(zoo.config("llama"))
    assert "number of layers" in refuse(operator, num_hidden_layers=4)
    assert "model type" in refuse(operator, model_type="mistral")
    message = refuse(operator, intermediate_size=41)
    assert "model.layers.{L}.mlp.gate_proj.weight" in message
    assert "[41, 24]" in message
    assert "[40, 24]" in message
    assert "proj.bias' differs" in refuse(operator, attention_bias=True)


@pytest.mark.parametrize("words", [("--depth", "stack"), ("--noise", "0.1"), ("--width", "pad")])
def test_options_beside_an_operator_are_refused_though_they_are_usual(
    fitted: tuple[Path, FittedOperator, Fit], checkpoint: Path, tmp_path: Path, words: tuple[str, str]
) -> None:
    message = refused("grow", checkpoint, tmp_path / "large", "--operator", fitted[0], *words)
    assert f"leave out {words[0].removeprefix('--')}" in message


def test_sizes_that_disagree_and_starts_that_do_not_exist(
    fitted: tuple[Path, FittedOperator, Fit], checkpoint: Path
) -> None:
    state = TrainingState.from_pretrained(checkpoint)
    grow(state, operator=fitted[0], to={"hidden_size": 24})
    with pytest.raises(GrowthError, match="other sizes than hidden_size=32"):
        grow(state, operator=fitted[0], to={"hidden_size": 32})
    small = resolve(state.config)
    for to, options, message in (
        ({"vocab_size": 400}, LearnOptions(), "vocab"),
        ({"hidden_size": 16}, LearnOptions(start="published"), "nothing to learn"),
        (SIZES, LearnOptions(start="publishd"), "start"),
        (SIZES, LearnOptions(start="random,stak"), "did you mean stack"),
        (SIZES, LearnOptions(method="lgo"), "did you mean ligo"),
        (SIZES, LearnOptions(method="mango"), "cannot begin"),
        (SIZES, LearnOptions(method="mango", start="published", rank=0), "rank"),
        (SIZES, LearnOptions(method="mango", start="published", rank=65), "1 to 64"),
        (
            SIZES,
            LearnOptions(start="published", width="no-such", depth="nonsense"),
            "no use for width, depth",
        ),
        (SIZES, LearnOptions(rank=7), "ligo from start exact has no use for rank"),
    ):
        with pytest.raises(GrowthError, match=message):
            begin(small, to, options)
    with pytest.raises(ConfigError, match="warm-up"):
        LearnOptions(steps=10, warmup_steps=10)


def test_a_damaged_operator_is_refused(fitted: tuple[Path, FittedOperator, Fit], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a fitted operator"):
        load_operator(tmp_path)
    content = (fitted[0] / FILE).read_bytes()
    for damaged, message in (
        (content[:-8], "operator"),
        (content[:-1] + bytes([content[-1] ^ 1]), "damaged"),
    ):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=message):
            load_operator(tmp_path)
    assert json.loads((fitted[0] / "operator.json").read_text())["method"] == "ligo"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("to", ["hidden_size"]),
        ("options", None),
        ("eps", {"rms_norm_eps": "1e-6"}),
        ("record", 3),
        ("source", {"model_type": "llama", "layers": "two", "shapes": {}}),
        ("digest", 0),
    ],
)
def test_an_operator_of_wrong_types_is_refused(
    fitted: tuple[Path, FittedOperator, Fit], tmp_path: Path, field: str, value: Any
) -> None:
    with safe_open(fitted[0] / FILE, framework="pt") as opened:
        content = {**json.loads(opened.metadata()["outgrow"]), field: value}
        values = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(values, tmp_path / FILE, metadata={"outgrow": json.dumps(content)})
    with pytest.raises(CheckpointError, match=f"its description at {field}"):
        load_operator(tmp_path)


def test_data_tokenizer_and_vocabulary_must_agree(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    config = TrainingState.from_pretrained(checkpoint).config
    with pytest.raises(ConfigError, match="has no tokenizer"):
        learn_source(config, tmp_path, str(corpus))
    with pytest.raises(ConfigError, match="more tokens than the model"):
        learn_source({**config, "vocab_size": 299}, checkpoint, str(corpus))
    with pytest.raises(ConfigError, match="too short"):
        learn_source(config | {"max_position_embeddings": 10**6}, checkpoint, str(corpus)).read(length=10**6)
    with pytest.raises(ConfigError, match="mask and a padding token"):
        learn_source({**zoo.config("bert"), "vocab_size": 400}, checkpoint, str(corpus))
    assert find_tokenizer(checkpoint).vocab_size == 300
    data = learn_source(config, checkpoint, str(corpus)).read(sequences=2, length=99)
    assert data.batch(3)["input_ids"].shape == (2, 32)  # as many positions as the model has
    assert torch.equal(data.batch(3)["input_ids"], data.batch(3)["input_ids"])


def test_a_dry_run_refuses_the_data_that_the_fit_does(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    words = ("learn", str(checkpoint), str(tmp_path / "out"), "--to", "num_hidden_layers=3", "--dry-run")
    assert "finds no text" in refused(*words, "--data", str(tmp_path / "none.txt"))
    assert "learns from text" in refused(*words, "--data", str(tmp_path / "none.npz"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in checkpoint.iterdir():
        if not path.name.startswith("tokenizer"):
            (bare / path.name).write_bytes(path.read_bytes())
    without = ("learn", str(bare), *words[2:])
    assert "has no tokenizer.json" in refused(*without, "--data", str(corpus))
    # as many tokens as the model has positions, which is what the fit takes
    assert "steps of 16 x 32 tokens" in outgrow(*words, "--data", str(corpus), "--length", "999").stdout


def test_a_model_of_the_hub_is_learned_from(
    checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer comes along, for a dry run and for the fit; each opens it and finds the text once."""
    import huggingface_hub

    opened: list[str] = []
    for name in ("find_tokenizer", "open_corpus"):
        whole = getattr(learn_data, name)
        noted = lambda *given, whole=whole, **how: opened.append(whole.__name__) or whole(*given, **how)  # noqa: E731
        monkeypatch.setattr(learn_data, name, noted)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(checkpoint))
    for dry in (True, False):
        call = LearnCall(
            Path("org/small"),
            tmp_path / "large",
            ["num_hidden_layers=3"],
            data=str(corpus),
            steps=1,
            sequences=2,
            length=16,
            dry_run=dry,
        )
        run_learn(call, Console(quiet=True))
        assert opened == ["find_tokenizer", "open_corpus"]
        opened.clear()
    assert TrainingState.from_pretrained(tmp_path / "large").config["num_hidden_layers"] == 3


def test_an_operator_that_sets_eps_wants_the_eps_that_it_was_fitted_to(
    fitted: tuple[Path, FittedOperator, Fit], checkpoint: Path
) -> None:
    state = TrainingState.from_pretrained(checkpoint)
    other = {**state.config, "rms_norm_eps": 1e-2}
    with pytest.raises(GrowthError, match="another source: rms_norm_eps differs"):
        load_operator(fitted[0]).growth(other)
    old = {name: value for name, value in fitted[1].source.items() if name != "eps"}
    assert replace(fitted[1], source=old).growth(other).large.config["rms_norm_eps"] < 1e-2


def test_a_fit_that_ends_beyond_all_numbers_leaves_nothing(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """In the last step, or only where the weights are rounded to the source's float16: neither is seen in a step's loss."""
    half, out, keep = tmp_path / "half", tmp_path / "out", tmp_path / "op"
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16)
    model.save_pretrained(half)
    (half / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    for source, rate, what in (
        (checkpoint, "1e20", "not finite after step 0"),
        (half, "1e3", "the fitted .* holds NaN or infinity"),
        (checkpoint, "1e38", "learning rate above 0"),
    ):
        told = refused(
            *("learn", str(source), str(out), "--to", "hidden_size=24", "--to", "num_attention_heads=6"),
            *("--data", str(corpus), "--steps", "1", "--warmup", "0", "--sequences", "2", "--length", "16"),
            *("--learning-rate", rate, "--save-operator", str(keep)),
        )
        assert re.search(what, told)
        assert {path.name for path in tmp_path.iterdir()} == {"half"}


def test_an_operator_takes_no_models_place(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    """Not even with --overwrite: the model that is read, or another, would be gone before it is grown."""
    words = (
        "--to",
        "num_hidden_layers=3",
        "--data",
        str(corpus),
        "--steps",
        "1",
        "--length",
        "16",
        "--overwrite",
    )
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    for out, keep, what in (
        (tmp_path / "out", checkpoint, "no operator's folder"),
        (tmp_path / "out", tmp_path / "out" / "op", "cannot share a folder"),
        (tmp_path / "op" / "out", tmp_path / "op", "cannot share a folder"),
    ):
        told = refused("learn", str(checkpoint), str(out), *words, "--save-operator", str(keep))
        assert what in told
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert not list(tmp_path.iterdir())
