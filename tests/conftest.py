"""Shared by all tests: one thread per worker, quiet transformers, and hypothesis that draws the same examples every time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))  # `from battery import zoo`

import torch
import transformers
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()

SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW_IS_FINE
)
settings.register_profile("search", max_examples=500, deadline=None, suppress_health_check=SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
