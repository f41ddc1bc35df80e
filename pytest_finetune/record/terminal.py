"""The terminal summary: at most 25 lines, the decision last."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Final, NamedTuple

from pytest_finetune.record import reading
from pytest_finetune.record.headline import Headline, headline, place
from pytest_finetune.record.reading import Json
from pytest_finetune.record.slices import slice_lines
from pytest_finetune.record.wording import (
    arm_word,
    counted,
    duration,
    figure,
    gain_words,
    one_line,
    percent,
    rate_span,
    size,
    threshold,
)

MAX_LINES: Final = 24  # one more is left for the section's own heading
MAX_RULES: Final = 6
SLICE_LINES: Final = 2
COLOURS: Final = {"good": "green", "warn": "yellow", "bad": "red", "none": "bold"}


class Line(NamedTuple):
    """One line of the summary; `markup` names one mark of pytest's TerminalWriter, or is empty."""

    text: str
    markup: str = ""

    @property
    def marks(self) -> dict[str, bool]:
        """The keyword arguments for `TerminalReporter.write_line`."""
        return {self.markup: True} if self.markup else {}


def summary_lines(record: Json, record_dir: str | PurePath, columns: int = 80) -> list[Line]:
    """Sum the record up in at most 24 lines that fit `columns`.

    The last lines hold the verdict with its reason, the next change and where the record lies.
    """
    columns = max(columns, 60)
    runs = reading.experiments(record)
    said = [one_line(note) for note in reading.listed(record, "notes")[:2]]
    notes = [Line(_fit(f"note: {note}", columns), "yellow") for note in said]
    where = Line(f"record: {_where(record, record_dir)}")
    if len(runs) == 1:
        end = [*notes, *_ending(headline(runs[0], record), columns), where]
        body = _one(runs[0], columns)
    else:
        end = [*notes, where]
        body = _several(runs, record, columns, MAX_LINES - len(end))
    return [*body[: MAX_LINES - len(end)], *end]


def _where(record: Json, record_dir: str | PurePath) -> str:
    if reading.cheap_only(record):
        return "none is kept without --finetune"
    missing = any("no report.html" in str(note) for note in reading.listed(record, "notes"))
    return one_line(PurePath(record_dir) / ("record.json" if missing else "report.html"))


def _ending(said: Headline, columns: int) -> list[Line]:
    """The verdict with its reason in at most three lines, the first risk in two, the next change in three."""
    verdict = _wrapped(f"{said.word}: {said.reason}", columns, 3)
    change = _wrapped(f"next change: {said.next or 'none'}", columns, 3)
    # What is kept will be served: its risk stands beside the verdict. Other verdicts end with the change alone.
    kept = said.tone == "good" and said.risks
    risks = _wrapped(f"risk: {said.risks[0]}", columns, 2) if kept else []
    if risks and len(said.risks) > 1:
        risks[-1:] = [_fit(f"{risks[-1]} (and {counted(len(said.risks) - 1, 'further risk')})", columns)]
    return [
        *(Line(text, COLOURS[said.tone]) for text in verdict),
        *(Line(text, "yellow") for text in risks),
        *(Line(text) for text in change),
    ]


def _one(experiment: Json, columns: int) -> list[Line]:
    facts = [_data(experiment), _memory(experiment), _training(experiment)]
    facts += [said for said in (_reused(experiment), _retrained(experiment)) if said]
    slices = [
        Line(line, colour)
        for text, colour in slice_lines(experiment)
        for line in _wrapped(text, columns, SLICE_LINES)
    ]
    facts += _runtimes(experiment)
    table = [*_rates(experiment, columns), *_gains(experiment, columns), *slices[:SLICE_LINES]]
    if not table:
        table = [
            Line(_fit(f"  {place(found)}: {one_line(found.get('read'))}", columns), _colour_of(found))
            for found in reading.findings(experiment)[:4]
        ]
    lines = [Line(_fit(_title(experiment), columns), "bold"), *(Line(_fit(fact, columns)) for fact in facts)]
    lines += _power(experiment, columns)
    return [*lines, *([Line(""), *table] if table else []), Line("")]


