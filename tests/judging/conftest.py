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
    name = f"benchmarks.{request.module.BENCHMARK}"
    sys.modules.pop(name, None)
    yield importlib.import_module(name)
    del sys.modules[name]
