"""Runtimes: what answers prompts. One Protocol, and one file for each engine."""

from __future__ import annotations

from pytest_finetune.answering.runtimes.protocol import AnsweringError, ComparingRuntime, Runtime

__all__ = ["AnsweringError", "ComparingRuntime", "Runtime"]