def _power(experiment: Json, columns: int) -> list[Line]:
    """What the held-out file can show, while nothing is decided; a decision says it of its own rows."""
    power = reading.part(experiment, "power")
    if not power or experiment.get("decision"):
        return []
    warning = reading.text(power, "warning")
    said = one_line(warning or reading.text(power, "line"))
    text = f"  power     {said}"
    return [Line(line, "yellow" if warning else "") for line in _wrapped(text, columns, 4)]


def _colour_of(found: Json) -> str:
    return "red" if found.get("severity") == "error" else "yellow"


def _title(experiment: Json) -> str:
    config = reading.part(experiment, "config")
    lora = reading.part(config, "lora")
    method = reading.text(config, "peft_method", "unknown method")
    rank = f" r{reading.text(lora, 'r')}" if lora.get("r") is not None else ""
    name = reading.text(experiment, "task", reading.text(experiment, "name", "experiment"))
    return one_line(f"{name}: {reading.text(config, 'base_model', 'unknown base')} with {method}{rank}")


def _data(experiment: Json) -> str:
    data = reading.part(experiment, "data")
    if not data:
        return "  data      not read"
    train, held = (counted(reading.number(reading.part(data, s), "rows"), "row") for s in ("train", "eval"))
    found = _counts(reading.parts(data, "findings")) or "no findings"
    charter = _counts(reading.parts(reading.part(experiment, "charter"), "findings"))
    return f"  data      {train} to train on, {held} held out; {found}" + (
        f"; charter: {charter}" if charter else ""
    )


def _counts(found: Sequence[Json]) -> str:
    errors = sum(one.get("severity") == "error" for one in found)
    warnings = len(found) - errors
    said = [counted(errors, "error")] * bool(errors) + [counted(warnings, "warning")] * bool(warnings)
    return ", ".join(said)


def _memory(experiment: Json) -> str:
    memory = reading.part(experiment, "memory")
    if not memory:
        return "  memory    not planned"
    measured = reading.number(memory, "measured_peak_bytes")
    peak = f"{size(reading.number(memory, 'predicted_peak_bytes'))} predicted"
    peak += f", {size(measured)} measured" if measured is not None else ""
    budget = reading.number(memory, "budget_bytes")
    name = one_line(reading.text(memory, "budget_name", "unnamed card"), 30)
    against = f" of {size(budget)} ({name})" if budget is not None else ""
    return f"  memory    {peak}{against}: {one_line(reading.text(memory, 'fits', 'not judged'))}"


def _training(experiment: Json) -> str:
    training = reading.part(experiment, "training")
    if not training:
        return "  training  not trained"
    key = one_line(reading.text(experiment, "key", "without a key"))[:8]
    losses = [
        found
        for step in reading.parts(training, "log")
        if (found := reading.number(step, "loss")) is not None
    ]
    end = reading.number(training, "final_loss")
    last = end if end is not None else losses[-1] if losses else None
    fall = f", loss {figure(losses[0])} -> {figure(last)}" if losses else f", loss {figure(last)}"
    seconds = duration(reading.number(training, "seconds"))
    steps = counted(reading.number(training, "steps"), "step")
    if training.get("reused"):
        return f"  training  reused adapter {key} ({steps}{fall})"
    return f"  training  trained {steps} in {seconds}{fall}; adapter {key}"


def _runtimes(experiment: Json) -> list[str]:
    """How far the tuned model answers alike in each further runtime; at most two lines."""
    main = reading.primary(experiment)
    lines = []
    for match in reading.parts(experiment, "runtime_match")[:2]:
        text, rule = reading.part(match, "text"), reading.part(match, "rules", main or "")
        first, second = (one_line(reading.text(match, key, "?"), 20) for key in ("first", "second"))
        said = f"{reading.text(text, 'same')} of {reading.text(text, 'total')} texts"
        if rule:
            said += f", {reading.text(rule, 'same')} of {reading.text(rule, 'total')} scores"
        lines.append(f"  runtimes  {second} like {first}: {said}")
    return lines


