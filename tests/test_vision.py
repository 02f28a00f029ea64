"""Image classifiers from end to end: published names, growth with an optimizer, proof on images, FLOPs per image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

import outgrow
from battery import zoo
from outgrow.cli import app
from outgrow.cost.flops import model_cost, parameter_count, training_flops
from outgrow.data.images import ImageData, LabelledImages
from outgrow.data.proof_images import image_batches
from outgrow.errors import ConfigError
from outgrow.models.architecture import resolve
from outgrow.models.forward import batch_loss
from outgrow.models.library import build_model
from outgrow.proof.verify import verify
from outgrow.store.safetensors_file import read_header
from outgrow.store.safetensors_folder import weight_files

NAMES = ["vit", "deit", "deit-teacher"]
TO = {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 80, "num_hidden_layers": 4}


def trained(name: str) -> tuple[Any, torch.optim.AdamW]:
    """A small model and its AdamW, a few steps old."""
    model = zoo.build(zoo.config(name), dtype=torch.float32)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for batch in image_batches(zoo.resolved(name), None, count=2, size=3)[0]:
        batch_loss(model, batch).backward()
        adamw.step()
        adamw.zero_grad()
    return model, adamw


def same(left: outgrow.TrainingState, right: outgrow.TrainingState) -> None:
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        assert set(left.source.names(slot)) == set(right.source.names(slot))
        for name in left.source.names(slot):
            assert torch.equal(left.source.read(name, slot), right.source.read(name, slot)), name


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_transformers_open_and_grown_folders_load(name: str, tmp_path: Path) -> None:
    model, adamw = trained(name)
    model.save_pretrained(tmp_path / "hub")
    (file,) = weight_files(tmp_path / "hub")
    assert any("encoder.layer.0.attention.attention.query" in tensor for tensor in read_header(file).entries)
    opened = outgrow.TrainingState.from_pretrained(tmp_path / "hub")
    for tensor, parameter in model.named_parameters():
        assert torch.equal(opened.source.read(tensor, "weight"), parameter)

    state = outgrow.TrainingState.from_model(model, adamw)
    grown = outgrow.grow(state, to=TO, depth="identity", noise=0.0)
    grown.save_pretrained(tmp_path / "native")
    same(grown, outgrow.TrainingState.from_pretrained(tmp_path / "native"))
    loaded = type(model).from_pretrained(tmp_path / "native").eval()
    assert len(loaded.base_model.layers) == 4
    with torch.no_grad():
        torch.testing.assert_close(
            zoo.logits(loaded, zoo.batch()), zoo.logits(model, zoo.batch()), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_format_continues_under_the_same_names(name: str, tmp_path: Path) -> None:
    state = outgrow.TrainingState.from_model(*trained(name))
    outgrow.grow(state, to=TO).save_pretrained(tmp_path / "trainer", format="trainer")
    again = outgrow.TrainingState.from_pretrained(tmp_path / "trainer")
    same(outgrow.grow(state, to=TO), again)
    live = build_model(again.config)
    again.load_into(live, torch.optim.AdamW(live.parameters()))


@pytest.mark.parametrize(
    ("name", "width", "kept"), [("vit", "isometric", True), ("deit-teacher", "pad", False)]
)
def test_a_proof_on_images(name: str, width: str, kept: bool) -> None:
    state = outgrow.TrainingState.from_model(*trained(name))
    grown = outgrow.grow(state, to=TO, width=width, depth="identity", noise=0.0)
    batches, source = image_batches(resolve(state.config), None, count=2, size=3)
    report = verify(state, grown, batches, steps=2)
    assert report.passed
    assert (report.gradient_error <= 1e-6) == kept == report.gradient_promised
    assert report.first_update["old"].median > 0
    assert "random images" in source
    again = image_batches(resolve(state.config), None, count=2, size=3)[0]
    assert torch.equal(again[1]["pixel_values"], batches[1]["pixel_values"])


def test_the_command_line_takes_images(tmp_path: Path) -> None:
    trained("deit")[0].save_pretrained(tmp_path / "small")
    pixels = np.random.default_rng(0).standard_normal((8, 2, 15, 15)).astype(np.float32)
    np.savez(tmp_path / "images.npz", pixel_values=pixels, labels=np.arange(8) % 7)
    run = CliRunner().invoke
    small, large = str(tmp_path / "small"), str(tmp_path / "large")
    shown = run(app, ["inspect", small])
    assert shown.exit_code == 0, shown.output
    assert "per image" in shown.output
    grown = run(app, ["grow", small, large, "--to", "hidden_size=48", "--to", "num_attention_heads=8"])
    assert grown.exit_code == 0, grown.output
    proof = run(app, ["verify", small, large, "--data", str(tmp_path / "images.npz"), "--steps", "2"])
    assert proof.exit_code == 0, proof.output
    assert "images.npz,2batchesofpixel_values(4,2,15,15)" in "".join(proof.output.split())


def test_a_proof_takes_the_bytes_that_training_takes(tmp_path: Path) -> None:
    trained("vit")[0].save_pretrained(tmp_path / "small")
    drawn = np.random.default_rng(0).integers(256, size=(8, 15, 15, 2), dtype=np.uint8)
    np.savez(tmp_path / "bytes.npz", images=drawn, labels=np.arange(8) % 7)
    run, small, large = CliRunner().invoke, str(tmp_path / "small"), str(tmp_path / "large")
    assert run(app, ["grow", small, large, "--to", "num_hidden_layers=4"]).exit_code == 0
    proof = run(app, ["verify", small, large, "--data", str(tmp_path / "bytes.npz"), "--steps", "2"])
    assert proof.exit_code == 0, proof.output
    batch = image_batches(zoo.resolved("vit"), str(tmp_path / "bytes.npz"), count=2, size=4)[0][0]
    expected = np.moveaxis(drawn[:4], -1, 1).astype(np.float32) / 127.5 - 1
    assert np.array_equal(batch["pixel_values"].numpy(), expected)


GOOD = {"pixel_values": np.zeros((4, 2, 15, 15), np.float32), "labels": np.arange(4)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": None}, "lacks labels"),
        ({"labels": np.arange(4) + 4}, "not a class"),
        ({"labels": np.arange(4) / 2}, "not one class number per image"),
        ({"labels": np.arange(3)}, "not one class number per image"),
        ({"pixel_values": np.zeros((4, 3, 15, 15))}, r"images, 2, 15, 15"),
        ({"pixel_values": np.zeros((4, 2, 15, 15), np.uint8)}, "uint8"),
        ({"pixel_values": np.full((4, 2, 15, 15), np.nan)}, "not finite"),
        ({"pixel_values": np.zeros((2, 2, 15, 15)), "labels": np.arange(2)}, "too few images"),
        ({"pixel_values": np.array([object()])}, "cannot be read"),
    ],
)
def test_images_that_cannot_be_used(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    arrays = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(ConfigError, match=says):
        image_batches(zoo.resolved("vit"), str(tmp_path / "images.npz"), count=2, size=2)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"text"])
def test_a_file_that_is_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as images"):
        image_batches(zoo.resolved("vit"), str(path), count=1, size=2)
    with pytest.raises(ConfigError, match="cannot be read as images"):
        image_batches(zoo.resolved("vit"), str(tmp_path / "none.npz"), count=1, size=2)
    np.save(path.with_suffix(".npy"), np.zeros(3))
    with pytest.raises(ConfigError, match="single array"):
        image_batches(zoo.resolved("vit"), str(path.with_suffix(".npy")), count=1, size=2)


@pytest.mark.parametrize("name", NAMES)
def test_flops_per_image_agree_with_pytorch(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = zoo.config(name)
    made = transformers.AutoConfig.for_model(**config, attn_implementation="eager")
    model = type(zoo.empty(config))(made)
    assert parameter_count(config) == model.num_parameters()
    pixels = torch.zeros(
        4, 2, 15, 15, requires_grad=True
    )  # as a hidden layer: the count then includes its gradient
    with FlopCounterMode(display=False) as counter:
        model(pixels).logits.sum().backward()
    unit, flops = training_flops(config, 1024)
    assert unit == "image"
    assert model_cost(config).length == 9 + (2 if "deit" in name else 1)
    assert abs(counter.get_total_flops() / (4 * flops) - 1) < 0.01


@pytest.mark.parametrize("part", ["train", "validation"])
def test_other_pixels_are_other_data(part: str) -> None:
    """Not only the first images count."""
    labels = np.zeros(200, dtype=np.int64)
    parts = {
        name: LabelledImages(np.zeros((200, 3, 8, 8), dtype=np.uint8), labels)
        for name in ("train", "validation")
    }
    before = ImageData(**parts, classes=1, flip_crop=False, description="").record
    parts[part].pixels[64:] = 1
    assert ImageData(**parts, classes=1, flip_crop=False, description="").record != before
