"""The template of the command executor: split without a shell, each placeholder quoted for who reads it next."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from pytest_finetune.executors.command import CommandExecutor, checked, filled
from pytest_finetune.executors.protocol import ExecutorError, Resources, Seen, Submission
from pytest_finetune.store.disk import host_name

KEY = "ab" * 32
STORE = "/srv/my store; rm -rf $HOME"


def submission(tmp_path: Path, store: str = STORE) -> Submission:
    need = Resources(card="l4", gpus=2, memory=24, minutes=90)
    return Submission(KEY, store, "the training of one", need, tmp_path, tmp_path / "job.log")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("sky launch -- {step}", ["sky", "launch", "--", "pytest-finetune", "step", KEY, "--store", STORE]),
        ("run {key} {store}", ["run", KEY, STORE]),
        ("go --gpus {card}:{gpus} --time={minutes} --mem {memory} {step}", ["go", "--gpus", "l4:2", "--time=90", "--mem", "24", "pytest-finetune", "step", KEY, "--store", STORE]),
        ("sh -c 'cd /x && {step}'", ["sh", "-c", f"cd /x && pytest-finetune step {KEY} --store '{STORE}'"]),
        ("sh -c 'run {key} {store}'", ["sh", "-c", f"run {KEY} '{STORE}'"]),
        ("ssh host '{step}'", ["ssh", "host", f"pytest-finetune step {KEY} --store '{STORE}'"]),
    ],
)  # fmt: skip
def test_a_step_alone_is_words_and_inside_a_word_is_quoted_once_more(
    tmp_path: Path, template: str, words: list[str]
) -> None:
    assert filled(template, submission(tmp_path)) == words


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("sky launch", "runs no step: write {step}"),
        ("run {stop}", "{stop} is no placeholder; there are {step}, {key}"),
        ("run '{step}", "cannot be split into words: No closing quotation: close the quote"),
        ("run {key}", "runs no step"),
    ],
)
def test_a_template_that_cannot_run_a_step_is_refused_before_anything_is_sent(
    template: str, said: str
) -> None:
    with pytest.raises(ExecutorError, match=re.escape(said)):
        checked(template)


def test_a_value_is_never_a_template(tmp_path: Path) -> None:
    """What a placeholder brings is not looked through for placeholders again."""
    step = submission(tmp_path, "s3://b/{key}")
    assert filled("run {store} {key}", step) == ["run", "s3://b/{key}", KEY]


def test_the_command_runs_without_a_shell_and_what_it_prints_is_read(tmp_path: Path) -> None:
    executor = CommandExecutor(f"{sys.executable} -c 'import sys; print(sys.argv[1:]); sys.exit(7)' {{step}}")
    step = submission(tmp_path)
    ticket = executor.submit(step)
    while executor.look(step, ticket) == Seen("running"):
        time.sleep(0.01)
    assert executor.look(step, ticket) == Seen("ended", 7)
    assert executor.output(step, ticket).strip() == str(["pytest-finetune", "step", KEY, "--store", STORE])


def test_a_command_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match="'no-such-engine' cannot be started: No such file"):
        CommandExecutor("no-such-engine {step}").submit(submission(tmp_path))


def test_another_pytest_knows_the_job_by_its_command_line_and_can_cancel_it(tmp_path: Path) -> None:
    sleeping = f"{sys.executable} -c 'import time; time.sleep(60)' {{step}}"
    step, first, other = submission(tmp_path), CommandExecutor(sleeping), CommandExecutor(sleeping)
    ticket = first.submit(step)
    while other.look(step, ticket).state != "running":  # for an instant a new process has no command line
        assert first.look(step, ticket).state == "running"
        time.sleep(0.01)
    other.cancel(step, ticket)
    while first.look(step, ticket).state == "running":
        time.sleep(0.01)
    assert first.look(step, ticket) == Seen("ended", -15)


def test_a_number_in_a_store_is_no_process_of_ours(tmp_path: Path) -> None:
    """Neither looked at as the job, nor ended: this process, whose number stands in the ticket, goes on."""
    import os

    executor = CommandExecutor("run {step}")
    ticket = {"pid": os.getpid(), "host": host_name()}
    assert executor.look(submission(tmp_path), ticket) == Seen("ended")
    executor.cancel(submission(tmp_path), ticket)
    assert executor.look(submission(tmp_path), {"pid": 1, "host": "elsewhere"}) == Seen("unknown")
