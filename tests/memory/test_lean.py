"""The tracing process leaves out what no trace runs, and imports it all the same where something of it is asked for."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_finetune.memory.tracer.lean import defer, unbounded_caches

HEAVY = ("torch._dynamo.eval_frame", "torch._inductor", "scipy", "pandas", "datasets")
LOADED = f"""
import importlib.metadata, os, sys
looked, opened = [], []
whole = importlib.metadata.packages_distributions
importlib.metadata.packages_distributions = lambda: looked.append(1) or whole()
models = os.sep + os.path.join("transformers", "models") + os.sep
sys.addaudithook(
    lambda name, given: name == "open" and models in str(given[0]) and opened.append(str(given[0]))
)
from pytest_finetune.memory.tracer.lean import leave_out
leave_out(bitsandbytes=True)
import bitsandbytes, transformers.modeling_utils
from trl.trainer.utils import maybe_gather_lm_head_ctx
print([name for name in {HEAVY} if sys.modules.get(name)], maybe_gather_lm_head_ctx().__enter__())
read = [name for name in opened if name.endswith("modeling_llama.py")]
distributions = importlib.metadata.packages_distributions()
print(len(read), len(looked), distributions["torch"], list(distributions) == list(whole()), len(looked))
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package `lent_shelf` with a module inside; both are forgotten afterwards."""
    package = tmp_path / "lent_shelf"
    package.mkdir()
    (package / "__init__.py").write_text("whole = True\nmark = None\n", encoding="utf-8")
    (package / "inner.py").write_text("depth = 3\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lent_shelf", "lent_shelf.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return [str(tmp_path)]


def test_a_deferred_package_is_not_imported_for_what_is_known_of_it_or_lies_inside(shelf: list[str]) -> None:
    defer("lent_shelf", shelf, mark=len)
    module = importlib.import_module("lent_shelf")
    assert module.mark("four") == 4
    assert importlib.import_module("lent_shelf.inner").depth == 3
    assert "whole" not in vars(module)


def test_it_is_imported_once_something_else_is_asked_of_it(shelf: list[str]) -> None:
    defer("lent_shelf", shelf, mark=len)
    assert importlib.import_module("lent_shelf").whole
    real = sys.modules["lent_shelf"]
    assert vars(real)["mark"] is None
    defer("lent_shelf", shelf, mark=len)
    assert sys.modules["lent_shelf"] is real


def test_what_it_does_not_have_is_missing_as_ever(shelf: list[str]) -> None:
    defer("lent_shelf", shelf)
    with pytest.raises(AttributeError, match="nothing"):
        _ = importlib.import_module("lent_shelf").nothing


def test_the_compiler_and_the_tables_stay_out_of_a_tracing_process_and_each_model_file_is_read_once() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-2:] == ["[] None", "1 0 ['torch'] True 1"], done.stderr


def test_caches_of_a_stated_size_keep_it() -> None:
    with unbounded_caches():
        bare = functools.lru_cache(len)
        called = functools.lru_cache()(len)
        small = functools.lru_cache(maxsize=2)(len)
    sizes = [one.cache_parameters()["maxsize"] for one in (bare, called, small, functools.lru_cache(len))]
    assert sizes == [None, 128, 2, 128]
