"""The short form of `benchmarks/campaign.py`: some of every kind of check, in one process that forks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "campaign.py"


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="calls are counted on Linux, by a C library"
)
def test_nothing_is_lost_half_visible_or_obeyed(tmp_path: Path) -> None:
    """Kills, failing calls, random growths and hostile inputs; the counts are those of the words. What was done before is not done again."""
    before = {
        "part": "growths",
        "name": "seed 1",
        "wrong": [],
        "facts": {"type": "done before"},
        "seconds": 0,
    }
    log = tmp_path / "results.jsonl"
    log.write_text(json.dumps(before) + "\n")
    words = ("--results", tmp_path, "--kills", "5", "--growths", "4", "--every", "90")
    done = subprocess.run([sys.executable, CAMPAIGN, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "growths: 4 checks, 0 wrong" in done.stdout
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    found = Counter(row["part"] for row in rows)
    assert sorted(row["name"] for row in rows if row["part"] == "growths") == [f"seed {n}" for n in range(4)]
    assert rows[0] == before
    assert found["kills"] >= 4
    assert found["failures"] >= 2
    assert found["hostile"] >= 15
