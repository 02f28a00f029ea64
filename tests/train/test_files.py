"""Folders of the cache: whole or absent, written once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from outgrow.errors import OutgrowError
from outgrow.files.locks import write_folder


def test_of_two_that_want_a_folder_one_writes_it(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    written: list[str] = []

    def write(folder: Path, who: str) -> None:
        written.append(who)
        begun.set()
        assert go_on.wait(20)
        (folder / "who").write_text(who)

    def asked(who: str) -> Path:
        return write_folder(tmp_path / "a", lambda folder: write(folder, who))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(asked, "first")
        assert begun.wait(20)
        second = pool.submit(asked, "second")
        assert not wait([second], timeout=0.3).done  # it waits: neither an error nor a second copy
        go_on.set()
        assert first.result(20) == second.result(20) == tmp_path / "a"
    assert written == ["first"]
    assert (tmp_path / "a" / "who").read_text() == "first"


def test_what_fails_or_is_killed_leaves_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "a"

    def full(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutgrowError, match="full"):
        write_folder(target, full)
    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]
    script = (
        "import os, sys; from pathlib import Path; from outgrow.files.locks import write_folder\n"
        "def die(folder):\n    (folder / 'half').write_text('half'); os._exit(9)\n"
        "write_folder(Path(sys.argv[1]), die)"
    )
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run(
        [sys.executable, "-c", script, str(target)], env={**os.environ, **paths}, check=False
    )
    assert killed.returncode == 9
    assert not target.exists()
    assert len(list(tmp_path.glob("a.tmp-*"))) == 1
    write_folder(target, lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.lock", "a"]
    assert [path.name for path in target.iterdir()] == ["whole"]
