"""Runtimes: what answers prompts. One Protocol, and one file for each engine."""

from __future__ import annotations

from pytest_finetune.evaluation.runtimes.protocol import AnsweringError, Runtime

__all__ = ["AnsweringError", "Runtime"]
