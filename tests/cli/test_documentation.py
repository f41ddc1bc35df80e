from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.cli.entry import parser

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ran

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"```\n\$ pytest-finetune ([^\n]*)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("words", "printed"), SESSIONS)
def test_what_the_page_shows_is_what_a_new_project_prints(
    run: Callable[..., Ran], tmp_path: Path, words: str, printed: str
) -> None:
    run("init", tmp_path)
    assert run(*words.split(), "--rootdir", tmp_path).out.startswith(printed)


def test_the_page_shows_power_and_profile() -> None:
    assert [words for words, _ in SESSIONS] == ["power", "profile"]


def test_every_command_and_flag_is_on_the_page_and_no_other() -> None:
    (commands,) = [action for action in parser()._actions if action.dest == "command"]
    choices = dict(commands.choices or {})
    flags = {
        flag
        for command in choices.values()
        for flag in command._option_string_actions
        if flag not in ("-h", "--help")
    }
    named = {
        flag for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE) if not flag.startswith("--finetune")
    }
    assert named == flags
    assert all(f"\n## {name}\n" in PAGE for name in choices)
