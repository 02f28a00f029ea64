"""Shared by all tests: one thread per worker, quiet transformers, a cache of its own, and hypothesis that draws the same examples every time.

Workers take whole files (`--dist loadfile` in the Makefile), so that what a file's tests share is made once; the longest come first.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

gc.disable()  # what is imported is no garbage: to look for it takes a fifth of an import
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# of processes that tests start: two threads that spin on a busy core wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # `from battery import zoo`

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()

SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW_IS_FINE
)
settings.register_profile("search", max_examples=500, deadline=None, suppress_health_check=SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

LONGEST = (
    "battery/test_exactness.py",
    "distributed/test_ranks.py",
    "test_types.py",
    "distributed/test_tensor.py",
    "battery/test_memory.py",
    "test_tutorials.py",
    "train/test_compiled.py",
    "faults/test_campaign.py",
    "distributed/test_shards.py",
    "train/test_loop.py",
)
"""Files of many seconds: begun last, one of them would keep one core busy and leave the other idle."""


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of a test reaches the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTGROW_CACHE", str(folder))
        yield folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """From here on, what tests leave is collected again."""
    gc.freeze()
    gc.enable()
