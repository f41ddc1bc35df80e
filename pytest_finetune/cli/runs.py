"""The table of all runs in a store: in the terminal, as CSV and JSON rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_finetune.cli.answer import columns
from pytest_finetune.record.recipes import seeds_cell
from pytest_finetune.record.summary import RunLine, rests_on, verdicts
from pytest_finetune.store import Entry
from pytest_finetune.wording import counted, duration, percent, points, rate_span, size

HEAD: Final = (
    "created", "experiment", "verdict", "primary rule", "tuned", "base", "gain", "seeds", "look", "time",
    "peak", "key", "run",
)  # fmt: skip
ID_SHOWN: Final = 12
"""As many digits of a run's id and of an adapter's key as a table shows."""


def run_of(entry: Entry) -> RunLine:
    """Return a run as its writer told it; a value of another kind than was promised is not shown."""
    return RunLine.of(entry.about, run=entry.key)


def lines(runs: Sequence[RunLine]) -> Iterator[str]:
    """Lay the runs out for a terminal, the newest first."""
    yield from columns(HEAD, [cells(run) for run in runs], right=(4, 5, 6, 8, 9, 10), indent=0)
    yield ""
    yield f"{counted(len(runs), 'run')}: {verdicts(runs)}"
    if rests := rests_on(runs):
        yield rests


def cells(run: RunLine) -> tuple[str, ...]:
    """Word one run."""
    return (
        run.created or "-",
        run.experiment or "-",
        run.word,
        run.primary or "-",
        "-" if run.rate is None else f"{percent(run.rate)} {rate_span(run.rate_span)}".rstrip(),
        "-" if run.base_rate is None else percent(run.base_rate),
        "-" if run.gain is None else points(run.gain),
        seeds_cell(run.seeds, run.recipe),
        run.looked or "-",
        "-" if run.seconds is None else duration(run.seconds),
        "-" if run.peak_bytes is None else size(run.peak_bytes),
        (run.key or "-")[:ID_SHOWN],
        run.run[:ID_SHOWN],
    )
