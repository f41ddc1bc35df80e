"""The table of all runs in a store: in the terminal, as CSV and JSON rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_finetune.cli.answer import columns
from pytest_finetune.store import Entry
from pytest_finetune.wording import counted, duration, percent, points, rate_span, size
from pytest_finetune.yamlfile import Json, JsonTree

Run = Json

HEAD: Final = (
    "created",
    "experiment",
    "verdict",
    "primary rule",
    "tuned",
    "base",
    "gain",
    "look",
    "time",
    "peak",
    "key",
    "run",
)
_NUMBERS: Final = ("rate", "rate_low", "rate_high", "base_rate", "gain", "gain_low", "gain_high", "seconds")
_COUNTS: Final = ("look", "peak_bytes", "predicted_bytes")
_WORDS: Final = ("created", "experiment", "task", "verdict", "primary", "reason", "key")
ID_SHOWN: Final = 12
"""As many digits of a run's id and of an adapter's key as a table shows."""


def run_of(entry: Entry) -> JsonTree:
    """Return a run as its writer told it; a value of another kind than was promised is None."""
    about = entry.about
    told: JsonTree = {name: _word(about.get(name)) for name in _WORDS}
    told["undecided"] = about.get("undecided") is True
    told |= {name: _number(about.get(name)) for name in _NUMBERS}
    told |= {name: None if (value := _number(about.get(name))) is None else int(value) for name in _COUNTS}
    return {**told, "run": entry.key}


def lines(runs: Sequence[Run]) -> Iterator[str]:
    """Lay the runs out for a terminal, the newest first."""
    yield from columns(HEAD, [cells(run) for run in runs], right=(4, 5, 6, 7, 8, 9), indent=0)
    yield ""
    verdicts = [run["verdict"] for run in runs]
    words = [f"{verdicts.count(word)} {word}" for word in ("keep", "iterate", "discard") if word in verdicts]
    yield f"{counted(len(runs), 'run')}: {', '.join(words) or 'none decided'}"


def cells(run: Run) -> tuple[str, ...]:
    """Word one run."""
    verdict = run["verdict"] or "no decision"
    return (
        run["created"] or "-",
        run["experiment"] or "-",
        f"{verdict} (undecided)" if run["undecided"] else verdict,
        run["primary"] or "-",
        "-" if run["rate"] is None else f"{percent(run['rate'])} {rate_span(_span(run, 'rate'))}".rstrip(),
        "-" if run["base_rate"] is None else percent(run["base_rate"]),
        "-" if run["gain"] is None else points(run["gain"]),
        "-" if run["look"] is None else str(run["look"]),
        "-" if run["seconds"] is None else duration(run["seconds"]),
        "-" if run["peak_bytes"] is None else size(run["peak_bytes"]),
        (run["key"] or "-")[:ID_SHOWN],
        run["run"][:ID_SHOWN],
    )


def _span(run: Run, name: str) -> tuple[float, float] | None:
    low, high = run[f"{name}_low"], run[f"{name}_high"]
    return None if low is None or high is None else (low, high)


def _word(value: object) -> str | None:
    return str(value) if isinstance(value, str | int | float) and value != "" else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
