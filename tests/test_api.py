"""The Python door as its users meet it: live models, Trainer, the hub, what is printed, and what wrong calls are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import outgrow
from outgrow.api.live import grow_in_place
from outgrow.commands.convert import run as run_convert
from outgrow.commands.grow import run as run_grow
from outgrow.commands.options import ConvertCall, GrowCall
from outgrow.errors import CheckpointError, ConfigError, GrowthError
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.store.config_file import load_config

ROWS = [
    {"input_ids": row, "labels": row}
    for row in torch.randint(3, 19, (64, 7), generator=torch.Generator().manual_seed(0)).tolist()
]
TO = {"hidden_size": 18, "num_attention_heads": 6, "num_hidden_layers": 3}
HOW = {"width": "isometric", "depth": "identity"}


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=19,
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=6,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def trained() -> tuple[LlamaForCausalLM, torch.optim.AdamW]:
    model = small_model()
    decayed = [one for one in model.parameters() if one.ndim > 1]
    rest = [one for one in model.parameters() if one.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=1e-2)
    tokens = torch.tensor([row["input_ids"] for row in ROWS[:4]])
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def trainer(folder: Path, steps: int, model: Any, **options: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        lr_scheduler_type="linear",
        weight_decay=0.1,
        save_steps=3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    return Trainer(model, arguments, train_dataset=ROWS, eval_dataset=ROWS[:4])  # type: ignore[arg-type]


def assert_same(one: outgrow.TrainingState, other: outgrow.TrainingState) -> None:
    assert one.steps == other.steps
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        assert set(one.source.names(slot)) == set(other.source.names(slot))
        for name in one.source.names(slot):
            torch.testing.assert_close(
                one.source.read(name, slot),
                other.source.read(name, slot),
                rtol=0,
                atol=0,
                msg=f"{slot} {name}",
            )


def test_a_trainer_grows_and_goes_on_as_if_files_had_grown(tmp_path: Path) -> None:
    """The oracle: stop at step 3, grow the checkpoint, resume. Weights, moments, steps and rates are the same bits."""
    whole = trainer(tmp_path / "whole", 6, small_model())
    callback = outgrow.GrowAt(steps=3, to=TO, **HOW)
    whole.add_callback(callback)
    whole.train()
    assert whole.model.config.num_hidden_layers == 3
    assert callback.plan is None

    trainer(tmp_path / "first", 6, small_model()).train()
    state = outgrow.TrainingState.from_pretrained(tmp_path / "first" / "checkpoint-3")
    grown = outgrow.grow(state, to=TO, **HOW).save_pretrained(tmp_path / "grown", format="trainer")
    resumed = trainer(tmp_path / "second", 6, LlamaForCausalLM.from_pretrained(grown))
    resumed.train(resume_from_checkpoint=str(grown))
    assert_same(
        outgrow.TrainingState.from_model(whole.model, whole.optimizer.optimizer),
        outgrow.TrainingState.from_model(resumed.model, resumed.optimizer.optimizer),
    )
    for folder in ("whole", "second"):  # Trainer carries the lineage on in its log
        last = outgrow.TrainingState.from_pretrained(tmp_path / folder / "checkpoint-6")
        assert [entry["growth"]["to"]["hidden_size"] for entry in last.lineage] == [18], folder
        assert "grown once" in repr(last)


def test_a_trainer_that_has_grown_already_does_not_grow_again(tmp_path: Path) -> None:
    once = trainer(tmp_path, 2, small_model(), include_num_input_tokens_seen="no")
    once.add_callback(
        outgrow.GrowAt(tokens=14, to=TO, **HOW)
    )  # 2 sequences of 7 tokens: after the first step
    once.train()
    assert once.state.num_input_tokens_seen == 28
    again = trainer(tmp_path, 1, once.model)
    callback = outgrow.GrowAt(steps=1, to=TO)
    again.add_callback(callback)
    again.train()
    assert again.model.num_parameters() == once.model.num_parameters()


def test_a_trainer_that_is_killed_goes_on_from_before_and_from_after_its_growths(tmp_path: Path) -> None:
    """Two growths, at steps 2 and 4; a checkpoint after every step. Each of them ends in the same bits."""

    def growths() -> list[outgrow.GrowAt]:
        return [
            outgrow.GrowAt(steps=2, to={"num_hidden_layers": 3}, depth="identity"),
            outgrow.GrowAt(steps=4, to={**TO, "num_hidden_layers": 4}, **HOW),
        ]

    def run(folder: str, model: Any) -> Trainer:
        found = trainer(tmp_path / folder, 5, model)
        found.args.save_steps = 1
        for growth in growths():
            found.add_callback(growth)
        return found

    whole = run("whole", small_model())
    whole.train()
    assert (whole.model.config.num_hidden_layers, whole.model.config.hidden_size) == (4, 18)
    after = outgrow.TrainingState.from_model(whole.model, whole.optimizer.optimizer)
    for step in (1, 3, 4):
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        again = run(f"from-{step}", LlamaForCausalLM.from_pretrained(checkpoint))
        again.train(resume_from_checkpoint=str(checkpoint))
        assert_same(outgrow.TrainingState.from_model(again.model, again.optimizer.optimizer), after)
        last = outgrow.TrainingState.from_pretrained(tmp_path / f"from-{step}" / "checkpoint-5")
        assert [entry["growth"]["to"]["num_hidden_layers"] for entry in last.lineage] == [3, 4], step


def test_a_small_model_does_not_go_on_from_a_grown_checkpoint(tmp_path: Path) -> None:
    """Trainer itself reads the first layers of a deeper checkpoint and only warns, where no optimizer was saved."""
    once = trainer(tmp_path / "once", 2, small_model(), save_only_model=True)
    once.args.save_steps = 2
    once.add_callback(outgrow.GrowAt(steps=1, to={"num_hidden_layers": 3}))
    once.train()
    again = trainer(tmp_path / "again", 3, small_model())
    again.add_callback(outgrow.GrowAt(steps=1, to={"num_hidden_layers": 3}))
    with pytest.raises(
        GrowthError, match=r"has grown, and its model has not(.|\n)*LlamaForCausalLM\.from_pretr"
    ):
        again.train(resume_from_checkpoint=str(tmp_path / "once" / "checkpoint-2"))


def test_what_a_trainer_cannot_grow_is_refused_when_training_begins(tmp_path: Path) -> None:
    run = trainer(tmp_path, 1, small_model())
    run.add_callback(outgrow.GrowAt(steps=1, to={"hidden_size": 18, "num_attention_heads": 5}, **HOW))
    with pytest.raises(outgrow.OutgrowError, match="not a whole number"):
        run.train()
    with pytest.raises(ConfigError, match="either tokens or steps"):
        outgrow.GrowAt(to=TO)
    with pytest.raises(ConfigError, match="2000000, 2e6 or 2M"):
        outgrow.GrowAt(tokens="many", to=TO)


def by_layer(model: torch.nn.Module, first: int, rate: float = 1e-2) -> torch.optim.AdamW:
    """A group for the layers before `first` and what is no layer, and one for those from it on, with a lower rate."""
    low = [one for name, one in model.named_parameters() if f"layers.{first}." in name]
    rest = [one for name, one in model.named_parameters() if f"layers.{first}." not in name]
    return torch.optim.AdamW([{"params": rest}, {"params": low, "lr": rate / 2}], lr=rate)


def test_groups_by_layer_are_refused_where_they_could_not_be_resumed(tmp_path: Path) -> None:
    """A Trainer that resumes groups the layers anew by their numbers, and torch may take the moments of others in silence."""
    deeper = outgrow.GrowAt(steps=1, to={"num_hidden_layers": 3}, depth="stack")
    for options, callback, refused in (
        ({}, deeper, True),
        ({"save_strategy": "no"}, deeper, False),
        ({}, outgrow.GrowAt(steps=1, to={"intermediate_size": 28}), False),
    ):
        run = trainer(tmp_path, 2, small_model(), **options)
        run.optimizer = by_layer(run.model, 1)
        run.add_callback(callback)
        if refused:
            with pytest.raises(
                GrowthError, match=r"groups tell layers apart(.|\n)*layers.{L}.*in the groups 0 and 1"
            ):
                run.train()
        else:
            run.train()
            assert len(run.optimizer.param_groups) == 2
        assert run.state.global_step == (0 if refused else 2)


def test_a_trainer_loads_no_small_model_as_its_best(tmp_path: Path) -> None:
    """The first evaluation is the best by this measure: without care Trainer loads its small model into the large one."""
    run = trainer(
        tmp_path,
        6,
        small_model(),
        load_best_model_at_end=True,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="loss",
        greater_is_better=True,
    )
    run.args.save_steps = run.args.eval_steps = 1
    run.add_callback(outgrow.GrowAt(steps=3, to={"num_hidden_layers": 4}))
    run.train()
    best = Path(str(run.state.best_model_checkpoint))
    assert int(best.name.removeprefix("checkpoint-")) >= 3
    with_layers = LlamaForCausalLM.from_pretrained(best)
    assert with_layers.config.num_hidden_layers == 4
    for name, parameter in with_layers.named_parameters():
        assert torch.equal(parameter, run.model.get_parameter(name)), name


def test_what_hangs_on_a_model_goes_on_in_the_grown_one(tmp_path: Path) -> None:
    """NEFTune's noise, whose hook Trainer removes at its end; hooks of the user's; but recorders hang on new layers too."""
    seen = list[str]()
    model = small_model()
    run = trainer(tmp_path, 3, model, neftune_noise_alpha=5.0)
    model.register_forward_hook(lambda *_: seen.append("whole"))
    handle = model.model.layers[1].register_forward_hook(lambda *_: seen.append("layer"))
    model(input_ids=torch.tensor([[3, 4]]), output_hidden_states=True)
    run.add_callback(outgrow.GrowAt(steps=1, to={"num_hidden_layers": 3}))
    noise = list[bool]()

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        def on_step_begin(self, *_: Any, **live: Any) -> None:
            embedding = live["model"].get_input_embeddings()
            noise.append(hasattr(embedding, "neftune_noise_alpha") and len(embedding._forward_hooks) == 1)

    run.add_callback(Watch())
    seen.clear()
    run.train()
    assert noise == [True] * 3
    assert seen == ["layer", "whole"] * 3
    assert not run.model.get_input_embeddings()._forward_hooks
    handle.remove()
    assert len(run.model(input_ids=torch.tensor([[3, 4]]), output_hidden_states=True).hidden_states) == 4
    assert seen == [*["layer", "whole"] * 3, "whole"]


def test_a_live_model_that_is_not_what_its_config_says_is_refused(tmp_path: Path) -> None:
    """The large model is built by the config: what was changed or added beside it would be lost without a word."""

    def head_with_bias(model: Any) -> None:
        model.lm_head = torch.nn.Linear(12, 19)

    def own_buffer(model: Any) -> None:
        model.register_buffer("average", torch.zeros(3))

    def other_eps(model: Any) -> None:
        model.model.norm.variance_epsilon = 1e-2

    def frozen(model: Any) -> None:
        model.model.embed_tokens.weight.requires_grad_(False)

    def elsewhere(model: Any) -> None:
        model.model.layers[1].to("meta")

    for change, says in (
        (head_with_bias, "lm_head.bias"),
        (own_buffer, "average"),
        (other_eps, r"model\.norm\.variance_epsilon is 0\.01, and 1e-06 by the config"),
        (frozen, "frozen"),
        (elsewhere, "holds no numbers"),
    ):
        model = small_model()
        change(model)
        with pytest.raises(outgrow.OutgrowError, match=says):
            outgrow.grow_model(model, to=TO)
        if change is not elsewhere:
            run = trainer(tmp_path, 2, model)
            run.add_callback(outgrow.GrowAt(steps=2, to={"num_hidden_layers": 3}))
            with pytest.raises(outgrow.OutgrowError, match=says):
                run.train()
            assert run.state.global_step == 0

    tied = LlamaForCausalLM(LlamaConfig(**{**small_model().config.to_dict(), "tie_word_embeddings": True}))
    tied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight.detach() + 1)
    with pytest.raises(CheckpointError, match=r"lm_head.weight(.|\n)*tie_word_embeddings = False"):
        outgrow.grow_model(tied, to={"num_hidden_layers": 3})
    tied.config.tie_word_embeddings = False
    large, _, _ = outgrow.grow_model(tied, to={"num_hidden_layers": 3})
    assert torch.equal(large.lm_head.weight, tied.lm_head.weight)


def test_an_optimizer_that_is_not_known_is_refused_when_training_begins(tmp_path: Path) -> None:
    run = trainer(tmp_path, 2, small_model(), optim="rmsprop")
    run.add_callback(outgrow.GrowAt(steps=2, to={"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match="RMSprop"):
        run.train()
    assert run.state.global_step == 0


def test_a_grown_optimizer_numbers_its_parameters_as_one_made_anew() -> None:
    """torch loads an optimizer's state by numbers: in another order a checkpoint's moments would be those of other parameters."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-2)
    large, made, _ = outgrow.grow_model(model, optimizer, to=TO, **HOW)
    assert made is not None
    assert list(map(id, made.param_groups[0]["params"])) == list(map(id, large.parameters()))
    plan = outgrow.plan_growth(outgrow.TrainingState.from_model(model), to=TO, **HOW)
    grow_in_place(model, optimizer, plan)
    assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, model.parameters()))
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]