def _reused(experiment: Json) -> str | None:
    """Name the environment that an adapter comes from when it is not this one."""
    training = reading.part(experiment, "training")
    if training.get("reuse") != "semantic":
        return None
    differs = reading.part(training, "reused_from")
    said = [
        f"{one_line(name.rpartition('.')[2])} {one_line(old)} -> {one_line(new)}"
        for name, (old, new) in differs.items()
    ]
    return f"  reused    from another environment: {', '.join(said)}"


def _retrained(experiment: Json) -> str | None:
    """Say what a retraining changed, None when there was nothing to compare with."""
    found = reading.part(experiment, "training", "retrained")
    if not found:
        return None
    if found.get("same_weights"):
        return "  retrained the same weights as before, byte for byte"
    largest = reading.number(found, "largest_difference")
    apart = f"differ by at most {largest:.2g}" if largest is not None else "have other names or shapes"
    changed, of = reading.number(found, "answers_changed"), reading.number(found, "answers")
    answers = "old answers not stored" if changed is None else f"{changed} of {of} answers changed"
    return f"  retrained weights {apart}; {answers}"


def _rates(experiment: Json, columns: int) -> list[Line]:
    """A table of arms by rules: rate and interval; the intervals give way where the columns are too few."""
    arms, names = reading.arms(experiment), reading.rules(experiment)
    if not arms or not names:
        return []
    shown = names if len(names) <= MAX_RULES else names[: MAX_RULES - 1]
    scores = {(r, a): reading.part(experiment, "arms", a, "rules", r) for r in shown for a in arms}
    heads = [arm_word(one_line(a, 20)) for a in arms]
    for with_span in (True, False):
        grid = {at: _cell(score, with_span) for at, score in scores.items()}
        widths = [
            max(len(head), *(len(grid[r, a]) for r in shown)) for head, a in zip(heads, arms, strict=True)
        ]
        room = columns - 2 - sum(widths) - 2 * len(arms)
        if room >= 12:
            break
    labels = {r: one_line(r) + (" *" if r == reading.primary(experiment) else "") for r in shown}
    first = min(max(cells("rule"), *map(cells, labels.values())), max(room, 8))
    heads = [head.ljust(w) for head, w in zip(heads, widths, strict=True)]
    lines = [Line(_fit("  ".join(["  " + "rule".ljust(first), *heads]).rstrip(), columns), "bold")]
    for r in shown:
        shown_cells = [grid[r, a].ljust(w) for a, w in zip(arms, widths, strict=True)]
        outcome = reading.text(reading.part(experiment, "rules", r), "outcome", "passed")
        line = "  ".join(["  " + _padded(labels[r], first), *shown_cells]).rstrip()
        lines.append(Line(_fit(line, columns), {"passed": "", "undecided": "yellow"}.get(outcome, "red")))
    lines.append(Line(_fit(_legend(experiment), columns)))
    if len(shown) < len(names):
        rest = [reading.part(experiment, "rules", name) for name in names[len(shown) :]]
        failing = sum(rule.get("outcome") != "passed" for rule in rest)
        lines.append(Line(f"  and {counted(len(rest), 'more rule')}, {failing or 'none'} of them not passed"))
    return lines


def _legend(experiment: Json) -> str:
    main = reading.primary(experiment)
    rule = reading.part(experiment, "rules", main or "")
    if not rule:
        return "  no primary rule was recorded"
    rows = counted(len(reading.listed(rule, "rows")), "held-out row")
    confidence = reading.confidence(experiment, rule)
    level = f", intervals at {threshold(confidence)}" if confidence is not None else ""
    return f"  * primary rule, {rows}{level}"


def _cell(score: Json, with_span: bool) -> str:
    rate = reading.number(score, "rate")
    if rate is None:
        return "not run"
    return f"{percent(rate):>6} {rate_span(reading.span(score, 'interval')) if with_span else ''}".rstrip()


