"""Rules that did not pass on these held-out rows and were taken out of the test files since: not a way to a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_finetune.record.summary import RUN

if TYPE_CHECKING:
    from pytest_finetune.suite.session import FinetuneSession


def dropped_rules(state: FinetuneSession, experiment: Mapping[str, Any]) -> Iterator[str]:
    """Yield, a sentence each, the rules whose last outcome on any of these rows was no pass and that are gone.

    A rule is still there under another name when its text is the same.
    """
    now = experiment["rules"] or {}
    texts = {facts["sha256"] for facts in now.values()}
    seen: set[str] = set()
    for created, earlier in _earlier_runs(state, experiment):
        for name, facts in (earlier.get("rules") or {}).items():
            if name in seen or facts["outcome"] == "not run":
                continue
            seen.add(name)
            if name not in now and facts["sha256"] not in texts and facts["outcome"] != "passed":
                yield (
                    f"{experiment['name']}: rule {name!r} did not pass on these held-out rows ({facts['outcome']} on "
                    f"{created}) and is gone: bring it back, or hold out rows that it has not judged"
                )


def _earlier_runs(
    state: FinetuneSession, experiment: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the remembered runs of the experiment that held out any of its rows, the newest first."""
    rows = {row["digest"] for row in experiment["held_out"]}
    for key in state.store.runs("experiment", experiment["name"]):
        entry = state.store.read("records", key)
        if entry is None:
            continue
        run = json.loads((entry.path / RUN).read_bytes())
        if rows & {row["digest"] for row in run["experiment"].get("held_out") or ()}:
            yield run["created"], run["experiment"]
