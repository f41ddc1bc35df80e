"""``pytest-finetune gc``: remove from the store what was not used for long, or what is too much."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, CommandError, columns
from pytest_finetune.cli.project import existing_store_of, store_of
from pytest_finetune.store import collect
from pytest_finetune.wording import counted, size
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.store import Store

HELP: Final = "remove old entries from the store, never what is promoted, locked or in use"
DESCRIPTION: Final = (
    "Remove entries that were not used for --max-age, then the least recently used until --max-size remains. "
    "Leftovers of killed writers (a day old) and what was set aside as damaged (a month old, or --max-age) go in any "
    "case; with neither option nothing else does, and what is still set aside is listed with its size. With the "
    "entries go jobs that are over for --max-age. Of a store on a URL, the cache on this machine is collected; "
    "nothing is removed there."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    arguments.add_store(command)
    command.add_argument(
        "--max-age", type=arguments.age_s, metavar="AGE", help="remove what was not used for longer: 30d, 12h"
    )
    command.add_argument(
        "--max-size",
        type=arguments.size_bytes,
        metavar="SIZE",
        help="then the least recently used down to: 5GiB",
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    arguments.add_json(command)


def run(args: argparse.Namespace) -> Answer:
    """Collect; an empty or missing store is no mistake."""
    store = existing_store_of(args) or store_of(args)
    url = None if store.upstream is None else store.upstream.name
    tree: JsonTree = {"store": str(store.root), "cache_of": url, "dry_run": args.dry_run}
    if not store.root.is_dir():
        nothing = f"no cache of {url} at" if url else "no store at"
        tree |= {"removed": [], "kept": [], "freed_bytes": 0, "left_bytes": 0}
        return Answer([f"{nothing} {store.root}: nothing to remove"], tree)
    _refuse_a_foreign_folder(store)
    done = collect(store, max_age_s=args.max_age, max_bytes=args.max_size, dry_run=args.dry_run)
    tree |= {
        "removed": [{"place": r.place, "bytes": r.size_bytes, "why": r.why} for r in done.removed],
        "kept": [{"place": place, "why": why} for place, why in done.kept],
        "freed_bytes": done.freed_bytes,
        "left_bytes": done.left_bytes,
    }
    return Answer(list(_lines(tree)), tree, warnings=list(store.warnings))


def _refuse_a_foreign_folder(store: Store) -> None:
    """Refuse a folder that no store has written to: its ``plans/`` may be somebody's plans."""
    mark = store.root / ".gitignore"
    if any(store.root.iterdir()) and not (mark.is_file() and mark.read_bytes() == b"*\n"):
        raise CommandError(
            f"{store.root} is not a store: it lacks the .gitignore that a store has (one line, a star). "
            "Nothing was removed"
        )


def _lines(tree: Json) -> Iterator[str]:
    removed, kept = tree["removed"], tree["kept"]
    verb = "would remove" if tree["dry_run"] else "removed"
    if removed:
        rows = [(item["place"], size(item["bytes"]), item["why"]) for item in removed]
        yield from columns((verb, "size", "because it is"), rows, right=(1,), indent=0)
        yield ""
    if kept:
        yield from columns(
            ("kept", "because it is"), [(item["place"], item["why"]) for item in kept], indent=0
        )
        yield ""
    entries = (
        f"{verb} {counted(len(removed), 'thing')}, {size(tree['freed_bytes'])}"
        if removed
        else f"{verb} nothing"
    )
    stay = "would stay" if tree["dry_run"] else "stay"
    cache = f", the cache of {tree['cache_of']}, where nothing is removed" if tree["cache_of"] else ""
    yield f"{entries}; {size(tree['left_bytes'])} {stay} in {tree['store']}{cache}"
