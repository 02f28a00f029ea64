"""The studies of benchmarks/studies: every arm can be built, the sizes fit the time that each file promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from outgrow.comparing import StudyConfig, load_study
from outgrow.comparing.estimate import estimate
from outgrow.comparing.pieces import all_pieces, arm_run, branches
from outgrow.comparing.steps import common_run
from outgrow.cost.flops import model_cost
from outgrow.data.needs import ImageNeeds, Needs, TextNeeds
from outgrow.models.architecture import load_architecture
from outgrow.training.stage_plans import plan_stages

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks" / "studies").rglob("*.yaml"))
NAMES = {
    "lm-depth",
    "lm-compound",
    "lm-deep",
    "lm-thin",
    "lm-width",
    "lm-both",
    "gpt2-staged",
    "gpt2-staged-dropout",
    "bert-ligo",
    "bert-rows",
    "roberta-rows",
    "vit-cait",
    "vit-ligo",
    "vit-transfer",
}
TWO_CORES = 2 * 12e9
"""FLOPs per second that models this small reach on two busy cores; by the studies' timing an idle one does 17 to 25e9."""


def needs(study: StudyConfig, model_type: str) -> Needs:
    """What the data would ask for; nothing is read."""
    data = common_run(study).data
    if data.images is not None:
        return ImageNeeds(32, 3, 10)
    assert data.tokenizer is not None
    assert data.tokenizer.vocab_size is not None
    special = (2, 1) if load_architecture(model_type).objective == "masked" else (None, None)
    return TextNeeds(data.tokenizer.vocab_size, data.sequence_length, 0, *special)


def test_every_study_is_there_in_both_sizes() -> None:
    found = {(path.parent.name, path.stem) for path in FILES}
    assert found == {(folder, name) for folder in ("studies", "gpu") for name in NAMES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_study_can_be_built_and_is_as_large_as_it_says(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    if any(load_architecture(str(one.model["model_type"])).library == "timm" for one in study.arms.values()):
        pytest.importorskip("timm")
    gpu = path.parent.name == "gpu"
    assert study.output == f"runs/studies/{'gpu/' if gpu else ''}{path.stem}"
    plans = {
        arm: plan_stages(arm_run(study, arm), needs(study, str(config.model["model_type"])))
        for arm, config in study.arms.items()
    }
    for arm in study.arms:
        found = branches(study, arm, 0, study.tuning.rates[-1], study.arm_budgets(arm))
        for piece in all_pieces(found):
            assert piece.run("-").output == f"-/{piece.key}"
    nothing_there = study.model_copy(update={"output": str(tmp_path), "pieces": None})
    planned = estimate(nothing_there, plans, measure=False)
    flops = sum(one.flops for one in planned)
    head = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    said = re.search(r"([\d.]+e\d+) FLOPs, ([\d.]+) h", head)
    assert said is not None, "the head says how large the study is"
    assert float(said[1]) == pytest.approx(flops, rel=0.01)
    speed = 1e14 if gpu else TWO_CORES
    assert float(said[2]) == pytest.approx(flops / speed / 3600, rel=0.06)
    assert len(study.seeds) >= 3
    parameters = {arm: model_cost(stages[-1].config).parameters for arm, stages in plans.items()}
    target = parameters[study.baseline]
    for arm, config in study.arms.items():
        if not config.is_scratch:
            assert parameters[arm] == target, "every growth ends at the baseline's model"
    if gpu:
        assert 27e6 < target < 125e6
    else:
        assert flops <= 3 * 3600 * TWO_CORES
    (baseline,) = (one for one in planned if one.arm == study.baseline)
    if "images" not in study.common["data"]:
        assert baseline.tokens_per_parameter > 19
