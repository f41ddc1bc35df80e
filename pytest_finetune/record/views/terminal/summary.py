"""Put the summary together: what was worked with, what came out, and in the end the decision."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from pytest_finetune.record.headline import Headline, headline
from pytest_finetune.record.model import Recorded, RecordedExperiment, RecordedRun
from pytest_finetune.record.remarks import place
from pytest_finetune.record.tables import gain
from pytest_finetune.record.views.terminal.facts import fact_lines
from pytest_finetune.record.views.terminal.gains import gain_lines
from pytest_finetune.record.views.terminal.layout import COLOURS, Line, cells, fit, padded, wrapped
from pytest_finetune.record.views.terminal.rates import MOST_RULES, rate_lines, slice_lines
from pytest_finetune.wording import one_line, percent

MAX_LINES: Final = 24  # one more is left for the section's own heading
SLICE_LINES: Final = 2
MOST_RISKS: Final = 6


def summary_lines(record: Recorded, record_dir: str | PurePath, columns: int = 80) -> list[Line]:
    """Sum the record up in at most 24 lines that fit `columns`.

    The last lines hold the verdict with its sentence, the exact one where there is room, what to do next and where
    the record lies.
    """
    columns, run = max(columns, 60), RecordedRun.of(record)
    notes = [Line(fit(f"note: {one_line(note)}", columns), "yellow") for note in run.notes[:2]]
    end = [*notes, Line(f"record: {_where(run, record_dir)}")]
    if len(run.experiments) == 1:
        said = headline(run.experiments[0], run)
        verdict = [Line(t, COLOURS[said.tone]) for t in wrapped(f"{said.word}: {said.reason}", columns, 3)]
        following = _following(said, columns)
        room = MAX_LINES - len(end) - len(verdict) - len(following)
        body = _one(run.experiments[0], columns, room)
        exact = wrapped(f"  {said.exact}", columns, room - len(body)) if len(body) < room else []
        end[-1:-1] = [*verdict, *map(Line, exact if said.exact else ()), *following]
    else:
        body = _several(run, columns, MAX_LINES - len(end))
    return [*body[: MAX_LINES - len(end)], *end]


def _where(run: RecordedRun, record_dir: str | PurePath) -> str:
    if run.cheap_only:
        return "none is kept without --finetune"
    missing = any("no report.html" in note for note in run.notes)
    return one_line(PurePath(record_dir) / ("record.json" if missing else "report.html"))


def _following(said: Headline, columns: int) -> list[Line]:
    """The risks beside a keep, counted and a line each, then what to do next in at most three lines."""
    # What is kept will be served: its risks stand beside the verdict. Other verdicts end with the change alone.
    risks = _risks(said, columns) if said.tone == "good" else []
    change = wrapped(f"{said.label}: {said.next or 'none was found'}", columns, 3)
    return [*(Line(text, "yellow") for text in risks), *map(Line, change)]


def _risks(said: Headline, columns: int) -> list[str]:
    """One risk in two lines, two in a line each; of more the number comes before them."""
    if len(said.risks) < 3:
        most = 2 if len(said.risks) == 1 else 1
        return [text for risk in said.risks for text in wrapped(f"risk, {risk.words}", columns, most)]
    shown, rest = said.risks[:MOST_RISKS], len(said.risks) - MOST_RISKS
    lines = [said.counted_risks, *(f"  {risk.words}" for risk in shown)]
    if rest > 0:
        lines[0] += f" (the last {rest} in the record)"
    return [fit(line, columns) for line in lines if line]


def _one(experiment: RecordedExperiment, columns: int, room: int) -> list[Line]:
    """Facts and evidence in at most `room` lines: slices give way first, then rules, then the further gains."""
    facts = fact_lines(experiment, columns)
    left = room - len(facts) - 2
    gains = gain_lines(experiment, columns, max(left - 4, 1))
    rates = rate_lines(experiment, columns, min(MOST_RULES, left - len(gains) - 3))
    table = [*rates, *gains] if rates else _findings(experiment, columns)
    table += _slices(experiment, columns, min(left - len(table), SLICE_LINES))
    return [*facts, *([Line(""), *table] if table else []), Line("")]


def _slices(experiment: RecordedExperiment, columns: int, room: int) -> list[Line]:
    lines: list[Line] = []
    for text, colour in slice_lines(experiment):
        if len(lines) < room:
            lines += [Line(line, colour) for line in wrapped(text, columns, room - len(lines))]
    return lines


def _findings(experiment: RecordedExperiment, columns: int) -> list[Line]:
    """The first findings, where no arm was judged."""
    return [
        Line(
            fit(f"  {place(found)}: {one_line(found.read)}", columns),
            "red" if found.severity == "error" else "yellow",
        )
        for found in experiment.findings[:4]
    ]


def _several(run: RecordedRun, columns: int, room: int) -> list[Line]:
    """One line an experiment, then the verdict and the next change of as many as fit, the worst first."""
    said = [(one, headline(one, run)) for one in run.experiments]
    if not said:
        return [Line("No experiment was run.", "bold")]
    rows = said[: max(room // 2 - 3, 1)]
    width = max(cells("experiment"), *(cells(_name(one)) for one, _ in rows))
    lines = [Line(f"  {'experiment':<{width}}  verdict    {'base':>6}  {'tuned':>6}  gain", "bold")]
    for one, head in rows:
        line = f"  {padded(_name(one), width)}  {head.word[:9]:<9}  {_brief(one)}"
        lines.append(Line(fit(line, columns), COLOURS[head.tone]))
    if len(rows) < len(said):
        lines.append(Line(f"  and {len(said) - len(rows)} more, all of them in the record"))
    lines.append(Line(""))
    ranked = sorted(said, key=lambda pair: ("bad", "warn", "none", "good").index(pair[1].tone), reverse=True)
    return [*lines, *_verdicts(ranked, columns, room - len(lines))]


def _name(experiment: RecordedExperiment) -> str:
    return one_line(experiment.name or "experiment", 24)


def _brief(experiment: RecordedExperiment) -> str:
    main = experiment.primary
    if not main:
        return "no primary rule was judged"
    scores = [experiment.arms[arm].rules[main.name] for arm in ("baseline", "tuned")]
    if not any(scores):
        return "not run"
    rates = "  ".join(f"{percent(score.rate):>6}" for score in scores)
    return f"{rates}  {gain(experiment.gain_over_base(main.name)).words}"


def _verdicts(ranked: list[tuple[RecordedExperiment, Headline]], columns: int, room: int) -> list[Line]:
    """As many verdicts as fit, the worst last; each wrapped where there is room."""
    most = next((lines for lines in (3, 2) if len(ranked) * (lines + 2) <= room), 1)
    lines: list[Line] = []
    for one, said in reversed(ranked):
        verdict = wrapped(f"{said.word} {_name(one)}: {said.reason}", columns, most)
        change = wrapped(f"  {said.label}: {said.next}", columns, min(most, 2)) if said.next else []
        if len(lines) + len(verdict) + len(change) > room:
            break
        lines = [*(Line(text, COLOURS[said.tone]) for text in verdict), *map(Line, change), *lines]
    return lines
