"""Learned operators of image classifiers: ViT and DeiT, on images of an .npz file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from battery import zoo
from outgrow import TrainingState
from outgrow.data.learn_data import learn_source
from outgrow.errors import ConfigError
from outgrow.learning.learn import fit_operator
from outgrow.run.learn_options import LearnOptions
from test_cli import outgrow, refused

TO = {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 80, "num_hidden_layers": 4}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images whose class is where they are bright."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 60)
    pixels = rng.normal(0, 0.3, (60, 2, 15, 15)).astype(np.float32)
    for place, label in enumerate(labels):
        pixels[place, :, 3 * label : 3 * label + 3] += 1
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, pixel_values=pixels, labels=labels)
    return path


def state_of(name: str) -> TrainingState:
    torch.manual_seed(0)
    model = zoo.build(zoo.config(name), dtype=torch.float32)
    return TrainingState.from_model(model)


@pytest.mark.parametrize(
    ("name", "method"), [("vit", "ligo"), ("deit", "ligo"), ("deit-teacher", "ligo"), ("vit", "mango")]
)
def test_a_fit_on_images_goes_down_from_the_small_models_loss(name: str, method: str, images: Path) -> None:
    state = state_of(name)
    data = learn_source(state.config, images.parent, str(images)).read(sequences=20)
    start = "exact" if method == "ligo" else "published"
    options = LearnOptions(method=method, start=start, steps=15, learning_rate=3e-3)
    train = data.batch(0)
    _, fit = fit_operator(state, TO, lambda step: train, [train], options, data=data.record)
    if start == "exact":
        assert fit.loss_start == pytest.approx(fit.loss_small, rel=1e-5)
        assert fit.losses[0] == pytest.approx(fit.loss_small, rel=1e-5)
    assert fit.loss_end < fit.loss_start - 0.05
    assert fit.flops > 0


def test_images_must_be_those_of_the_model(images: Path, tmp_path: Path) -> None:
    config = dict(state_of("vit").config)
    for name, other in (("image_size", 20), ("num_channels", 3)):
        with pytest.raises(ConfigError, match=f"do not fit the model's {name}"):
            learn_source({**config, name: other}, tmp_path, str(images)).read()
    narrow = {**config, "id2label": {str(label): str(label) for label in range(4)}, "num_labels": 4}
    with pytest.raises(ConfigError, match="fewer labels than the images have classes"):
        learn_source(narrow, tmp_path, str(images)).read()
    with pytest.raises(ConfigError, match="vit model learns from images"):
        learn_source(config, tmp_path, "text.txt")
    with pytest.raises(ConfigError, match="gpt2 model learns from text"):
        learn_source(zoo.config("gpt2"), tmp_path, str(images))


def test_learn_a_vit_from_the_command_line(images: Path, tmp_path: Path) -> None:
    state_of("vit").save_pretrained(tmp_path / "small")
    sizes = [word for name, size in TO.items() for word in ("--to", f"{name}={size}")]
    command = ("learn", tmp_path / "small", tmp_path / "large", *sizes, "--steps", "2", "--sequences", "8")
    kept = tmp_path / "op"
    done = outgrow(*command, "--data", images, "--save-operator", kept, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["loss_start"] == pytest.approx(found["loss_small"], rel=1e-5)
    again = outgrow("grow", tmp_path / "small", tmp_path / "again", "--operator", kept)
    assert again.returncode == 0, again.stderr
    first, second = (tmp_path / name / "model.safetensors" for name in ("large", "again"))
    assert first.read_bytes() == second.read_bytes()
    assert "learns from images" in refused(*command[:2], tmp_path / "x", *command[3:], "--data", "stdlib")
