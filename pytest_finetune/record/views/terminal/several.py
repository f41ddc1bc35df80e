"""Several experiments: one line each, then the verdicts that have room."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_finetune.record import reading
from pytest_finetune.record.headline import Headline, headline
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.terminal.layout import COLOURS, Line, cells, fit, padded, wrapped
from pytest_finetune.wording import gain_words, one_line, percent


def several_lines(runs: Sequence[Json], record: Json, columns: int, room: int) -> list[Line]:
    """One line an experiment, then the verdict and the next change of as many as fit, the worst first."""
    said = [(run, headline(run, record)) for run in runs]
    if not said:
        return [Line("No experiment was run.", "bold")]
    rows = said[: max(room // 2 - 3, 1)]
    names = [one_line(reading.text(run, "name", "experiment"), 24) for run, _ in rows]
    width = max(cells("experiment"), *map(cells, names))
    lines = [Line(f"  {'experiment':<{width}}  verdict    {'base':>6}  {'tuned':>6}  gain", "bold")]
    for name, (run, head) in zip(names, rows, strict=True):
        line = f"  {padded(name, width)}  {head.word[:9]:<9}  {_brief(run)}"
        lines.append(Line(fit(line, columns), COLOURS[head.tone]))
    if len(rows) < len(said):
        lines.append(Line(f"  and {len(said) - len(rows)} more, all of them in the record"))
    lines.append(Line(""))
    ranked = sorted(said, key=lambda pair: ("bad", "warn", "none", "good").index(pair[1].tone), reverse=True)
    return [*lines, *_verdicts(ranked, columns, room - len(lines))]


def _brief(experiment: Json) -> str:
    main = reading.primary(experiment)
    if main is None:
        return "no primary rule was judged"
    base, tuned = (reading.part(experiment, "arms", arm, "rules", main) for arm in ("baseline", "tuned"))
    over_base = [p for p in reading.comparisons(experiment) if p.get("against") == "baseline"]
    if not base and not tuned:
        return "not run"
    pair = next((p for p in over_base if p.get("rule") == main), {})
    rates = "  ".join(f"{percent(reading.number(score, 'rate')):>6}" for score in (base, tuned))
    return f"{rates}  {gain_words(reading.number(pair, 'gain'), reading.span(pair, 'interval'))}"


def _verdicts(ranked: list[tuple[Json, Headline]], columns: int, room: int) -> list[Line]:
    """As many verdicts as fit, the worst last; each wrapped where there is room."""
    most = next((lines for lines in (3, 2) if len(ranked) * (lines + 2) <= room), 1)
    lines: list[Line] = []
    for run, said in reversed(ranked):
        name = one_line(reading.text(run, "name", "experiment"), 24)
        verdict = wrapped(f"{said.word} {name}: {said.reason}", columns, most)
        change = wrapped(f"  next change: {said.next}", columns, min(most, 2)) if said.next else []
        if len(lines) + len(verdict) + len(change) > room:
            break
        lines = [*(Line(text, COLOURS[said.tone]) for text in verdict), *map(Line, change), *lines]
    return lines
