"""What the tutorial shows of commands that need no model is what they print today; the rest is written by its script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.first_hour import PAGE, put_base, put_rows, run_page
from pytest_finetune.cli import main
from pytest_finetune.experiment import load_experiment

TEXT = PAGE.read_text(encoding="utf-8")
WITHOUT_MODEL = ("import", "init", "power")


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path], str | None]:
    def run(command: str, folder: Path) -> str | None:
        program, *words = shlex.split(command)
        if program != "pytest-finetune" or words[0] not in WITHOUT_MODEL:
            return None
        monkeypatch.chdir(folder)
        capsys.readouterr()
        main(words)
        said = capsys.readouterr()
        return said.out + said.err

    return run


def test_the_page_is_what_is_printed_and_its_experiment_can_be_read(
    run: Callable[[str, Path], str | None], tmp_path: Path
) -> None:
    folder = tmp_path / "tickets"
    put_base(folder / "models" / "ticket-lm")
    put_rows(folder / "tickets.csv")
    assert run_page(TEXT, folder, run) == TEXT, "run the page again: python -m docs.first_hour"
    assert load_experiment(folder, "finetune.yaml").task == "ticket_priority"


def test_every_command_of_the_page_has_its_answer() -> None:
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    commands = [part for block in blocks for part in re.split(r"^(?=\$ )", block, flags=re.MULTILINE) if part]
    assert len(commands) >= 8
    assert [part for part in commands if part.count("\n") < 2] == []
