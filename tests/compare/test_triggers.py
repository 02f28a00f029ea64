"""Small stages of a study that a trigger ends."""

from __future__ import annotations

from pathlib import Path

from compare.tiny import GROW, SMALL
from compare.tiny import text_study as study
from outgrow.comparing import parse_study, run_study
from outgrow.comparing.check import check_study
from outgrow.comparing.piece_trainer import PieceTrainer
from outgrow.comparing.pieces import branches, with_thresholds
from outgrow.run.until import Threshold, UntilEfficiency
from outgrow.training.folder import RunFolder


def test_a_trigger_of_a_grown_stage_counts_the_tokens_before_it(corpus: Path, tmp_path: Path) -> None:
    """256 tokens of the first stage: without them its curve would seem to begin anew."""
    middle = {"tokens": 128, "grow": GROW, "until": {"loss": 3.0}, "reentry": {"rewarm_tokens": 64}}
    arms = {
        "scratch": {"model": {**SMALL, "num_hidden_layers": 4}},
        "two": {
            "model": SMALL,
            "stages": [{"tokens": 256}, middle, {"grow": {"to": {"num_hidden_layers": 4}}}],
        },
    }
    parsed = parse_study(study(corpus, tmp_path, arms=arms))
    first, second, *rest = branches(parsed, "two", 0, 1e-2, (320,))[0].piece.line
    folder = parsed.pieces_folder
    PieceTrainer(check_study(parsed, print), folder, print).train([first], "one")
    reentry = second.run(folder).stages[0].reentry
    assert (reentry.position, reentry.rewarm_tokens) == (256, 64)
    assert all(piece.run(folder).stages[0].reentry.position == "keep" for piece in (first, *rest))
    # A trigger may have ended the first stage: then its last row says how far its curve goes. `keep` is no other wish.
    log = RunFolder(Path(folder) / first.key).metrics
    log.write_text(log.read_text().replace('"tokens": 256', '"tokens": 192'))
    arms["two"]["stages"][1]["reentry"]["position"] = "keep"
    again = branches(parse_study(study(corpus, tmp_path, arms=arms)), "two", 0, 1e-2, (320,))[0].piece.line[1]
    assert again.run(folder).stages[0].reentry.position == 192


def test_a_trigger_ends_a_small_stage(corpus: Path, tmp_path: Path) -> None:
    early = {"loss": 99.0, "min_tokens": 0, "check_tokens": 64, "patience": 1, "window": 0.1}
    small = {"tokens": 64 * 150, "until": early}
    law = {"tokens": 256, "until": {"trigger": "efficiency"}}
    arms = {
        "scratch": {"model": {**SMALL, "num_hidden_layers": 2}},
        "loss": {"model": SMALL, "stages": [small, {"grow": GROW}]},
        "law": {"model": SMALL, "stages": [law, {"grow": GROW}]},
    }
    parsed = parse_study(study(corpus, tmp_path, arms=arms, seeds=[0]))
    result = run_study(parsed, lambda _: None)
    first, _ = (point.tokens for point in result.points if point.arm == "loss")
    assert 64 * 80 <= first - 320 < 64 * 150  # eight rows of ten steps are the least that is fitted
    numbers = with_thresholds(parsed, check_study(parsed, lambda _: None)).arms["law"].stages[0].until
    assert isinstance(numbers, UntilEfficiency)
    assert isinstance(numbers.threshold, Threshold)  # a piece does not see the growth that its law asks for
    assert numbers.threshold.slope < 0
