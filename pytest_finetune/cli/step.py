"""``pytest-finetune step KEY --store URL``: run one step that a pytest elsewhere has asked for."""

from __future__ import annotations

import argparse
from typing import Final

from pytest_finetune.cli.answer import Answer
from pytest_finetune.cli.arguments import STORE, add_json, add_store
from pytest_finetune.cli.project import folder_of
from pytest_finetune.executors.outcomes import OUTCOMES, REFUSED
from pytest_finetune.store.jobs import is_key

HELP: Final = "run one step that a pytest has sent: a training, or an arm's answers"
DESCRIPTION: Final = (
    "Run one step that pytest --finetune has asked for with an executor: read its request from the store, check it, "
    "train or ask the model, and commit the result to the store. Exit codes: "
    + "; ".join(f"{outcome.code} {outcome.word} ({outcome.means})" for outcome in OUTCOMES.values())
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the key and the store."""
    command.add_argument("key", metavar="KEY", help="what the step makes: 64 hexadecimal digits")
    add_store(command)
    add_json(command)


def run(args: argparse.Namespace) -> Answer:
    """Run the step inside a pytest, for the trainers and runtimes that the project's conftest.py brings."""
    import pytest

    root = folder_of(args)
    if not is_key(args.key):
        text = f"{args.key!r} is no key of a step: it has 64 hexadecimal digits"
        return Answer([f"{REFUSED.word}: {text}"], {"outcome": REFUSED.word}, code=REFUSED.code)
    # Neither the project's own flags nor its tests have a part in this: its conftest.py has.
    plain = ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "finetune"]
    step = [
        "-p",
        "pytest_finetune.suite.jobs.in_pytest",
        f"--step={args.key}",
        f"--step-store={args.store or STORE}",
    ]
    code = int(pytest.main([f"--rootdir={root}", *plain, *step, str(root)]))
    ended = next((outcome for outcome in OUTCOMES.values() if outcome.code == code), REFUSED)
    return Answer([ended.word], {"outcome": ended.word}, code=ended.code)
