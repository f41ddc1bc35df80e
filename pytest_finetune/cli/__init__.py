"""The command line: questions about an experiment and its store that need no test run."""

from __future__ import annotations

from pytest_finetune.cli.entry import main

__all__ = ["main"]