def test_a_live_model_keeps_its_dtypes_its_code_and_the_random_numbers() -> None:
    model = small_model()
    model.model.to(torch.bfloat16)
    model.set_attn_implementation("eager")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    large, _, _ = outgrow.grow_model(model, to={"num_hidden_layers": 3})
    assert torch.equal(torch.rand(3), expected)
    assert {one.dtype for one in large.model.parameters()} == {torch.bfloat16}
    assert large.lm_head.weight.dtype == torch.float32
    assert torch.equal(large.lm_head.weight, model.lm_head.weight)
    assert large.config._attn_implementation == "eager"


def test_a_live_model_grows_in_one_line() -> None:
    model, optimizer = trained()
    large, larger, plan = outgrow.grow_model(model, optimizer, to=TO, **HOW)
    assert plan.keeps_function
    tokens = torch.tensor([row["input_ids"] for row in ROWS[:4]])
    with torch.no_grad():
        before, after = (one(input_ids=tokens).logits for one in (model, large))
    torch.testing.assert_close(after, before)
    assert [group["weight_decay"] for group in larger.param_groups] == [1e-2, 0.0]
    state = outgrow.TrainingState.from_model(model, optimizer)
    assert_same(outgrow.TrainingState.from_model(large, larger), outgrow.grow(state, to=TO, **HOW))
    again, another = outgrow.grow(state, to=TO, **HOW).to_model(optimizer=torch.optim.AdamW)
    assert_same(
        outgrow.TrainingState.from_model(again, another), outgrow.TrainingState.from_model(large, larger)
    )
    with pytest.raises(CheckpointError, match="with the options of the state's AdamW"):
        state.to_model(optimizer=torch.optim.Muon)


