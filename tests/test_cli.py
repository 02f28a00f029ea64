"""The command line as a person meets it: tables, JSON, dry runs, one message and exit code 2 for every mistake."""

from __future__ import annotations

import errno
import io
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

from outgrow import TrainingState
from outgrow.cli import main

SIZES = ["--to", "hidden_size=24", "--to", "num_hidden_layers=3", "--depth", "identity"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=67,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    folder = tmp_path_factory.mktemp("cli") / "small"
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def trained_once(small: Path) -> TrainingState:
    model = LlamaForCausalLM.from_pretrained(small)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.arange(3, 19)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    return TrainingState.from_model(model, optimizer)


def outgrow(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """`outgrow words...` in this process: starting Python and torch each time would cost a minute in all."""
    arguments, out, err, code = [str(word) for word in words], io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["outgrow", *arguments])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def refused(*words: str | Path) -> str:
    """The message of a command that must refuse: exit code 2, one message, no traceback."""
    result = outgrow(*words)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_dry_runs_say_the_time_and_what_a_disk_lacks(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("grow", small, tmp_path / "large", *SIZES, "--dry-run")
    told = json.loads(outgrow(*words, "--ranks", "2", "--json").stdout)
    assert told["seconds"] > 0
    assert "where each writes as fast as this disk" in outgrow(*words, "--ranks", "2").stdout
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    assert "1.00 KB free, TOO FEW" in outgrow(*words).stdout


def test_inspect_grow_verify(small: Path, tmp_path: Path) -> None:
    facts = json.loads(outgrow("inspect", small, "--json").stdout)
    assert facts["axes"]["embed"] == {"size": 16, "through": "stream"}
    large = tmp_path / "large"
    result = outgrow("grow", small, large, *SIZES)
    assert result.returncode == 0, result.stderr
    assert "kept" in result.stdout
    proof = outgrow("verify", small, large, "--steps", "2", "--json", "--plot", tmp_path / "proof.png")
    assert proof.returncode == 0, proof.stderr
    report = json.loads(proof.stdout)
    assert report["passed"]
    assert report["function_error"] < 1e-5
    assert (tmp_path / "proof.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("saved", "computed"), [("bfloat16", "float64"), ("float32", "bfloat16"), ("float32", "float32")]
)
def test_verify_judges_no_gradients_in_half_precision(
    small: Path, tmp_path: Path, saved: str, computed: str
) -> None:
    """Rounding moves them far more than any error of ours: shown, not judged, and the growth is not called broken."""
    LlamaForCausalLM.from_pretrained(small, dtype=saved).save_pretrained(tmp_path / "small")
    exact = ("--width", "isometric", "--noise", "0", "--moments", "transport")
    assert outgrow("grow", tmp_path / "small", tmp_path / "large", *SIZES, *exact).returncode == 0
    result = outgrow(
        "verify", tmp_path / "small", tmp_path / "large", "--dtype", computed, "--steps", "2", "--json"
    )
    assert result.returncode == 0, result.stdout
    report = json.loads(result.stdout)
    half = "bfloat16" in (saved, computed)
    assert report["gradient_promised"]
    assert (report["gradient_error"] > 1e-3) == half
    assert report["gradient_kept"] is (None if half else True)
    assert ("half precision alone" in report["verdict"]) == half


def test_verify_notices_a_wrong_weight(small: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    large = tmp_path / "large"
    assert outgrow("grow", small, large, *SIZES, "--format", "hub").returncode == 0
    file = next(large.glob("*.safetensors"))
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1.01
    save_file(tensors, file, metadata)
    result = outgrow("verify", small, large, "--steps", "2", "--json")
    assert result.returncode == 1
    assert not json.loads(result.stdout)["matches_plan"]


def test_a_grown_state_is_no_proof_of_itself(small: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    assert outgrow("grow", small, large, *SIZES).returncode == 0
    assert "not grown from this small one" in refused("verify", large, large)
    again = outgrow("grow", large, large, "--to", "hidden_size=32", "--overwrite")
    assert again.returncode == 0
    assert "prove it" not in again.stdout


@pytest.mark.parametrize(("depth", "kept"), [("stack", False), ("identity", True)])
def test_copied_layers_are_not_called_caged(small: Path, tmp_path: Path, depth: str, kept: bool) -> None:
    """They stand at other depths and part at once: what lies outside the small model's subspace is not defined."""
    words = ("--to", "num_hidden_layers=4", "--depth", depth)
    assert outgrow("grow", small, tmp_path / "large", *words).returncode == 0
    result = outgrow(
        "verify", small, tmp_path / "large", "--steps", "2", "--json", "--plot", tmp_path / "proof.svg"
    )
    report = json.loads(result.stdout)
    assert report["function_kept"] == kept
    assert report["escape"] is None
    assert "caged" not in report["verdict"]


def test_a_class_without_description_is_named(small: Path, tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(small)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "other")
    for message in (
        refused("inspect", tmp_path / "other"),
        refused("grow", tmp_path / "other", tmp_path / "large", *SIZES),
    ):
        assert "describes another class of model" in message
        assert "grow_model(AutoModel" in message
        assert "LlamaForSequenceClassification" in message


def test_a_dry_run_refuses_the_destinations_that_the_run_does(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out, said in ((small, "already exists"), (tmp_path / "file" / "large", "is not a folder")):
        for words in ((), ("--dry-run",)):
            assert said in refused("grow", small, out, *SIZES, *words)


def test_every_file_of_a_tokenizer_goes_along(small: Path, tmp_path: Path) -> None:
    source = tmp_path / "small"
    shutil.copytree(small, source)
    names = {"tekken.json", "chat_template.json", "processor_config.json", "vocab.bpe", "tokenizer.model.v3"}
    for name in names:
        (source / name).write_text("{}")
    assert outgrow("grow", source, tmp_path / "large", *SIZES).returncode == 0
    assert names <= {path.name for path in (tmp_path / "large").iterdir()}


def test_a_tokenizer_that_is_ahead_of_the_model_is_told(small: Path, tmp_path: Path) -> None:
    """`add_tokens` without `resize_token_embeddings`: the weights grow, and what is missing is said before."""
    source, rows = tmp_path / "small", json.loads((small / "config.json").read_text())["vocab_size"]
    shutil.copytree(small, source)
    for tokens, said in ((rows, False), (rows + 3, True)):
        vocabulary = {f"t{place}": place for place in range(tokens)}
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}
        (source / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
        done = outgrow("grow", source, tmp_path / f"large-{tokens}", *SIZES)
        assert done.returncode == 0, done.stderr
        assert (f"needs {tokens} rows of the vocabulary" in done.stderr + done.stdout) == said
        assert (f"--to vocab_size={tokens}" in done.stderr + done.stdout) == said
    (source / "tokenizer.json").write_text("{")
    done = outgrow("grow", source, tmp_path / "carried", *SIZES, "--json")
    assert "not a tokenizer" in json.loads(done.stdout)["cautions"][0]
    assert (tmp_path / "carried" / "tokenizer.json").read_text() == "{"


def test_dry_run_touches_nothing(small: Path, tmp_path: Path) -> None:
    result = outgrow("grow", small, tmp_path / "large", *SIZES, "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert plan["costs"]["output_bytes"] == 4 * plan["to"]["parameters"]
    assert plan["keeps_function"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "hidden_size=12"], "shrink"),
        (["--to", "num_attention_heads=6"], "multiple"),
        (["--to", "hiden_size=32"], "hidden_size"),
        (["--to", "hidden_size=lots"], "whole number"),
        (["--to", "hidden_size"], "NAME=NUMBER"),
        (["--to", "hidden_size=32", "--width", "isometrc"], "isometric"),
        (["--to", "hidden_size=32", "--depth", "stak"], "stack"),
        (["--to", "hidden_size=32", "--moments", "transprot"], "transport"),
        (["--to", "hidden_size=24", "--width", "duplicate"], "isometric"),
        (["--to", "head_dim=6"], "head_dim"),
        (["--to", "hidden_size=32", "--format", "pickle"], "native"),
        (["--to", "hidden_size=32", "--noise", "inf"], "noise"),
        (["--to", "hidden_size=32", "--noise", "nan"], "noise"),
        (["--to", "hidden_size=32", "--seed", "-1"], "seed"),
        (["--to", "hidden_size=32", "--to", "hidden_size=48"], "hidden_size is given twice"),
        (["--to", "hidden_size=32", "--width", ""], "unknown width operator"),
        (["--to", "hidden_size=32", "--dry-run", "--ranks", str(10**9)], "1 to 65,536"),
    ],
)
def test_mistakes_in_words(small: Path, tmp_path: Path, words: list[str], said: str) -> None:
    message = refused("grow", small, tmp_path / "large", *words)
    assert said in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plot", "none/proof.png"], "cannot be written"),
        (["--plot", "proof.txt"], ".png"),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--learning-rate", "nan"], "learning rate"),
    ],
)
def test_verify_refuses_before_any_work(small: Path, words: list[str], said: str) -> None:
    assert said in refused("verify", small, small, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--moments", "trnsport"], "transport"),
        (["--plot", "none/fit.png"], "cannot be written"),
        (["--save-operator", "large"], "cannot share"),
        (["--sequences", str(10**9)], "equal to 65536"),
        (["--learning-rate", "0"], "a learning rate above 0"),
        (["--learning-rate", "nan"], "a learning rate above 0"),
        (["--start", "published", "--width", "pad"], "--start published has no use for --width"),
        (["--rank", "7", "--hidden", "3"], "--method ligo --start exact has no use for --hidden, --rank"),
        (["--data", "any.npz", "--length", "9"], "on images has no use for --length"),
    ],
)
def test_learn_refuses_before_any_work(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused("learn", small, "large", "--to", "hidden_size=32", "--data", "any.txt", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_message(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/metrics.jsonl")

    monkeypatch.setattr("outgrow.commands.verify.proof_batches", full)
    assert "No space left on device: 'out/metrics.jsonl'" in refused("verify", small, small)


def test_a_fault_of_ours_is_no_failed_proof(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outgrow.commands.verify.proof_batches", lambda *_, **__: 1 / 0)
    result = outgrow("verify", small, small)
    assert result.returncode == 70
    assert "ZeroDivisionError" in result.stderr


def test_existing_destination_is_left_alone(small: Path, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "mine.txt").write_text("precious")
    assert "exist" in refused("grow", small, tmp_path / "large", *SIZES)
    assert (tmp_path / "large" / "mine.txt").read_text() == "precious"


def test_unknown_architecture_says_how_to_add_it(small: Path, tmp_path: Path) -> None:
    from transformers import CTRLConfig, CTRLLMHeadModel

    folder = tmp_path / "ctrl"
    config = CTRLConfig(vocab_size=11, n_embd=8, n_layer=1, n_head=2, dff=12, n_positions=16)
    CTRLLMHeadModel(config).save_pretrained(folder)
    assert "architectures check ctrl.yaml" in refused("grow", folder, tmp_path / "large", "--to", "n_embd=16")


def test_not_a_model_folder(small: Path, tmp_path: Path) -> None:
    """The folder of a run names the last state inside it."""
    assert "config.json" in refused("inspect", tmp_path)
    for step in (500, 1000):
        shutil.copytree(small, tmp_path / f"checkpoint-{step}")
    assert f"give a folder inside it: {tmp_path / 'checkpoint-1000'}" in refused("inspect", tmp_path)
    shutil.copytree(small, tmp_path / "final")
    assert f"give a folder inside it: {tmp_path / 'final'}" in refused("inspect", tmp_path)


def test_help_and_exit_codes() -> None:
    for verb in ("inspect", "grow", "verify", "train", "plan"):
        result = outgrow(verb, "--help")
        assert result.returncode == 0
        assert "Example" in result.stdout
    command = [sys.executable, "-m", "outgrow", "grow"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_a_growth_imports_only_what_it_needs(small: Path, tmp_path: Path) -> None:
    """Pictures, tables and training take longer to import than a tiny model to grow."""
    words = ["outgrow", "grow", str(small), str(tmp_path / "large"), *SIZES]
    program = f"""
import sys
from outgrow.cli import main
sys.argv = {words}
try:
    main()
finally:
    print("modules", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.rpartition("modules ")[2].split())
    assert "outgrow.commands.grow" in found
    assert not found & {"matplotlib", "pandas", "scipy", "sklearn", "datasets", "tensorboard", "torchvision"}
    assert not found & {"transformers.trainer", "outgrow.training", "outgrow.comparing", "outgrow.planning"}


def test_choices_are_listed_and_checked_before_any_work(small: Path, tmp_path: Path) -> None:
    """What the command line offers is what the library takes."""
    from typing import get_args

    from outgrow.algebra.slots import Moments
    from outgrow.commands import options
    from outgrow.commands.verify import DTYPES
    from outgrow.store.layouts import FORMATS

    assert get_args(get_args(options.FormatChoice)[0]) == FORMATS
    assert set(get_args(options.MomentsChoice)) == set(get_args(Moments))
    assert set(get_args(options.Precision)) == set(DTYPES)
    assert "'zip' is not one of" in refused("grow", small, tmp_path / "large", *SIZES, "--format", "zip")
    assert not list(tmp_path.iterdir())


def test_grow_says_which_layer_copies_which_what_stays_and_what_now(small: Path, tmp_path: Path) -> None:
    shown = outgrow("grow", small, tmp_path / "large", *SIZES).stdout
    assert "at first): 0 0* 1." in shown
    assert "Stays: intermediate_size 20, " in shown
    assert "What now:" in shown
    assert f"or transformers.LlamaForCausalLM.from_pretrained('{tmp_path / 'large'}')" in shown
    assert "rate    a schedule of its own, with a warm-up: no optimizer comes along" in shown
    named = outgrow("grow", small, tmp_path / "other", *SIZES, "--list-new").stdout.split()
    assert len(named) == 9
    assert all(name.startswith("model.layers.1.") for name in named)
    assert not (tmp_path / "other").exists()
    assert outgrow("--version").stdout.startswith("outgrow ")


def test_what_took_the_place_of_its_source_is_not_proved_by_itself(small: Path, tmp_path: Path) -> None:
    for words in (["grow", *SIZES], ["convert", "--as", "mistral"]):
        command, *options = words
        own = shutil.copytree(small, tmp_path / command)
        assert outgrow(command, own, own, *options, "--overwrite").stdout.endswith(f"Written: {own}\n")
        shown = outgrow(command, small, tmp_path / f"{command} 2", *options).stdout
        assert shown.endswith(f"(prove it: outgrow verify {small} '{tmp_path / f'{command} 2'}')\n")
        assert "│ once " in outgrow("inspect", own).stdout


def test_what_now_knows_images_and_ended_schedules(small: Path, tmp_path: Path) -> None:
    """Twenty tokens per parameter are a law of text; a run at its last step has no rate to go on with."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(
        tmp_path / "vit"
    )
    words = ("grow", tmp_path / "vit", tmp_path / "large", "--to", "num_hidden_layers=2", "--dry-run")
    assert "per parameter;" not in outgrow(*words).stdout
    state = trained_once(small)
    for steps, said in ((3, "the schedule is at its end"), (4, "go on with the schedule as it stands")):
        trainer = {"global_step": 3, "max_steps": steps, "log_history": []}
        folder = replace(state, records={"trainer": trainer}).save_pretrained(tmp_path / str(steps))
        shown = outgrow("grow", folder, tmp_path / "large", "--to", "num_hidden_layers=4", "--dry-run").stdout
        assert f"rate    {said}" in shown


def test_a_proof_speaks_of_moments_where_they_follow_the_law(small: Path, tmp_path: Path) -> None:
    """Not of those that began anew, and not where there are none."""
    trained = trained_once(small).save_pretrained(tmp_path / "trained")
    to = ("--to", "num_hidden_layers=4", "--depth", "identity")
    for name, source, options, told in (
        ("none", small, (), False),
        ("zero", trained, ("--moments", "keep_zero"), False),
        ("law", trained, (), True),
    ):
        assert outgrow("grow", source, tmp_path / name, *to, *options).returncode == 0
        shown = " ".join(outgrow("verify", source, tmp_path / name, "--steps", "1").stdout.split())
        assert "its gradients are the small model's, transported" in shown
        assert ("so the moments are exact" in shown) == told, name
        assert "after 1 steps" not in shown


def test_verify_names_a_state_of_another_source(small: Path, tmp_path: Path) -> None:
    """Whatever the replay of its growth would say of these sizes."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    outgrow("grow", small, once, "--to", "num_hidden_layers=3", "--depth", "identity")
    outgrow("grow", once, twice, "--to", "num_hidden_layers=4", "--depth", "identity")
    message = refused("verify", twice, once)
    assert "was not grown from this small one: it has other sizes" in message
    assert "to do:    give the small state first" in message


def test_a_decoder_whose_head_was_not_saved_is_refused(small: Path, tmp_path: Path) -> None:
    """Untied, its head is lost; tied, it is the table of embeddings, and nothing is."""
    whole = LlamaForCausalLM.from_pretrained(small)
    whole.model.save_pretrained(tmp_path / "bare")
    told = refused("grow", tmp_path / "bare", tmp_path / "large", *SIZES)
    assert "LlamaModel" in told
    assert "no lm_head.weight" in told
    assert not (tmp_path / "large").exists()
    whole.config.tie_word_embeddings = True
    whole.model.save_pretrained(tmp_path / "tied")
    assert outgrow("grow", tmp_path / "tied", tmp_path / "large", *SIZES, "--dry-run").returncode == 0


def test_export_and_convert_name_what_the_format_leaves_behind(small: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(small)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.arange(3, 19).view(2, 8)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    TrainingState.from_model(model, optimizer).save_pretrained(tmp_path / "state")
    for words in (
        ("export", tmp_path / "state", tmp_path / "a"),
        ("convert", tmp_path / "state", tmp_path / "b"),
    ):
        told = outgrow(*words, *(("--as", "mistral") if words[0] == "convert" else ()), "--format", "hub")
        assert "left behind: optimizer.safetensors (the format hub is the model alone)" in told.stdout
    done = outgrow("export", tmp_path / "state", tmp_path / "c", "--json")
    assert json.loads(done.stdout)["left_behind"] == {}
