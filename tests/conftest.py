"""Settings shared by all tests: reproducible hypothesis, one thread, no global state left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

try:
    import torchvision  # noqa: F401
except ImportError:
    pass
except RuntimeError:  # built for another torch: diffusers' networks load without it, but not beside it
    sys.modules["torchvision"] = None  # type: ignore[assignment]

torch.set_num_threads(1)  # the states are small, and the tests run side by side
sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, print_blob=True)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _global_state_is_left_alone() -> Iterator[None]:
    """Sampling neither moves torch's global generator nor changes its modes; tests use generators of their own."""
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global generator was moved"
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == dtype
