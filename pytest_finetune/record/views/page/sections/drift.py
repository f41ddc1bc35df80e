"""Drift from the base: what the tuned model says to prompts that are not of its task, the furthest first."""

from __future__ import annotations

from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.drift import drift_sentence
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page.html import Child, Html, element, facts, join, table
from pytest_finetune.record.views.page.sections.evidence import with_span
from pytest_finetune.wording import counted, figure, p_words, percent, rate_span

MOST_TEXT: Final = 400


def drift(experiment: Json) -> Html | None:
    """Show the numbers, then every changed answer; None where nothing was to be measured."""
    found = reading.part(experiment, "drift")
    if not found:
        return None
    if found.get("outcome") != "measured":
        return element("p", f"Drift was {drift_sentence(experiment)}.", class_="ft-missing")
    note = (
        "Measured on prompts that are not of the task. It changes no verdict; forgetting is named as a risk."
    )
    return join([_numbers(found), _changed(found), element("p", note, class_="ft-muted")])


def _numbers(found: Json) -> Html:
    changed, of = reading.number(found, "answers_changed"), reading.number(found, "prompts")
    share = None if changed is None or not of else changed / of
    counts = f"{figure(changed, 6)} of {figure(of, 6)}, {percent(share)}"
    like = reading.part(found, "like_task")
    told_by = reading.text(found, "told_by", "nothing")
    tuned, base = (reading.text(like, name, "?") for name in ("tuned", "base"))
    in_format = f"{tuned} tuned, {base} base (told by the {told_by})"
    p_value = reading.number(like, "p_value")
    return facts(
        [
            ("answers changed", with_span(counts, rate_span(reading.span(found, "interval")))),
            ("answers in the task's format", in_format),
            ("more than the base's, one-sided", None if p_value is None else p_words(p_value)),
            ("token KL from the base", _kl(found)),
            ("prompts", reading.text(found, "file", "the set that ships")),
            ("answered in", reading.text(found, "runtime") or None),
        ]
    )


def _kl(found: Json) -> str:
    mean = reading.number(found, "mean_kl")
    if mean is None:
        return f"not measured: {reading.text(found, 'kl_reason', 'no reason was recorded')}"
    tokens = counted(reading.number(found, "tokens"), "token")
    largest = figure(reading.number(found, "max_kl"), 3)
    return f"{figure(mean, 3)} nats on average over {tokens}, at most {largest} over one answer"


def _changed(found: Json) -> Html | None:
    rows = [row for row in reading.parts(found, "rows") if row.get("base") != row.get("tuned")]
    rows.sort(key=lambda row: (-(reading.number(row, "kl") or 0.0), reading.text(row, "id")))
    if not rows:
        return None
    cells: list[list[Child]] = [
        [
            reading.text(row, "id", "unnamed"),
            figure(reading.number(row, "kl"), 3) if row.get("kl") is not None else "–",
            *(_text(row, name) for name in ("prompt", "base", "tuned")),
        ]
        for row in rows
    ]
    caption = f"{counted(len(rows), 'changed answer')}, furthest from the base first"
    grid = table(["prompt", "token KL", "asked", "base", "tuned"], cells, caption)
    return element("details", element("summary", caption), grid)


def _text(row: Json, name: str) -> Html:
    said = reading.text(row, name)
    if not said.strip():
        return element("span", "(an empty answer)", class_="ft-missing")
    return element("pre", said if len(said) <= MOST_TEXT else f"{said[:MOST_TEXT]}…")
