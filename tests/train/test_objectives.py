"""Masked language models and image classifiers train as causal models do: same loop, same growth, same bits."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outgrow.cost.flops import training_flops
from outgrow.cost.spans import MASK_SHARE
from outgrow.data.hidden_text import HiddenText
from outgrow.data.images import flipped_and_cropped, load_images, read_images
from outgrow.data.masked import Hiding
from outgrow.data.needs import ImageNeeds, TextNeeds, model_config
from outgrow.data.objectives import IGNORED
from outgrow.data.tokenizer import open_tokenizer
from outgrow.engine.step import Device, build_for_training, measure, optimizer_step
from outgrow.errors import OutgrowError
from outgrow.run.config import DataConfig
from outgrow.run.run_file import parse_run
from outgrow.state.training_state import TrainingState
from outgrow.training import dry_run, train_run
from outgrow.training.folder import read_metrics

Tiny = Callable[..., dict[str, Any]]
CPU = Device("cpu", False)
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
}
VIT = {**BERT, "model_type": "vit", "patch_size": 4}
WIDER = {"to": {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}, "depth": "identity"}


def stripes(count: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Images of rows, of columns or of neither, with noise: three classes that are easy to tell apart."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    waves = np.broadcast_to(96 * (np.arange(8) // 2 % 2), (8, 8))
    kinds = np.stack([waves, waves.T, np.full((8, 8), 48)])
    images = kinds[labels][..., None] + random.integers(64, size=(count, 8, 8, 2))
    return {"images": images.astype(np.uint8), "labels": labels.astype(np.uint8)}


# ---- masked language models -----------------------------------------------------------------------------------------


def test_hiding_is_that_of_bert() -> None:
    tokens = torch.randint(3, 100, (400, 40), generator=torch.Generator().manual_seed(0))
    tokens[:, ::5] = 0  # separators
    hiding = Hiding(mask=1, special=frozenset({0, 1, 2}), vocab_size=100)
    inputs, targets = hiding.apply(tokens, (0, 7, 3))
    again = hiding.apply(tokens, (0, 7, 3))
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, again[1])
    assert not torch.equal(inputs, hiding.apply(tokens, (0, 7, 4))[0])

    chosen = targets != IGNORED
    assert set(chosen.sum(1).tolist()) == {round(MASK_SHARE * 40)}
    assert torch.equal(targets[chosen], tokens[chosen])
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    assert not bool(chosen[:, ::5].any())
    count = int(chosen.sum())
    assert int((inputs[chosen] == 1).sum()) / count == pytest.approx(0.8, abs=0.03)
    assert int((inputs[chosen] == tokens[chosen]).sum()) / count == pytest.approx(0.1, abs=0.03)
    stand_ins = inputs[chosen & (inputs != 1) & (inputs != tokens)]
    assert int(stand_ins.min()) > 2  # a special token never stands in
    more = replace(hiding, share=0.4).apply(tokens, (0, 7, 3))[1]
    assert set((more != IGNORED).sum(1).tolist()) == {16}
    nothing_else = Hiding(1, frozenset({0}), 100).apply(torch.zeros(2, 10, dtype=torch.int64), (0,))
    assert (nothing_else[1] != IGNORED).sum(1).tolist() == [2, 2]


def test_validation_hides_the_same_places_whatever_the_share() -> None:
    tokens = torch.randint(3, 100, (8, 40), generator=torch.Generator().manual_seed(0))
    hiding = Hiding(mask=1, special=frozenset({0, 1, 2}), vocab_size=100)

    class Text:
        def validation_batches(
            self, sequences: int, micro_batch: int
        ) -> list[tuple[torch.Tensor, torch.Tensor]]:
            return [(tokens, tokens)]

    usual, more = (
        HiddenText(Text(), replace(hiding, share=share)).validation_batches(8, 4)  # type: ignore[arg-type]
        for share in (MASK_SHARE, 0.4)
    )
    assert len(usual) == len(more) == 2
    assert all(torch.equal(a[1], b[1]) for a, b in zip(usual, more, strict=True))


def test_a_causal_model_has_no_share_to_hide(tiny: Tiny) -> None:
    settings = tiny()
    settings["data"]["mask_share"] = 0.4
    with pytest.raises(OutgrowError, match="mask_share: llama hides no tokens"):
        dry_run(parse_run(settings))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "eurobert"])
def test_a_masked_model_learns_and_grows(model_type: str, tiny: Tiny, tmp_path: Path) -> None:
    model = {**BERT, "model_type": model_type, "max_position_embeddings": 20}
    stages = [
        {"name": "small", "tokens": 64 * 40},
        {"name": "large", "tokens": 64 * 40, "grow": {**WIDER, "width": "duplicate", "noise": 0.0}},
    ]
    run = parse_run(tiny(model=model, stages=stages, checkpoint={"every_steps": None}))
    dry = dry_run(run)
    result = train_run(run, progress=False)
    small, large = result.stages
    assert small.final_loss is not None
    assert large.final_loss is not None
    assert large.final_loss < small.final_loss < np.log(300)
    assert large.loss_after_growth == pytest.approx(
        large.loss_before_growth, rel=1e-5
    )  # on the same hidden tokens
    assert [stage.flops for stage in dry.stages] == [pytest.approx(stage.flops) for stage in result.stages]

    final = tmp_path / "run" / "final"
    state = TrainingState.from_pretrained(final)
    tokenizer = open_tokenizer(final)
    assert (tokenizer.separator, tokenizer.mask, tokenizer.pad) == (0, 1, 2)
    assert (state.config["mask_token_id"], state.config["pad_token_id"]) == (1, 2)
    cost = training_flops(state.config, 16)
    assert large.flops == pytest.approx(large.tokens * cost[1])
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(final).mask_token_id == 1
    assert AutoModelForMaskedLM.from_pretrained(final).config.hidden_size == 32


def test_micro_batches_weigh_every_hidden_token_alike() -> None:
    content = model_config(
        {**BERT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, TextNeeds(30, 12, 0, 2)
    )
    tokens = torch.randint(3, 30, (4, 12), generator=torch.Generator().manual_seed(0))
    inputs, targets = Hiding(1, frozenset({0, 2}), 30).apply(tokens, (0,))
    targets[0, (targets[0] != IGNORED).nonzero()[0]] = (
        IGNORED  # another number of targets in the first sequence
    )
    models, losses = [], []
    for micro_batch in (4, 1):
        torch.manual_seed(0)
        models.append(build_for_training(content))
        sgd = torch.optim.SGD(models[-1].parameters(), lr=1.0)
        step = optimizer_step(
            models[-1],
            sgd,
            (inputs, targets),
            learning_rate=1.0,
            micro_batch=micro_batch,
            clip=None,
            device=CPU,
            seed=(0, 0),
        )
        losses.append(step.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_masked_training_needs_a_mask(tiny: Tiny, tmp_path: Path) -> None:
    train_run(parse_run(tiny(stages=[{"name": "only", "tokens": 64}])), progress=False)
    data = {**tiny()["data"], "tokenizer": {"path": str(tmp_path / "run" / "tokenizer")}}
    with pytest.raises(OutgrowError, match="mask and a padding token"):
        train_run(parse_run(tiny(model=BERT, data=data, output=str(tmp_path / "masked"))), progress=False)
    model = {**BERT, "model_type": "roberta", "max_position_embeddings": 16}
    with pytest.raises(
        OutgrowError,
        match=r"longer than the model's positions(.|\n)*expected: at most 13(.|\n)*max_position_embeddings: 19",
    ):
        train_run(parse_run(tiny(model=model, output=str(tmp_path / "masked"))), progress=False)
    assert not (tmp_path / "masked").exists()


# ---- images ---------------------------------------------------------------------------------------------------------


def image_run(tiny: Tiny, path: Path, **replace: Any) -> dict[str, Any]:
    run = tiny(
        model=VIT,
        data={"images": str(path), "validation_share": 0.2},
        batch={"sequences": 16, "micro_batch": 8},
        stages=[{"name": "small", "tokens": 16 * 30}, {"name": "large", "tokens": 16 * 20, "grow": WIDER}],
        schedule={"kind": "wsd", "warmup_tokens": 64},
        evaluation={"every_tokens": 160, "sequences": 60},
    )
    return run | replace


def test_an_image_classifier_learns_and_grows(tiny: Tiny, tmp_path: Path) -> None:
    np.savez(tmp_path / "stripes.npz", **stripes(300))
    run = parse_run(image_run(tiny, tmp_path / "stripes.npz"))
    dry = dry_run(run)
    result = train_run(run, progress=False)
    small, large = result.stages
    assert large.final_loss is not None
    assert large.final_loss < 0.9 < np.log(3)
    assert (small.tokens, large.tokens) == (480, 320)  # an image counts as one
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "validation"]
    assert rows[-1]["val_accuracy"] > 0.6
    state = TrainingState.from_pretrained(tmp_path / "run" / "final")
    assert (state.config["image_size"], state.config["num_channels"], len(state.config["id2label"])) == (
        8,
        2,
        3,
    )
    unit, flops = training_flops(state.config, 1)
    assert unit == "image"
    assert large.flops == pytest.approx(320 * flops)
    assert [stage.flops for stage in dry.stages] == [pytest.approx(stage.flops) for stage in result.stages]


def test_accuracy_is_the_share_that_is_right() -> None:
    model = build_for_training(model_config(VIT, ImageNeeds(8, 2, 3)))
    pixels = torch.randn(6, 2, 8, 8)
    guesses = model.eval()(pixel_values=pixels).logits.argmax(-1)
    targets = torch.where(torch.arange(6) < 4, guesses, (guesses + 1) % 3)
    assert measure(model, [(pixels[:4], targets[:4]), (pixels[4:], targets[4:])], CPU)["accuracy"] == 4 / 6


def test_a_step_has_its_own_images_flips_and_crops(tmp_path: Path) -> None:
    np.savez(tmp_path / "stripes.npz", **stripes(40))
    plain = load_images(DataConfig(images=str(tmp_path / "stripes.npz"), validation_share=0.1))
    assert (len(plain.train), len(plain.validation)) == (36, 4)
    epoch = torch.cat([plain.batch(5, step, 6)[0] for step in range(6)]).flatten(1)
    assert len(epoch.unique(dim=0)) == 36  # every image once
    assert -1 <= float(epoch.min()) < float(epoch.max()) <= 1
    moved = load_images(
        DataConfig(images=str(tmp_path / "stripes.npz"), validation_share=0.1, augment="flip_crop")
    )
    one, same, other = (moved.batch(5, step, 6)[0] for step in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, plain.batch(5, 0, 6)[0])
    still = np.full((3, 1, 8, 8), 7, dtype=np.uint8)
    assert np.array_equal(flipped_and_cropped(still, np.random.default_rng(0)), still)


def test_the_three_forms_of_images_are_the_same_images(tmp_path: Path) -> None:
    from PIL import Image

    files = []
    for level in (10, 130, 250):
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(buffer, "JPEG", quality=75)
        files.append(buffer.getvalue())
    header = 4
    assert len({file[:header] for file in files}) == 1
    parts = [np.frombuffer(file[header:], dtype=np.uint8) for file in files]
    np.savez(
        tmp_path / "jpeg.npz",
        header=np.frombuffer(files[0][:header], dtype=np.uint8),
        payload=np.concatenate(parts),
        offsets=np.cumsum([0, *map(len, parts)]),
        labels=np.arange(3),
    )
    jpeg = read_images(tmp_path / "jpeg.npz")
    assert jpeg.pixels.shape == (3, 3, 8, 8)
    assert jpeg.pixels[:, 0, 0, 0].tolist() == [10, 130, 250]
    np.savez(tmp_path / "bytes.npz", images=np.moveaxis(jpeg.pixels, 1, -1), labels=np.arange(3))
    np.savez(tmp_path / "floats.npz", pixel_values=jpeg.pixels.astype(np.float64), labels=np.arange(3))
    for name in ("bytes", "floats"):
        assert np.array_equal(read_images(tmp_path / f"{name}.npz").pixels, jpeg.pixels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.array([0, 1])}, "not one class number per image"),
        ({"labels": np.zeros(9)}, "not one class number per image"),
        ({"images": np.zeros((9, 8, 8, 1))}, "another form(.|\n)*float64"),
        ({"images": np.zeros((9, 8, 6, 1), dtype=np.uint8)}, "not square"),
        ({"images": np.array([{}], dtype=object)}, "cannot be read"),
        ({"pixel_values": np.full((9, 1, 8, 8), np.nan)}, "not finite"),
        (
            {"header": np.zeros(3), "payload": np.zeros(3), "offsets": np.zeros(2), "images": None},
            "do not cut its payload",
        ),
        ({"images": None}, "holds no images"),
    ],
)
def test_what_is_wrong_with_images(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    content = {
        "images": np.zeros((9, 8, 8, 1), dtype=np.uint8),
        "labels": np.zeros(9, dtype=np.int64),
    } | change
    np.savez(tmp_path / "images.npz", **{name: value for name, value in content.items() if value is not None})
    with pytest.raises(OutgrowError, match=words):
        read_images(tmp_path / "images.npz")


def test_data_and_model_are_of_one_kind(tiny: Tiny, tmp_path: Path) -> None:
    np.savez(tmp_path / "stripes.npz", **stripes(30))
    images = image_run(tiny, tmp_path / "stripes.npz")
    for change, words in (
        ({"model": tiny()["model"]}, "llama learns from text"),
        ({"data": tiny()["data"]}, "vit learns from images"),
        ({"model": {**VIT, "image_size": 12}}, "do not fit the model's image_size"),
        ({"model": {**VIT, "num_labels": 2}}, "fewer labels"),
        ({"data": {"images": str(tmp_path / "nowhere.npz")}}, "cannot be read as images"),
    ):
        with pytest.raises(OutgrowError, match=words):
            train_run(parse_run(images | change), progress=False)
    assert not (tmp_path / "run").exists()