def _gains(experiment: Json, columns: int) -> list[Line]:
    main = reading.primary(experiment)
    lines = []
    for pair in reading.comparisons(experiment):
        if main is not None and pair.get("rule") != main:
            continue
        if str(pair.get("against")).startswith("tuned@"):  # its line says more: how far the two agree
            continue
        fixed, broken = len(reading.listed(pair, "fixed")), len(reading.listed(pair, "broken"))
        same = reading.whole(pair, "same")
        tail = f"{fixed} fixed, {broken} broken" + (f", {same} same" if same is not None else "")
        gain = gain_words(reading.number(pair, "gain"), reading.span(pair, "interval"))
        against = arm_word(one_line(reading.text(pair, "against", "an unknown arm"), 20))
        lines.append(Line(_fit(f"  gain over {against:<7} {gain:<29}  {tail}", columns)))
    return lines[:3]


def _several(runs: list[Json], record: Json, columns: int, room: int) -> list[Line]:
    """One line an experiment, then the verdict and the next change of as many as fit, the worst first."""
    said = [(run, headline(run, record)) for run in runs]
    if not said:
        return [Line("No experiment was run.", "bold")]
    rows = said[: max(room // 2 - 3, 1)]
    names = [one_line(reading.text(run, "name", "experiment"), 24) for run, _ in rows]
    width = max(cells("experiment"), *map(cells, names))
    lines = [Line(f"  {'experiment':<{width}}  verdict    {'base':>6}  {'tuned':>6}  gain", "bold")]
    for name, (run, head) in zip(names, rows, strict=True):
        line = f"  {_padded(name, width)}  {head.word[:9]:<9}  {_brief(run)}"
        lines.append(Line(_fit(line, columns), COLOURS[head.tone]))
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
    pair = next((p for p in over_base if p.get("rule") == main), {})
    rates = "  ".join(f"{percent(reading.number(score, 'rate')):>6}" for score in (base, tuned))
    return f"{rates}  {gain_words(reading.number(pair, 'gain'), reading.span(pair, 'interval'))}"


def _verdicts(ranked: list[tuple[Json, Headline]], columns: int, room: int) -> list[Line]:
    """As many verdicts as fit, the worst last; each wrapped where there is room."""
    most = 3 if len(ranked) * 5 <= room else 1
    lines: list[Line] = []
    for run, said in reversed(ranked):
        name = one_line(reading.text(run, "name", "experiment"), 24)
        verdict = _wrapped(f"{said.word} {name}: {said.reason}", columns, most)
        change = _wrapped(f"  next change: {said.next}", columns, min(most, 2)) if said.next else []
        if len(lines) + len(verdict) + len(change) > room:
            break
        lines = [*(Line(text, COLOURS[said.tone]) for text in verdict), *map(Line, change), *lines]
    return lines


def cells(text: str) -> int:
    """Count the terminal cells of text: wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)


def _padded(text: str, width: int) -> str:
    fitted = _fit(text, width)
    return fitted + " " * (width - cells(fitted))


def _fit(text: str, width: int) -> str:
    """Cut text to `width` cells, with three dots where something was cut."""
    if cells(text) <= width:
        return text
    kept = ""
    for char in text:
        if cells(kept + char) > width - 3:
            break
        kept += char
    return kept.rstrip() + "..."


def _wrapped(text: str, width: int, most: int) -> list[str]:
    """Break text between words into at most `most` lines; the further ones are indented by two."""
    indent = " " * (len(text) - len(text.lstrip()))
    lines = [indent]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1].strip() else f"{lines[-1]}{word}"
        if cells(joined) > width and lines[-1].strip():
            lines.append(f"{indent}  {word}")
        else:
            lines[-1] = joined
    return [_fit(line, width) for line in _cut(lines, most)]


def _cut(lines: list[str], most: int) -> Iterable[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]} ..."]