def test_a_plan_is_printed_checked_and_done() -> None:
    state = outgrow.TrainingState.from_model(*trained())
    plan = outgrow.plan_growth(state, to=TO, **HOW)
    assert "0 0* 1" in str(plan)
    assert "Stays: intermediate_size 20" in str(plan)
    assert_same(outgrow.grow(state, plan), outgrow.grow(state, to=TO, **HOW))
    proof = outgrow.verify(state, outgrow.grow(state, plan), steps=2)
    assert proof.passed
    assert str(proof).startswith("The large model computes the same function")
    for value in (state, plan, proof):
        assert len(repr(value)) < 600, repr(value)
    assert repr(outgrow.operators()).startswith("operators\n")
    for shown in (state, plan, proof, outgrow.operators()):
        assert shown._repr_html_().startswith("<p>")
    with pytest.raises(GrowthError, match="made for another source"):
        outgrow.grow(outgrow.grow(state, plan), plan)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda state, model: outgrow.grow(model, to=TO), r"takes a training state[\s\S]*from_model"),
        (
            lambda state, model: outgrow.grow("small/", to=TO),
            r"takes a training state[\s\S]*from_pretrained\('small/'\)",
        ),
        (lambda state, model: outgrow.grow(state), r"nothing says what to grow[\s\S]*hidden_size 12"),
        (lambda state, model: outgrow.grow(state, TO), r"no plan of a growth[\s\S]*to=\{"),
        (
            lambda state, model: outgrow.grow(state, outgrow.plan_growth(state, to=TO), noise=0.0),
            r"the plan says how to grow[\s\S]*noise",
        ),
        (lambda state, model: outgrow.verify(state, model), "verify takes a training state"),
        (lambda state, model: outgrow.verify(state, state), "no lineage"),
        (
            lambda state, model: outgrow.verify(outgrow.grow(state, to=TO, **HOW), state),
            r"no lineage[\s\S]*the small state first",
        ),
        (lambda state, model: outgrow.grow(state, to=["hidden_size"]), r"by name[\s\S]*\['hidden_size'\]"),
        (lambda state, model: outgrow.plan_growth(state, to="hidden_size=18"), "sizes are given by name"),
        (lambda state, model: outgrow.GrowAt(steps=3, to="hidden_size=18"), "sizes are given by name"),
        (lambda state, model: outgrow.grow_model(model, to=None), "sizes are given by name"),
        (lambda state, model: outgrow.plan_growth(state, to={"hiden_size": 18}), "did you mean hidden_size"),
        (lambda state, model: outgrow.plan_growth(state, to=TO, width="isometrc"), "did you mean isometric"),
        (lambda state, model: outgrow.convert(model, "mixtral"), "convert takes a training state"),
        (
            lambda state, model: outgrow.convert(state, "mixtral", moments="copy"),
            "cannot treat moments as 'copy'",
        ),
        (lambda state, model: outgrow.TrainingState.from_model("small/"), r"from_pretrained\('small/'\)"),
        (lambda state, model: outgrow.TrainingState.from_model(state), r"takes a model[\s\S]*TrainingState"),
        (
            lambda state, model: outgrow.learn(state, to=TO, data="a.txt", hiden=3),
            "unknown option of ligo: 'hiden'",
        ),
        (lambda state, model: outgrow.learn(state, to=TO, method="lego"), "ligo.*known: lesa, ligo, mango"),
        (lambda state, model: outgrow.learn(state, to=TO, data="a.txt", steps="many"), "steps of a fit"),
        (lambda state, model: outgrow.learn(state, to=TO), "fitted to data"),
        (lambda state, model: outgrow.grow_model(torch.nn.Linear(1, 1), to=TO), "no plain model"),
        (lambda state, model: outgrow.TrainingState.from_pretrained("no/where"), "no folder here"),
    ],
)
def test_wrong_calls_are_told_what_to_do(call: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = small_model()
    with pytest.raises(outgrow.OutgrowError, match=says):
        call(outgrow.TrainingState.from_model(model), model)


def test_a_fitted_operator_is_a_line() -> None:
    source = {"model_type": "llama", "layers": 2, "shapes": {f"tensor {place}": [3] for place in range(99)}}
    fitted = FittedOperator("ligo", {}, {"hidden_size": 18}, {}, source, {"map": torch.zeros(3)})
    assert repr(fitted) == "FittedOperator(ligo: llama to hidden_size 18; 3 numbers)"


def test_a_growth_of_nothing_says_so() -> None:
    plan = outgrow.plan_growth(outgrow.TrainingState.from_model(small_model()), to={"hidden_size": 12})
    assert str(plan).endswith("Nothing grows: the sizes that are asked for are there already.")


def test_heads_bring_their_key_value_heads_or_say_which() -> None:
    state = outgrow.TrainingState.from_model(small_model())
    assert (
        outgrow.plan_growth(state, to={"hidden_size": 18, "num_attention_heads": 6}).large.sizes["kv_heads"]
        == 6
    )
    grouped = {**state.config, "num_key_value_heads": 2}
    with pytest.raises(GrowthError, match="add num_key_value_heads=7"):
        outgrow.plan_growth(grouped, to={"hidden_size": 28, "num_attention_heads": 7})


def test_the_hub_gives_and_takes_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub of two functions: what is fetched is a folder, what is uploaded is the folder of `save_pretrained`."""
    import huggingface_hub

    small_model().save_pretrained(tmp_path / "small")
    asked: dict[str, Any] = {}

    def fetch(name: str, *, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path / "small")

    class Api:
        def create_repo(self, name: str, **_: Any) -> None:
            asked["made"] = name

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
            asked["files"] = sorted(path.name for path in folder_path.iterdir())
            asked["card"] = (folder_path / "README.md").read_text()
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    state = outgrow.TrainingState.from_pretrained("org/small")
    assert not [pattern for pattern in asked["patterns"] if pattern.endswith(("bin", "pt", "py", "pkl"))]
    grown = outgrow.grow(state, to=TO, **HOW)
    before = {path.name: path.read_bytes() for path in (tmp_path / "small").iterdir()}
    run_grow(GrowCall(Path("org/small"), tmp_path / "large", ["num_hidden_layers=3"]), Console(quiet=True))
    run_convert(ConvertCall(Path("org/small"), tmp_path / "moe", "mixtral"), Console(quiet=True))
    assert load_config(tmp_path / "large")["num_hidden_layers"] == 3
    assert load_config(tmp_path / "moe")["model_type"] == "mixtral"
    assert {path.name: path.read_bytes() for path in (tmp_path / "small").iterdir()} == before
    assert grown.push_to_hub("me/large") == "https://hub/me/large"
    assert asked["files"] == ["README.md", "config.json", "generation_config.json", "model.safetensors"]
    assert (
        "outgrow grow SMALL LARGE --to head_dim=6 " in asked["card"] or "--to hidden_size=18" in asked["card"]
    )
    assert "## Prove it" in asked["card"]


def test_an_optimizer_of_another_class_is_told_which_is_which() -> None:
    state = outgrow.TrainingState.from_model(*trained())
    with pytest.raises(
        CheckpointError, match=r"got: +SGD, which keeps no moments of .*\n +expected: AdamW, "
    ):
        state.to_model(optimizer=torch.optim.SGD)
    assert repr(outgrow.OwnArguments()) == "OwnArguments()"


def test_dir_shows_what_there_is() -> None:
    assert {"GrowAt", "TrainingState", "grow", "grow_model", "learn", "operators", "plan_growth"} <= set(
        dir(outgrow)
    )
    assert all(getattr(outgrow, name) is not None for name in dir(outgrow))
