"""The executor that a setting names: ours by their words, another one from a plugin."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.executors.command import CommandExecutor
from pytest_finetune.executors.protocol import Executor, ExecutorError
from pytest_finetune.executors.submitit_jobs import SubmititExecutor
from pytest_finetune.suite.jobs.sending import SentAway

if TYPE_CHECKING:
    from pluggy import HookRelay

    from pytest_finetune.suite.context import Context


def refuse_missing(named: str) -> None:
    """Refuse a sound command whose program is not here; one with a path is meant from the project's folder."""
    word, _, template = named.partition(":")
    if word.strip() != "command":
        return
    program = shlex.split(template)[0]
    if not {"/", "{"} & set(program) and shutil.which(program) is None:
        raise pytest.UsageError(
            f"--finetune-executor: {program!r} is not on PATH: install it, or name another command"
        )


def away(named: str, hooks: HookRelay) -> Callable[[Callable[[], Context]], SentAway]:
    """Return what sends an experiment's steps away; pytest.UsageError for a setting that means no executor."""
    try:
        return partial(SentAway, executor_named(named, hooks))
    except ExecutorError as error:
        raise pytest.UsageError(f"--finetune-executor: {error}") from None


def executor_named(named: str, hooks: HookRelay) -> Executor:
    """Return the executor of a setting; ExecutorError for a template, kind or name that is none."""
    word, _, rest = named.partition(":")
    if word.strip() == "command":
        return CommandExecutor(rest.strip())
    if word.strip() == "submitit":
        return SubmititExecutor(rest.strip() or "slurm")
    found: Executor | None = hooks.pytest_finetune_executor(name=named)
    if found is None:
        raise ExecutorError(
            f"{named!r} is no executor: write local, 'command: TEMPLATE', submitit:slurm, or the name of one that a "
            "plugin brings (pytest_finetune_executor)"
        )
    return found
