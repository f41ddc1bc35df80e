"""Drift on neutral prompts: how much the training moved, what a random adapter moves, and every changed answer."""

from __future__ import annotations

from typing import Final

from pytest_finetune.record import remarks
from pytest_finetune.record.drift import DriftFacts
from pytest_finetune.record.tables import passed_of
from pytest_finetune.record.views.page.html import Child, Html, element, facts, folded, join, paragraph, table
from pytest_finetune.record.views.page.sections.evidence import with_span
from pytest_finetune.wording import counted, figure, p_words, percent, rate_span

MOST_TEXT: Final = 400


def drift(found: DriftFacts) -> Html | None:
    """Show the numbers, then every changed answer, the furthest first; None where nothing was to be measured."""
    if not found:
        return None
    if found.outcome != "measured":
        return paragraph("missing", f"Drift was {remarks.drift(found)}.")
    note = (
        "Measured on prompts that are not of the task. It changes no verdict; forgetting is named as a risk."
    )
    return join([_drift_numbers(found), _changed_answers(found), paragraph("muted", note)])


def _drift_numbers(found: DriftFacts) -> Html:
    changed, of, like = found.answers_changed, found.prompts, found.like_task
    share = None if changed is None or not of else changed / of
    tuned, base = ("?" if count is None else count for count in (like.tuned, like.base))
    return facts(
        [
            (
                "answers changed",
                with_span(f"{passed_of(changed, of)}, {percent(share)}", rate_span(found.interval)),
            ),
            ("a random adapter of the same size", _null(found)),
            (
                "answers in the task's format",
                f"{tuned} tuned, {base} base (told by the {found.told_by or 'nothing'})",
            ),
            ("without replay", found.without_replay.words if found.without_replay else None),
            ("more than the base's, one-sided", None if like.p_value is None else p_words(like.p_value)),
            ("token KL from the base", _kl(found)),
            ("prompts", found.file or "the set that ships"),
            ("answered in", found.runtime),
        ]
    )


def _null(found: DriftFacts) -> str | None:
    """What any change of that size does to the answers: the reference of drift."""
    if found.null_changed is None:
        return None
    return f"changes {found.null_changed} of {counted(found.prompts, 'answer')}"


def _kl(found: DriftFacts) -> str:
    if found.mean_kl is None:
        return f"not measured: {found.kl_reason or 'no reason was recorded'}"
    tokens, largest = counted(found.tokens, "token"), figure(found.max_kl, 3)
    return f"{figure(found.mean_kl, 3)} nats on average over {tokens}, at most {largest} over one answer"


def _changed_answers(found: DriftFacts) -> Html | None:
    rows = [row for row in found.rows if row.base != row.tuned]
    rows.sort(key=lambda row: (-(row.kl or 0.0), row.id))
    if not rows:
        return None
    cells: list[list[Child]] = [
        [
            row.id or "unnamed",
            figure(row.kl, 3) if row.kl is not None else "–",
            *map(_answer, (row.prompt, row.base, row.tuned)),
        ]
        for row in rows
    ]
    caption = f"{counted(len(rows), 'changed answer')}, furthest from the base first"
    return folded(caption, table(["prompt", "token KL", "asked", "base", "tuned"], cells, caption))


def _answer(said: str) -> Html:
    if not said.strip():
        return element("span", "(an empty answer)", class_="ft-missing")
    return element("pre", said if len(said) <= MOST_TEXT else f"{said[:MOST_TEXT]}…")
