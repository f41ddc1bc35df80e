"""Treat LLM fine-tunes as tests: data contracts, memory fit and keep-or-discard rules as pytest assertions."""

from __future__ import annotations

from typing import Final

__version__ = "0.1.0"

KiB: Final = 1024
MiB: Final = 1024**2
GiB: Final = 1024**3

__all__ = ["GiB", "KiB", "MiB", "__version__"]
