"""From words to one command, and from its answer to output and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from pytest_finetune import __version__
from pytest_finetune.cli import (
    calibrate,
    compare,
    curve,
    doctor,
    fetch,
    gc,
    history,
    import_,
    init,
    plan,
    power,
    profile,
    push,
    search,
    shipped,
    show,
    step,
    verify,
)
from pytest_finetune.cli.answer import Answer
from pytest_finetune.errors import FinetuneError, for_user
from pytest_finetune.wording import visible

YES: Final = 0
NO: Final = 1
MISTAKE: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

_EPILOG: Final = (
    "exit codes: 0 done, or the answer is yes; 1 the answer is no (it does not fit, the gain cannot be shown); "
    "2 a mistake, explained on standard error"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a terminal that lacks a character shows its code instead
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    words = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(words)
    args = words.parse_args(argv)
    try:
        answer: Answer = args.run(args)
        _print(answer, args)
        sys.stdout.flush()
    except (FinetuneError, ModuleNotFoundError) as error:
        told = for_user(error)
        if told is None:
            raise
        _complain(f"pytest-finetune {args.command}: {_in_our_words(str(told))}")
        return MISTAKE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`); python would complain again while it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return answer.code if answer.code is not None else YES if answer.yes else NO


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `run`, a function of the arguments."""
    top = argparse.ArgumentParser(
        prog="pytest-finetune",
        description="Questions about a fine-tune that need no test run. "
        "Training and judging happen in `pytest --finetune`.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"pytest-finetune {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        init,
        import_,
        doctor,
        fetch,
        plan,
        calibrate,
        profile,
        power,
        curve,
        search,
        shipped,
        show,
        history,
        compare,
        verify,
        push,
        gc,
        step,
    ):
        command = commands.add_parser(
            module.__name__.rpartition(".")[2].rstrip("_"),
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=_EPILOG,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def _print(answer: Answer, args: argparse.Namespace) -> None:
    for warning in answer.warnings:
        _complain(warning)
    if getattr(args, "json", False):
        print(answer.as_json())
    elif getattr(args, "csv", False):
        print(visible(answer.as_csv(), keep="\n"))
    elif answer.page:
        print(answer.page)
    else:
        print("\n".join(visible(line) for line in answer.lines))


def _complain(text: str) -> None:
    print(visible(text, keep="\n"), file=sys.stderr)


def _in_our_words(text: str) -> str:
    """Name our flags where a room speaks of pytest's."""
    return text.replace("--finetune-", "--")
