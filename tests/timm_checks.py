"""CaiT on timm's own module. Run by `test_cait.py` in a process of its own, because of what timm imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

_OPS = ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
_BACKWARD = tuple(f"_{name}_backward" for name in _OPS[2:])


def _placeholders() -> None:
    """A torchvision built for another torch lacks its C++ operators; CaiT calls none, so their names are enough."""
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode:
        library = torch.library.Library("torchvision", "DEF")
        for name in (*_OPS, *_BACKWARD):
            library.define(f"{name}(Tensor x) -> Tensor")
        globals()["_library"] = library  # dropped with its last reference


_placeholders()
try:
    import timm
except (ImportError, RuntimeError) as error:
    pytest.skip(f"timm cannot be imported: {error}", allow_module_level=True)

import outgrow  # noqa: E402
from battery import growing  # noqa: E402
from outgrow.cli import app  # noqa: E402
from outgrow.cost.flops import parameter_count, training_flops  # noqa: E402
from outgrow.data.proof_images import image_batches  # noqa: E402
from outgrow.errors import CheckpointError  # noqa: E402
from outgrow.growth.plan import GrowthPlan, plan  # noqa: E402
from outgrow.learning.learn import fit_operator  # noqa: E402
from outgrow.methods.build import build  # noqa: E402
from outgrow.models import timm_models  # noqa: E402
from outgrow.models.architecture import resolve  # noqa: E402
from outgrow.proof.verify import loss_and_gradients, verify  # noqa: E402
from outgrow.run.learn_options import LearnOptions  # noqa: E402
from timm_config import CAIT  # noqa: E402

TO = {"embed_dim": 48, "num_heads": 8, "intermediate_size": 80, "class_intermediate_size": 88, "depth": 5}


def made(config: dict[str, Any], dtype: torch.dtype = torch.float64) -> nn.Module:
    """A module with random weights everywhere, gains of LayerScale near 1: else the branches would be 1e-4 and hide mistakes."""
    module = timm_models.build_timm(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = "gamma" in name or ("norm" in name and name.endswith("weight"))
            if parameter.dim() == 1 or name in ("cls_token", "pos_embed"):
                parameter.copy_(noise * 0.3 + (1.0 if gain else 0.0))
            else:
                parameter.copy_(noise * 1.5 / parameter[0].numel() ** 0.5)
    return module.to(dtype).eval()


def measured(growth_plan: GrowthPlan, small: nn.Module) -> tuple[float, dict[str, float]]:
    """(relative loss gap, gradient-law error per tensor)."""
    (batch,) = image_batches(growth_plan.small, None, count=1, size=3)[0]
    before, gradients = loss_and_gradients(small, batch)
    large = made(dict(growth_plan.config))
    growing.load(large, growing.view(growth_plan, weight=growing.weights(small)))
    after, large_gradients = loss_and_gradients(large, batch)
    law = growing.law_errors(growth_plan, gradients, large_gradients, floor=1e-6)
    return abs(after - before) / before, law


@pytest.mark.parametrize(
    "changes", [{}, {"qkv_bias": False, "depth_token_only": 1, "class_intermediate_size": 40}]
)
def test_names_shapes_and_config(changes: dict[str, Any]) -> None:
    config = timm_models.complete({**CAIT, **changes})
    model, module = resolve(config), timm_models.build_timm(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert {name: model.shape(name) for name in model.parameters} == shapes
    assert timm_models.timm_config(module) == config


def test_published_sizes() -> None:
    with torch.device("meta"):
        module = timm.create_model("cait_xxs24_224", drop_path_rate=0.05)
    config = timm_models.timm_config(module)
    assert parameter_count(config) == sum(parameter.numel() for parameter in module.parameters())
    assert config["drop_path_rate"] == 0.05
    assert config["num_hidden_layers"] == 24


@pytest.mark.parametrize(
    ("width", "to"),
    [
        ("isometric", TO),
        ("duplicate", {**TO, "depth": 3}),
        ("isometric", {"embed_dim": 48, "num_heads": 6, "intermediate_size": 53}),
        ("isometric", {"intermediate_size": 53, "class_intermediate_size": 45, "depth": 4}),
        ("pad", {"intermediate_size": 53, "class_intermediate_size": 45, "depth": 4}),
    ],
)
def test_function_and_gradient_law(width: str, to: dict[str, int]) -> None:
    small = resolve(timm_models.complete(CAIT))
    growth_plan = plan(build(small, to, width=width, depth="identity", noise=0.0))
    assert growth_plan.keeps_function
    assert growth_plan.keeps_gradient_law
    gap, law = measured(growth_plan, made(CAIT))
    assert gap <= 1e-9
    worst = max(law, key=law.__getitem__)
    assert law[worst] <= 1e-9, worst


def test_noise_is_not_seen_and_stacking_is() -> None:
    small = resolve(timm_models.complete(CAIT))
    noisy = plan(build(small, TO, depth="identity", noise=0.5))
    gap, law = measured(noisy, made(CAIT))
    assert gap <= 1e-9
    assert max(law.values()) > 1e-3
    stacked = plan(build(small, {"depth": 6}, depth="stack", noise=0.0))
    assert not stacked.keeps_function
    assert measured(stacked, made(CAIT))[0] > 1e-3


def test_flops_per_image() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    module = timm_models.build_timm(CAIT)
    for block in module.blocks_token_only:  # type: ignore[union-attr]
        block.attn.fused_attn = False  # the counter knows matrix products
    pixels = torch.zeros(4, 2, 15, 15, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        module(pixels).sum().backward()
    unit, flops = training_flops(CAIT, 1024)
    assert unit == "image"
    assert abs(counter.get_total_flops() / (4 * flops) - 1) < 0.01


def test_state_folder_and_proof(tmp_path: Path) -> None:
    module = made(CAIT, torch.float32)
    adamw = torch.optim.AdamW(module.parameters(), lr=1e-3)
    batches = image_batches(resolve(CAIT), None, count=2, size=3)[0]
    for batch in batches:
        loss_and_gradients(module, batch)
        adamw.step()
    state = outgrow.TrainingState.from_model(module, adamw)  # type: ignore[arg-type]
    grown = outgrow.grow(state, to=TO, depth="identity", noise=0.0)
    grown.save_pretrained(tmp_path / "large")
    assert json.loads((tmp_path / "large" / "config.json").read_text())["model_type"] == "cait"
    opened = outgrow.TrainingState.from_pretrained(tmp_path / "large")
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        for name in grown.source.names(slot):
            assert torch.equal(opened.source.read(name, slot), grown.source.read(name, slot))
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "large")])
    assert shown.exit_code == 0, shown.output
    report = verify(state, opened, batches, steps=2)
    assert report.passed
    assert report.gradient_error <= 1e-6
    with pytest.raises(CheckpointError, match="Trainer's checkpoints are for models of transformers"):
        grown.save_pretrained(tmp_path / "trainer", format="trainer")


@pytest.mark.parametrize(
    ("method", "start"), [("ligo", "exact"), ("ligo", "published"), ("mango", "published")]
)
def test_operators_are_learned(method: str, start: str) -> None:
    state = outgrow.TrainingState.from_model(made(timm_models.complete(CAIT), torch.float32))
    (batch,) = image_batches(resolve(state.config), None, count=1, size=8)[0]
    options = LearnOptions(method, start, steps=10, learning_rate=3e-3)
    operator, fit = fit_operator(state, TO, lambda step: batch, [batch], options)
    if start == "exact":
        assert fit.loss_start == pytest.approx(fit.loss_small, rel=1e-4)
    assert fit.loss_end < fit.loss_start
    grown = plan(operator.growth(state.config), "reset")
    assert grown.large.layers == 5


def test_a_published_folder_of_timm_opens(tmp_path: Path) -> None:
    module = timm.create_model("cait_xxs24_224", depth=1, num_classes=7)
    content = {
        "architecture": "cait_xxs24_224",
        "num_classes": 7,
        "model_args": {"depth": 1},
        "pretrained_cfg": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    state = outgrow.TrainingState.from_pretrained(tmp_path)
    assert state.config == timm_models.timm_config(module)
    assert torch.equal(state.source.read("head.weight", "weight"), module.head.weight)
    for wrong, says in (
        ({"architecture": "hf-hub:cait_x/y"}, "cannot be built"),
        ({"architecture": 5}, "model type"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**content, **wrong}))
        with pytest.raises(CheckpointError, match=says):
            outgrow.TrainingState.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hiden_size": 4}, "did you mean hidden_size"),
        ({"patch_size": None}, "'patch_size' is not a size"),
        ({"num_labels": True}, "'num_labels' is not a size"),
        ({"qkv_bias": 1}, "'qkv_bias' is no option"),
        ({"architectures": ["XCiT"]}, "unknown class"),
    ],
)
def test_configs_that_describe_no_cait(change: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        timm_models.complete({**CAIT, **change})


def test_modules_that_the_file_does_not_describe() -> None:
    with pytest.raises(CheckpointError, match="no architecture file describes timm's VisionTransformer"):
        timm_models.timm_config(timm.create_model("vit_tiny_patch16_224", depth=1))
    for options in (
        {"global_pool": "avg"},
        {"num_classes": 0},
        {"act_layer": nn.ReLU},
        {"img_size": (16, 32)},
    ):
        module = timm.create_model("cait_xxs24_224", depth=1, **{"img_size": 32, **options})
        with pytest.raises(CheckpointError, match=r"built unlike|not a size"):
            timm_models.timm_config(module)


def test_a_study_trains_grows_and_compares(tmp_path: Path) -> None:
    """Width by whole factors, depth stacked, which gains of LayerScale allow."""
    images = np.random.default_rng(0).integers(0, 255, (96, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(96) % 3)
    of_data = ("image_size", "num_channels", "num_labels")
    model = {**{key: value for key, value in CAIT.items() if key not in of_data}, "patch_size": 4}
    grow = {"to": TO, "width": "duplicate", "depth": "stack", "moments": "reset", "noise": 0}
    study = {
        "output": str(tmp_path / "study"),
        "common": {
            "data": {"images": str(tmp_path / "images.npz"), "validation_share": 0.25},
            "batch": {"sequences": 8},
            "evaluation": {"sequences": 16},
            "device": "cpu",
        },
        "arms": {
            "scratch": {"model": model},
            "grown": {"model": model, "stages": [{"tokens": 16}, {"grow": grow}], "budgets": [16]},
        },
        "baseline": "scratch",
        "budgets": [16, 32],
        "seeds": [0],
        "tuning": {"rates": [1e-3]},
        "timing": {"rounds": 1, "steps": 1},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))  # JSON is YAML
    compared = outgrow.compare(tmp_path / "study.yaml")
    parameters = {point.arm: point.parameters for point in compared.points}
    assert parameters["grown"] > 2 * parameters["scratch"]
    assert all(point.accuracy is not None for point in compared.points)
