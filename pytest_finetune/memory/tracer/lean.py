"""Leave out of the tracing process what its libraries would import and no trace runs.

torch's compiler, tables and numerical packages take longer to import than a step takes to trace. Whatever is asked of
them all the same is imported then, so that a release which needs more of one is slower and not wrong.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, Final

import torch

# Looked for by losses of other tasks, by metrics and by a client of a cloud, which do without.
_UNUSED: Final = ("boto3", "scipy", "sklearn", "torchaudio", "torchvision")
# What torch's compiler is told of a function.
_MARKS: Final = ("allow_in_graph", "assume_constant_result", "disable")


def leave_out(*, bitsandbytes: bool) -> None:
    """Change this process for good, before anything but torch itself is imported."""
    for name in (*_UNUSED, *(() if bitsandbytes else ("bitsandbytes",))):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    torch.compile = (
        _uncompiled  # bitsandbytes asks for it at its import, and imports torch's code generator by it
    )
    defer("torch._dynamo", torch.__path__, **dict.fromkeys(_MARKS, _unmarked))
    defer("trl.trainer.utils", maybe_gather_lm_head_ctx=_gathered)
    importlib.metadata.packages_distributions = _Distributions
    with unbounded_caches(), contextlib.suppress(ImportError):  # what is missing, the premises tell of
        importlib.import_module("transformers.models")


@contextlib.contextmanager
def unbounded_caches() -> Iterator[None]:
    """Let caches of no stated size keep everything, for the modules that are imported meanwhile.

    transformers reads the files of all its models for their names, twice: its cache holds fewer folders than there are.
    """
    bounded = functools.lru_cache

    def cache(maxsize: Any = 128, typed: bool = False) -> Any:
        return functools.cache(maxsize) if callable(maxsize) else bounded(maxsize, typed)

    setattr(functools, "lru_cache", cache)  # noqa: B010 (a function to a type checker, and no variable)
    try:
        yield
    finally:
        setattr(functools, "lru_cache", bounded)  # noqa: B010


def defer(name: str, within: list[str] | None = None, **known: object) -> None:
    """Import a module only when something of it is asked for that is not `known`.

    `within` are the places of the package that holds it, where it is a package itself: its own modules can then be
    imported without it.
    """
    if name in sys.modules:
        return
    module = _Deferred(name)
    vars(module).update(known)
    spec = PathFinder.find_spec(name, within) if within else None
    if spec is not None:
        module.__spec__ = spec
        module.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[name] = module


class _Deferred(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, asked: str) -> Any:
        if asked.startswith("__"):  # asked of every module, and never what is wanted of one
            raise AttributeError(asked)
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        return getattr(importlib.import_module(name), asked)


class _Distributions(Mapping[str, list[str]]):
    """Tells which distributions brought a package. TRL asks at its import, for versions that no trace wants to know."""

    _ask: Final[Callable[[], Mapping[str, list[str]]]] = staticmethod(
        importlib.metadata.packages_distributions
    )

    @functools.cached_property
    def _found(self) -> Mapping[str, list[str]]:
        """Look through the files of everything that is installed, once an answer is wanted."""
        return self._ask()

    def __getitem__(self, package: str) -> list[str]:
        return self._found[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _uncompiled(model: Any = None, **_: object) -> Any:
    """Take the place of `torch.compile`, as a function and as a decorator with arguments."""
    return model if model is not None else lambda function: function


def _unmarked(function: Any = None, *_: object, **__: object) -> Any:
    """Leave a function as it is: nothing is compiled here, so there is nobody to tell."""
    return function if function is not None else lambda one: one


def _gathered(*weights: object) -> contextlib.AbstractContextManager[None]:
    """Take the place of what gathers a head that DeepSpeed has shared out: it is whole."""
    return contextlib.nullcontext()
