"""Put the summary together: what was worked with, what came out, and in the end the decision."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.headline import Headline, headline, place
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.terminal.facts import fact_lines
from pytest_finetune.record.views.terminal.gains import gain_lines
from pytest_finetune.record.views.terminal.layout import COLOURS, Line, fit, wrapped
from pytest_finetune.record.views.terminal.rates import MOST_RULES, rate_lines
from pytest_finetune.record.views.terminal.several import several_lines
from pytest_finetune.record.views.terminal.slices import slice_lines
from pytest_finetune.wording import counted, one_line

MAX_LINES: Final = 24  # one more is left for the section's own heading
SLICE_LINES: Final = 2


def summary_lines(record: Json, record_dir: str | PurePath, columns: int = 80) -> list[Line]:
    """Sum the record up in at most 24 lines that fit `columns`.

    The last lines hold the verdict with its reason, the next change and where the record lies.
    """
    columns = max(columns, 60)
    runs = reading.experiments(record)
    said = [one_line(note) for note in reading.listed(record, "notes")[:2]]
    notes = [Line(fit(f"note: {note}", columns), "yellow") for note in said]
    where = Line(f"record: {_where(record, record_dir)}")
    if len(runs) == 1:
        end = [*notes, *_ending(headline(runs[0], record), columns), where]
        body = _one(runs[0], columns, MAX_LINES - len(end))
    else:
        end = [*notes, where]
        body = several_lines(runs, record, columns, MAX_LINES - len(end))
    return [*body[: MAX_LINES - len(end)], *end]


def _where(record: Json, record_dir: str | PurePath) -> str:
    if reading.cheap_only(record):
        return "none is kept without --finetune"
    missing = any("no report.html" in str(note) for note in reading.listed(record, "notes"))
    return one_line(PurePath(record_dir) / ("record.json" if missing else "report.html"))


def _ending(said: Headline, columns: int) -> list[Line]:
    """The verdict with its reason in at most three lines, the first risk in two, the next change in three."""
    verdict = wrapped(f"{said.word}: {said.reason}", columns, 3)
    change = wrapped(f"next change: {said.next or 'none'}", columns, 3)
    # What is kept will be served: its risk stands beside the verdict. Other verdicts end with the change alone.
    kept = said.tone == "good" and said.risks
    risks = wrapped(f"risk: {said.risks[0]}", columns, 2) if kept else []
    if risks and len(said.risks) > 1:
        risks[-1:] = [fit(f"{risks[-1]} (and {counted(len(said.risks) - 1, 'further risk')})", columns)]
    return [
        *(Line(text, COLOURS[said.tone]) for text in verdict),
        *(Line(text, "yellow") for text in risks),
        *(Line(text) for text in change),
    ]


def _one(experiment: Json, columns: int, room: int) -> list[Line]:
    """Facts and evidence in at most `room` lines: slices give way first, then rules, then the further gains."""
    facts = fact_lines(experiment, columns)
    left = room - len(facts) - 2
    gains = gain_lines(experiment, columns, max(left - 4, 1))
    rates = rate_lines(experiment, columns, min(MOST_RULES, left - len(gains) - 3))
    table = [*rates, *gains] if rates else _findings(experiment, columns)
    table += _slices(experiment, columns, min(left - len(table), SLICE_LINES))
    return [*facts, *([Line(""), *table] if table else []), Line("")]


def _slices(experiment: Json, columns: int, room: int) -> list[Line]:
    lines: list[Line] = []
    for text, colour in slice_lines(experiment):
        if len(lines) < room:
            lines += [Line(line, colour) for line in wrapped(text, columns, room - len(lines))]
    return lines


def _findings(experiment: Json, columns: int) -> list[Line]:
    """The first findings, where no arm was judged."""
    colours = {"error": "red"}
    return [
        Line(
            fit(f"  {place(found)}: {one_line(found.get('read'))}", columns),
            colours.get(reading.text(found, "severity"), "yellow"),
        )
        for found in reading.findings(experiment)[:4]
    ]
