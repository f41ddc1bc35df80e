"""``pytest-finetune compare A B``: what differs between two finished runs, and which held-out rows changed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, columns
from pytest_finetune.cli.compared_lines import causes, effects, rows_changed
from pytest_finetune.cli.project import existing_store_of
from pytest_finetune.cli.which_run import find
from pytest_finetune.record.compare.runs import compared
from pytest_finetune.wording import one_line
from pytest_finetune.yamlfile import JsonTree

HELP: Final = "two runs side by side: what differs, and which rows changed"
DESCRIPTION: Final = (
    "Compare two finished runs: key, configuration, data, environment, rates, verdicts, memory and time, and the "
    "held-out rows whose answers or outcomes changed. Nothing is run, nothing is decided, no look is counted."
)
_NAMES: Final = (
    "a run's id or its beginning, as `pytest-finetune history` shows it; the key of an adapter that was judged once; "
    "or the path of a record.json, a record's folder or a bundle (PATH::NAME where it holds several experiments)"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("a", metavar="A", help=_NAMES)
    command.add_argument("b", metavar="B", help="the other run, named in the same ways")
    arguments.add_store(command)
    arguments.add_json(command)


def run(args: argparse.Namespace) -> Answer:
    """Compare."""
    store = existing_store_of(args)
    found = compared(find(args.a, store), find(args.b, store))
    return Answer(list(_lines(found)), found, warnings=[] if store is None else list(store.warnings))


def _lines(found: JsonTree) -> Iterator[str]:
    yield from columns(
        ("", "run", "created", "experiment", "verdict", "adapter"),
        [(name.upper(), *_heading(found[name])) for name in ("a", "b")],
        indent=0,
    )
    for name in ("a", "b"):
        for reason in found[name]["reasons"][:1]:
            yield f"{name.upper()}: {one_line(reason, 300)}"
    for part in (causes, effects, rows_changed):
        yield from part(found)
    yield ""
    yield "nothing here was decided, and no look was counted"


def _heading(run: JsonTree) -> tuple[str, ...]:
    verdict = run["verdict"] or "no decision"
    return (
        run["named"],
        run["created"] or "-",
        run["experiment"] or "-",
        f"{verdict} (undecided)" if run["undecided"] else verdict,
        (run["adapter_sha256"] or "-")[:12],
    )
