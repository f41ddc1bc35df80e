"""``pytest-finetune history``: every run in the store, the discarded ones too, and every adapter."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_finetune.cli import arguments, runs
from pytest_finetune.cli.answer import Answer, columns
from pytest_finetune.cli.project import existing_store_of, place_of, store_of
from pytest_finetune.record.views.page.history import history_page
from pytest_finetune.wording import counted, duration, figure, size
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.store import Entry, Store

HELP: Final = "all runs in the store, one table"
DESCRIPTION: Final = (
    "List the finished runs that the store remembers, the newest first: verdict, rates, gains, time and memory. "
    "Discarded runs stay. Where no run was remembered, the adapters of the store are listed."
)
_TOLD: Final = ("task", "experiment", "steps", "final_loss", "seconds")
_KEY_SHOWN: Final = 12


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    arguments.add_store(command)
    forms = command.add_mutually_exclusive_group()
    arguments.add_json(forms)
    forms.add_argument("--csv", action="store_true", help="print the table as CSV")
    forms.add_argument("--html", action="store_true", help="print the table as one HTML page")


def run(args: argparse.Namespace) -> Answer:
    """List what is there."""
    store = existing_store_of(args)
    adapters = [] if store is None else [_adapter(store, entry) for entry in store.entries("adapters")]
    known = [] if store is None else [runs.run_of(entry) for entry in store.entries("records")]
    place = place_of(store or store_of(args))
    rows = [one.as_json() for one in known]
    tree = {"store": place, "runs": rows, "adapters": adapters}
    warnings = [] if store is None else list(store.warnings)
    lines = list(runs.lines(known) if known else _lines(place, adapters))
    page = history_page(known) if args.html else ""
    return Answer(lines, tree, warnings=warnings, rows=rows or adapters, page=page)


def _adapter(store: Store, entry: Entry) -> JsonTree:
    """Return one adapter; what its writer did not say is None."""
    return {
        "created": entry.created,
        **{name: entry.about.get(name) for name in _TOLD},
        "bytes": entry.size_bytes,
        "kept": store.notes.pinned("adapters", entry.key),
        "key": entry.key,
    }


def _lines(place: str, adapters: list[JsonTree]) -> Iterator[str]:
    if not adapters:
        yield f"no adapter in {place}: `pytest --finetune` trains one"
        return
    head = ("created", "experiment", "task", "steps", "final loss", "time", "size", "kept", "key")
    yield from columns(head, [_row(adapter) for adapter in adapters], right=(3, 4, 5, 6), indent=0)
    total = sum(adapter["bytes"] for adapter in adapters)
    yield ""
    yield f"{counted(len(adapters), 'adapter')}, {size(total)}, in {place}"


def _row(adapter: Json) -> tuple[object, ...]:
    loss, seconds = _number(adapter["final_loss"]), _number(adapter["seconds"])
    return (
        adapter["created"],
        _text(adapter["experiment"]),
        _text(adapter["task"]),
        _text(adapter["steps"]),
        "-" if loss is None else figure(loss),
        "-" if seconds is None else duration(seconds),
        size(adapter["bytes"]),
        adapter["kept"] or "",
        adapter["key"][:_KEY_SHOWN],
    )


def _text(value: object) -> object:
    return "-" if value is None else value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
