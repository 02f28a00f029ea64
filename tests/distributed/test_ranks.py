"""Many ranks: the same run on 1, 2 and 4 of them, growth into shards, kills, and mistakes that are told once.

`worker.py` does the work in forks, once for all tests of this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed.worker import STEPS, tiny
from outgrow.errors import ConfigError
from outgrow.parallel.mesh import MeshSizes
from outgrow.parallel.ranks import Ranks
from outgrow.run.run_file import parse_run
from outgrow.training.dry import dry_run
from outgrow.training.preflight import preflight
from train.tiny_corpus import write_corpus

ROUNDING = 2e-6
"""Sums over ranks have another order: a few units in the last place of a loss near 5, kept small by ten steps."""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the worker says, by fact."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("worker.py"), tmp_path_factory.mktemp("ranks")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["fact"]: line["value"] for line in lines}


@pytest.mark.parametrize("other", ["two", "moved"])
def test_losses_do_not_depend_on_the_ranks(facts: dict[str, Any], other: str) -> None:
    alone, ranks = facts["losses alone"], facts[f"losses {other}"]
    assert ranks[0] == alone[0], "the first loss has the same bits: data, dropout and sum are the same"
    assert ranks == pytest.approx(alone, abs=ROUNDING, rel=0)
    assert len(alone) == 2 * STEPS + 8
    assert (
        len(facts["ranks moved"]) == 3
    )  # four with replicas, two, one: each went on where another one was killed


@pytest.mark.parametrize("optimizer", ["lion", "muon"])
def test_other_optimizers_and_a_mixture(facts: dict[str, Any], optimizer: str) -> None:
    assert facts[f"losses {optimizer}-2"] == pytest.approx(
        facts[f"losses {optimizer}-1"], abs=ROUNDING, rel=0
    )


@pytest.mark.parametrize("what", ["sgd", "compiled"])
def test_steps_with_momentum_and_of_compiled_layers(facts: dict[str, Any], what: str) -> None:
    alone, ranks = facts[f"steps {what}"]
    assert ranks == pytest.approx(alone, abs=ROUNDING, rel=0)
    assert len(alone) == 6


def test_stages_with_a_batch_a_precision_and_an_optimizer_of_their_own(facts: dict[str, Any]) -> None:
    alone, ranks = facts["losses own-1"], facts["losses own-2"]
    assert ranks[:-2] == pytest.approx(alone[:-2], abs=ROUNDING, rel=0)
    # The last stage's step and validation are in bf16: ranks gather weights in it, where one process keeps norms in float32.
    assert ranks[-2:] == pytest.approx(alone[-2:], abs=0, rel=2**-8)
    assert ranks[-2:] != pytest.approx(alone[-2:], abs=ROUNDING, rel=0)


def test_ranks_that_are_killed_and_told_to_stop_end_in_the_same_bits(facts: dict[str, Any]) -> None:
    assert facts["digest killed"] == facts["digest two"]


def test_ranks_that_are_told_to_stop_save_and_say_so(facts: dict[str, Any]) -> None:
    assert facts["stopped"] == [143, 143]
    assert 3 <= len(facts["logged when stopped"]) < 2 * STEPS
    assert facts["saved when stopped"].endswith(f"/step-{facts['logged when stopped'][-1]:08d}")


def test_only_the_newest_checkpoints_stay(facts: dict[str, Any]) -> None:
    assert facts["folders"] == [f"1-small/step-{STEPS:08d}", f"2-large/step-{2 * STEPS:08d}"]


def test_every_placement_is_filled_as_dtensor_cuts_it(facts: dict[str, Any]) -> None:
    assert facts["filled"] == []


@pytest.mark.parametrize("world", [3, 4])
def test_growth_into_shards_has_the_bits_of_one_process(facts: dict[str, Any], world: int) -> None:
    assert facts[f"grown {world}"] == []


@pytest.mark.parametrize("world", [2, 3, 4])
def test_muon_on_cut_matrices_has_the_bits_of_whole_ones(facts: dict[str, Any], world: int) -> None:
    assert facts[f"muon {world}"] == []


def test_a_rank_that_hangs_is_named(facts: dict[str, Any]) -> None:
    assert facts["lost"] == "rank 1 does not answer"


def test_every_rank_hears_of_a_mistake(facts: dict[str, Any]) -> None:
    zero, one, two = facts["mistakes"]
    for heard in (zero, one, two):
        assert "the run's configuration differs between the processes" in heard["another file"]
        assert "rank 0: seed 0; rank 2: seed 1" in heard["another file"]
        assert heard["full"].startswith("rank 1 cannot write")
        assert "No space left on device" in heard["full"]
        assert heard["pointed to"] == "False"
    assert zero["held"].startswith("RunBusyError: another run is working in")
    assert "choose another output" in zero["held"]
    assert one["held"] == two["held"] == zero["held"].replace("RunBusyError", "ElsewhereError: rank 0")
    before, after = facts["a folder in use"]
    assert after == before != {}
    assert "rank 0: torch 1.0; rank 1: torch 2.0" in facts["other versions"]
    assert two["elsewhere"] == "ConfigError: the corpus is not on this host"
    assert zero["elsewhere"] == one["elsewhere"] == "ElsewhereError: rank 2: the corpus is not on this host"


@pytest.mark.parametrize(
    ("change", "world", "message"),
    [
        ({"batch": {"sequences": 8, "micro_batch": 4}}, 4, "micro_batch one of 1, 2"),
        ({"batch": {"sequences": 8}}, 2, "micro_batch one of 1, 2, 4"),
        ({"batch": {"sequences": 8, "micro_batch": 1}}, 3, "sequences a multiple of 3"),
        ({"optimizer": {"name": "adafactor"}}, 2, "adafactor trains on one rank alone"),
    ],
)
def test_what_ranks_cannot_share(change: dict[str, Any], world: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        preflight(parse_run(tiny(tmp_path, "run", **change)), Ranks(0, world))


def test_a_mesh_of_other_ranks() -> None:
    with pytest.raises(ConfigError, match="replicate 2 x shard 3 for 4 ranks"):
        MeshSizes.of(4, shard=3, replicate=2, tensor=1)


def test_a_dry_run_knows_what_a_rank_needs(tmp_path: Path) -> None:
    write_corpus(tmp_path / "text.txt")
    run = parse_run(tiny(tmp_path, "run"))
    whole, cut = (dry_run(run, world).stages[1] for world in (1, 4))
    assert cut.rank_bytes == -(-whole.checkpoint_bytes // 4) == -(-whole.rank_bytes // 4)
    assert whole.checkpoint_bytes == cut.checkpoint_bytes
    activations = whole.memory_bytes - 16 * whole.parameters
    assert activations + 4 * whole.parameters < cut.memory_bytes < whole.memory_bytes
    large = {**tiny(tmp_path, "run")["model"], "hidden_size": 2**15, "num_hidden_layers": 8}
    stages = [{"name": "only", "tokens": 128}]
    with pytest.raises(ConfigError, match="a rank of 4 needs more memory than it has"):
        dry_run(parse_run(tiny(tmp_path, "run", model=large, stages=stages)), 4)


def test_the_command_tells_a_mistake_once(tmp_path: Path) -> None:
    """Two processes of the command line: one message, the code of a mistake, nothing written."""
    write_corpus(tmp_path / "text.txt")
    run = tmp_path / "run.yaml"
    run.write_text(yaml.safe_dump(tiny(tmp_path, "out", batch={"sequences": 9, "micro_batch": 3})))
    command = [sys.executable, "-m", "outgrow", "train", str(run), "--nproc", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("outgrow: ") == 1
    assert "2 ranks cannot share the micro-batches of a step evenly" in done.stderr
    assert not (tmp_path / "out").exists()
