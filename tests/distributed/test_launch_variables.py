"""What a launcher says of a process, wrong: told before any rank is waited for."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch.distributed.launcher.api as launcher
from typer.testing import CliRunner

from outgrow.cli import app
from outgrow.errors import ConfigError
from outgrow.parallel.launch import launch
from outgrow.parallel.ranks import ALONE, LostRankError, start_ranks

WHOLE = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE and RANK of"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE and RANK of"),
        ({"RANK": ""}, "RANK of"),
        ({"RANK": "2"}, "RANK of"),
        ({"RANK": "\u0661"}, "RANK of"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR of"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT of"),
        ({"OUTGROW_TIMEOUT": "soon"}, "OUTGROW_TIMEOUT of"),
        ({"RANK": "", "MASTER_ADDR": "", "MASTER_PORT": ""}, "RANK and MASTER_ADDR and MASTER_PORT of"),
    ],
)
def test_variables_that_do_not_fit(
    change: dict[str, str], names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (WHOLE | change).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=names):
        start_ranks()


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name, value in (WHOLE | {"MASTER_PORT": port, "OUTGROW_TIMEOUT": "5"}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(LostRankError, match=f"another program listens on 127.0.0.1:{port}"):
            start_ranks()


@pytest.mark.parametrize("world", ["", "0", "1"])
def test_one_process_is_no_launch(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    assert start_ranks() is ALONE


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_processes_do_not_share_is_done_by_the_first(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (WHOLE | {"RANK": rank}).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["operators"])
    assert done.exit_code == 0
    assert ("isometric" in done.stdout) == (rank == "0")


@pytest.mark.parametrize(("own", "seconds"), [(None, 120), ("7", 7)])
def test_ranks_have_time_to_save_before_they_are_killed(
    own: str | None, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own 30 seconds are too few for a large checkpoint."""
    seen = list[Any]()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if own is not None:
        monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", own)
    monkeypatch.setattr(
        launcher, "elastic_launch", lambda config, *_: seen.append(config) or (lambda *_: None)
    )
    assert launch(2, ["train", "run.yaml"]) == 0
    assert [(one.shutdown_timeout, one.nproc_per_node) for one in seen] == [(seconds, 2)]
