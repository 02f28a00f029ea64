"""CaiT, whose module is timm's. The checks are in `timm_checks.py` and run in a process of their own.

timm imports torchvision, and an environment for tests of transformers may have neither; or have them in a folder of
their own, named by OUTGROW_TIMM_PATH (`pip install --no-deps --target FOLDER timm torchvision`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outgrow.data.needs import ImageNeeds, model_config
from outgrow.errors import CheckpointError, GrowthError
from outgrow.methods.build import build
from outgrow.models import timm_models
from outgrow.models.architecture import growable, load_architecture, resolve
from timm_config import CAIT

HERE = Path(__file__).parent


def test_the_checks_in_a_process_of_their_own() -> None:
    paths = [str(HERE), *filter(None, [os.environ.get("OUTGROW_TIMM_PATH")]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(HERE / "timm_checks.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    if done.returncode == 5:  # nothing collected: the module was skipped
        reason = next(line for line in done.stdout.splitlines() if "SKIPPED" in line)
        pytest.skip(reason)
    assert done.returncode == 0, done.stdout + done.stderr


def test_class_blocks_are_unrolled_and_keep_their_number() -> None:
    model = resolve(CAIT)
    assert model.layers == 3
    assert model.parameters["blocks.2.gamma_1"].layer == 2
    assert model.parameters["blocks_token_only.1.gamma_1"].layer is None
    assert "blocks_token_only.2.gamma_1" not in model.parameters
    assert model.sequence == 9
    assert "depth_token_only" not in growable(load_architecture("cait"))


@pytest.mark.parametrize("width", ["isometric", "pad"])
def test_layer_scale_needs_every_unit_copied_equally_often(width: str) -> None:
    with pytest.raises(GrowthError, match="48") as error:
        build(resolve(CAIT), {"hidden_size": 36, "num_attention_heads": 6}, width=width)
    assert "use pad" not in str(error.value)


def test_without_timm_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CheckpointError, match="need timm") as error:
        timm_models.build_timm(CAIT)
    assert "pip install -e '.[timm]'" in str(error.value)


def test_a_new_model_has_the_sizes_of_its_images() -> None:
    """Timm is not asked: the config is ours."""
    fields = {name: CAIT[name] for name in CAIT if name not in ("image_size", "num_channels", "num_labels")}
    made = model_config(fields, ImageNeeds(side=20, channels=3, classes=4))
    assert (made["image_size"], made["num_channels"], made["num_labels"]) == (20, 3, 4)
    with pytest.raises(CheckpointError, match="hidden_sise"):
        model_config({**fields, "hidden_sise": 24}, ImageNeeds(side=20, channels=3, classes=4))
