"""What lies in a store, by its manifests alone: every entry of a kind, or the runs that are about one thing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set
from typing import Any, Final

from pytest_finetune.fingerprint import Key
from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import StoreError
from pytest_finetune.store.lines import Lines, Record, append, line_of
from pytest_finetune.store.manifest import MANIFEST, DefectError, Entry, parse
from pytest_finetune.store.shared.upstream import SHARED_KINDS, UpstreamError

RUNS: Final = "records"


class Listing:
    """Lists without checking the content of files. What lies upstream is listed too, at the path of a later read."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context
        self._known = Lines(context, "listed", "a list")

    def entries(self, kind: str) -> list[Entry]:
        """Return every entry of a kind, the newest first."""
        found = list(self._parsed(kind, self._here(kind), self._upstream(kind)))
        return sorted(found, key=lambda entry: entry.created, reverse=True)

    def alike(self, kind: str, key: Key) -> list[Entry]:
        """Return the entries that differ from `key` at most in the environment, the newest first."""
        semantic = key.semantic()
        return [entry for entry in self.entries(kind) if Key.of(entry.fields).semantic() == semantic]

    def runs(self, about: str, value: object) -> list[str]:
        """Return the keys of the runs whose summary says this of itself, the newest first.

        A run never changes: what its manifest says is kept in the folder ``listed/``, so that among thousands of runs
        only those are opened that are new here.
        """
        here, upstream = self._here(RUNS), self._upstream(RUNS)
        known = {record["identity"]: record for record in self._known.here()}
        new = list(map(_line, self._parsed(RUNS, here - known.keys(), upstream - known.keys())))
        self._keep(new)
        there = here | upstream
        found = [
            record
            for record in (*known.values(), *new)
            if record["identity"] in there and record["about"].get(about) == value
        ]
        return [record["identity"] for record in sorted(found, key=lambda one: one["created"], reverse=True)]

    def _here(self, kind: str) -> Set[str]:
        with contextlib.suppress(OSError):
            return {folder.name for folder in (self._context.root / kind).iterdir()}
        return set()

    def _upstream(self, kind: str) -> Set[str]:
        upstream = self._context.upstream
        if upstream is None or kind not in SHARED_KINDS:
            return frozenset()
        try:
            return upstream.entry_names(kind)
        except UpstreamError as error:
            self._context.warn(f"store: only what is on this machine is listed: {error}")
            return frozenset()

    def _parsed(self, kind: str, here: Set[str], upstream: Set[str]) -> Iterator[Entry]:
        """Yield the named entries that have a sound manifest; what is not here is asked for upstream."""
        folder, missing = self._context.root / kind, set(upstream)
        for name in sorted(here):
            try:
                yield parse((folder / name / MANIFEST).read_bytes(), kind, name, folder / name)
                missing.discard(name)
            except (DefectError, OSError):
                self._context.warn(f"store: {folder / name} has no sound manifest and was passed over")
        if self._context.upstream is None or not missing:
            return
        try:
            for name, data in self._context.upstream.manifests(kind, sorted(missing)):
                try:
                    yield parse(data, kind, name, folder / name)
                except DefectError:
                    self._context.warn(
                        f"store: {kind}/{name} at {self._context.upstream.name} has no sound manifest and was passed "
                        "over"
                    )
        except UpstreamError as error:
            self._context.warn(f"store: only what is on this machine is listed: {error}")

    def _keep(self, new: list[Record]) -> None:
        """Write down what was read; what cannot be written is read again."""
        if new:
            with contextlib.suppress(StoreError), self._known.writing("keep a list") as stream:
                append(stream, [line_of(record) for record in new])


def _line(entry: Entry) -> dict[str, Any]:
    return {"identity": entry.key, "created": entry.created, "about": dict(entry.about)}
