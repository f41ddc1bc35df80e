"""Arguments that several commands share, and the words that become sizes, ages and cards."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.memory.hardware.cards import UnknownCardError
from pytest_finetune.memory.hardware.detect import parse_budget
from pytest_finetune.memory.hardware.sizes import SizeError, parse_share, parse_size

if TYPE_CHECKING:
    from pytest_finetune.memory.hardware.detect import Budget

# The same as in `pytest_finetune.suite.options`, which imports pytest.
EXPERIMENT: Final = "finetune.yaml"
STORE: Final = ".finetune"

_AGE: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_root(command: argparse.ArgumentParser) -> None:
    """Add ``--rootdir``."""
    command.add_argument(
        "--rootdir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the project: what the paths of the experiment are relative to (default: the current folder)",
    )


def add_store(command: argparse.ArgumentParser) -> None:
    """Add ``--rootdir`` and ``--store``."""
    add_root(command)
    command.add_argument(
        "--store", metavar="DIR", help=f"the store, or its URL (default: {STORE} in the project)"
    )


def add_experiment(command: argparse.ArgumentParser) -> None:
    """Add the experiment file, its overrides, ``--rootdir``, ``--store`` and ``--json``."""
    command.add_argument(
        "experiment",
        nargs="?",
        default=EXPERIMENT,
        metavar="EXPERIMENT",
        help=f"the experiment file, relative to the project (default: {EXPERIMENT})",
    )
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the experiment (repeatable): training.max_seq_length=1024",
    )
    add_store(command)
    add_json(command)


def add_json(command: argparse._ActionsContainer) -> None:
    """Add ``--json``."""
    command.add_argument("--json", action="store_true", help="print the answer as JSON")


def budget(text: str) -> Budget:
    """Read ``8GiB`` or ``rtx-4090``."""
    try:
        return parse_budget(text)
    except (SizeError, UnknownCardError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except OverflowError:
        raise argparse.ArgumentTypeError("no card is that large") from None


def share(text: str) -> float:
    """Read ``8%`` or ``0.08``."""
    try:
        return parse_share(text)
    except SizeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size_bytes(text: str) -> int:
    """Read a size with its unit."""
    try:
        return parse_size(text)
    except SizeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except OverflowError:
        raise argparse.ArgumentTypeError("no disk is that large") from None


def age_s(text: str) -> float:
    """Read a time span in seconds.

    >>> age_s("30d"), age_s("1.5h")
    (2592000.0, 5400.0)
    """
    found = _AGE.fullmatch(text.strip())
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an age: write a number above zero and one of s, m, h, d, w, as in 30d or 12h"
        )
    return float(found[1]) * _SECONDS[found[2]]
