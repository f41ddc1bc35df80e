"""A plugin that runs one step in place of a test session; `pytest-finetune step` loads it."""

from __future__ import annotations

import sys

import pytest

from pytest_finetune import huggingface
from pytest_finetune.errors import FinetuneError
from pytest_finetune.executors.outcomes import FAILED
from pytest_finetune.store import open_store
from pytest_finetune.suite.jobs.running import run_step


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what the command hands over."""
    parser.addoption("--step")
    parser.addoption("--step-store")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int:
    """Run the step, and return its exit code; no test is collected."""
    config.pluginmanager.register(huggingface, "finetune-huggingface")
    root = config.rootpath
    try:
        return run_step(config, open_store(config.option.step_store, root), root, config.option.step).code
    except FinetuneError as error:  # the store itself: there is no other place to tell it
        print(error, file=sys.stderr)
        return FAILED.code
