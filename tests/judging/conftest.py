"""The simulations behind the levels that are stated."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture
def simulation(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The benchmark that the test's module names, loaded anew each time: it notes which levels were exceeded."""
    before = set(sys.modules)
    yield importlib.import_module(f"benchmarks.{request.module.BENCHMARK}")
    for name in [name for name in sys.modules if name.startswith("benchmarks.") and name not in before]:
        del sys.modules[name]
