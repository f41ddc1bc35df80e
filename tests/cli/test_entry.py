from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, columns
from pytest_finetune.cli.entry import parser
from pytest_finetune.suite import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ran, World

EXPERIMENT_COMMANDS = ("plan", "profile", "power")


@pytest.mark.parametrize("command", EXPERIMENT_COMMANDS)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope.yaml"], "nope.yaml: no such experiment file"),
        (["--rootdir", "nowhere"], "--rootdir 'nowhere': there is no such folder"),
        (["--set", "training"], "--set 'training': write KEY=VALUE"),
        (["--set", "training.max_seq_length=long"], "--set training.max_seq_length=long"),
        (["--store", "train.jsonl"], "--store 'train.jsonl': that is a file"),
        (["--store", "s3://me:secret@bucket/store"], "a user name or password in the address would stand"),
        (["../outside.yaml"], "leads outside the project"),
    ],
)
def test_a_mistake_is_one_paragraph_on_standard_error(
    world: World, command: str, words: list[str], said: str
) -> None:
    ran = world.run(command, *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert "\n\n" not in ran.err
    assert "--finetune-" not in ran.err


@pytest.mark.parametrize("command", EXPERIMENT_COMMANDS)
def test_a_mistake_in_the_contract_names_its_file(world: World, command: str) -> None:
    world.write("contract.yaml", "labels: {feild: label}\n")
    ran = world.run(command)
    assert ran.code == 2
    assert "contract.yaml:1" in ran.err
    assert "feild" in ran.err


@pytest.mark.parametrize("words", [[], ["train"], ["plan", "--bud", "8GiB"], ["history", "--json", "--csv"]])
def test_words_that_are_no_command_are_a_usage_error(world: World, words: list[str]) -> None:
    ran = world.run(*words)
    assert ran.code == 2
    assert ran.err.startswith("usage: pytest-finetune")


def test_every_command_has_a_help_that_names_the_exit_codes(run: Callable[..., Ran]) -> None:
    for command in ("init", "plan", "profile", "power", "history", "verify", "push", "gc"):
        ran = run(command, "--help")
        assert ran.code == 0
        assert "exit codes:" in ran.out


def test_the_defaults_are_those_of_the_plugin() -> None:
    assert (arguments.EXPERIMENT, arguments.STORE) == (options.DEFAULT_EXPERIMENT, options.DEFAULT_STORE)


def test_python_m_runs_the_same_commands(world: World) -> None:
    done = python("-m", "pytest_finetune", "history", cwd=world.root)
    assert done.returncode == 0
    assert done.stdout.startswith("no adapter in ")


@pytest.mark.parametrize("command", ["profile", "power", "history", "gc"])
def test_no_command_imports_torch_or_pytest(world: World, command: str) -> None:
    script = (
        "import sys; from pytest_finetune.cli import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'pytest'} & set(sys.modules)), file=sys.stderr)"
    )
    assert python("-c", script, command, cwd=world.root).stderr.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_traceback(world: World) -> None:
    script = "import sys; from pytest_finetune.cli import main; sys.exit(main(['profile']))"
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            cwd=world.root,
            env=env(),
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("1.5m", 90), ("2w", 1_209_600)]
)
def test_ages_have_a_unit(text: str, seconds: float) -> None:
    assert arguments.age_s(text) == seconds


@pytest.mark.parametrize("text", ["30", "d", "-1d", "0d", "1y", "1e3d", "nan", "", "9" * 400 + "d", "٣d"])
def test_what_is_no_age_is_refused_with_an_example(world: World, text: str) -> None:
    ran = world.run("gc", f"--max-age={text}")
    assert ran.code == 2
    assert "as in 30d or 12h" in ran.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8", "8 has no unit"),
        ("rtx-4091", "did you mean 'rtx-4090'"),
        ("9" * 400 + "GiB", "nothing is that large"),
    ],
)
def test_what_is_no_card_is_refused_with_what_is_known(world: World, text: str, said: str) -> None:
    ran = world.run("plan", f"--budget={text}")
    assert ran.code == 2
    assert said in ran.err.replace("'8'", "8")


def test_a_table_keeps_each_cell_on_its_line() -> None:
    assert columns(["a", "b"], [["x\n\x1b[31my", 1]], right=[1], indent=0) == [
        "a" + " " * 12 + "b",
        r"x \x1b[31my  1",
    ]


def test_json_is_ascii_and_csv_has_one_row_a_line() -> None:
    row = {"task": "a\nb\x1b[2J", "steps": 3}
    answer = Answer([], {"rows": [row], "hidden": "\u202e"}, rows=[row])
    assert answer.as_json().isascii()
    assert "\x1b" not in answer.as_json()
    assert answer.as_csv() == "task,steps\na b\\x1b[2J,3"


def test_the_parser_knows_what_was_promised_and_nothing_that_is_not_there() -> None:
    (commands,) = [action for action in parser()._actions if action.dest == "command"]
    assert list(commands.choices or ()) == [
        "init",
        "import",
        "doctor",
        "fetch",
        "plan",
        "calibrate",
        "profile",
        "power",
        "curve",
        "search",
        "shipped",
        "show",
        "history",
        "compare",
        "verify",
        "push",
        "gc",
        "step",
    ]


def env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(options.__file__).parents[1])}


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=env(), timeout=240
    )
