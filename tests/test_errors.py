"""Whatever goes wrong for a user has one base, so that no caller keeps a list of exceptions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pytest_finetune
from pytest_finetune.cli.entry import MISTAKE, main
from pytest_finetune.errors import FinetuneError
from pytest_finetune.suite.parts import Parts

ROOT = Path(pytest_finetune.__file__).parent
# Caught by the one caller that knows what they mean; none reaches a user.
SIGNALS = {
    "DefectError",
    "DoesNotFitError",
    "NotRepeatedError",
    "NotTestable",
    "Pruned",
    "RuleBroken",
    "TensorFileError",
    "Unwanted",
    "WireError",
}


def exceptions() -> dict[str, list[str]]:
    """Return the bases of every exception class of the package."""
    classes = {
        node.name: [ast.unparse(base) for base in node.bases]
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    found: dict[str, list[str]] = {}
    while more := {
        name: bases
        for name, bases in classes.items()
        if name not in found and any(base in found or base.endswith(("Error", "Exception")) for base in bases)
    }:
        found |= more
    return found


def test_every_exception_is_the_users_or_one_of_a_few_signals() -> None:
    found = exceptions()
    users = {"FinetuneError"}
    while more := {name for name, bases in found.items() if users & set(bases)} - users:
        users |= more
    assert len(users) > 25
    assert set(found) - users == SIGNALS


def test_a_command_shows_any_of_our_errors_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class BrandNew(FinetuneError):
        """An error of a room that no list knows."""

    def fail(_: object) -> None:
        raise BrandNew("the disk is made of cheese: buy another")

    monkeypatch.setattr("pytest_finetune.cli.history.run", fail)
    assert main(["history"]) == MISTAKE
    assert capsys.readouterr().err == "pytest-finetune history: the disk is made of cheese: buy another\n"


def test_a_step_fails_with_any_of_our_errors_without_a_traceback() -> None:
    class BrandNew(FinetuneError):
        """An error of a room that no list knows."""

    def fail() -> None:
        raise BrandNew("the disk is made of cheese: buy another")

    parts: Parts[str, None] = Parts(str)
    with pytest.raises(pytest.fail.Exception) as failed:
        parts.once("disk", fail)
    assert str(failed.value) == "the disk is made of cheese: buy another"
    assert not failed.value.pytrace
