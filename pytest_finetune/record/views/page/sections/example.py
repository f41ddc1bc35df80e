"""One held-out row before and after: what a gain means, for somebody who reads one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_finetune.record.lenient import Json
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import HeldOutRow
from pytest_finetune.record.remarks import place_of_row
from pytest_finetune.record.views.page.html import Html, element
from pytest_finetune.wording import one_line

MOST_TEXT: Final = 140


def example(experiment: RecordedExperiment, answers: Mapping[str, Sequence[Json]]) -> Html | None:
    """Show the first row that the tuning fixed under the primary rule, else the first that it broke."""
    fixed, broken = _changed(experiment)
    row = fixed or broken
    said = {arm: _answer(answers.get(arm, ()), row) for arm in ("baseline", "tuned")} if row else {}
    if row is None or None in said.values():
        return None
    told = {"asked": row.input, "base model": said["baseline"], "tuned model": said["tuned"]}
    if row.expected != said["tuned"]:
        told["expected"] = row.expected
    what = "fixed" if fixed else "broken"
    lines = (
        element("li", f"{name}: ", element("code", one_line(text or "", MOST_TEXT)))
        for name, text in told.items()
    )
    heading = element("p", element("strong", f"One row that was {what}"), f" ({place_of_row(row)}):")
    return element("div", heading, element("ul", *lines, class_="ft-reasons"), class_="ft-exact")


def _changed(experiment: RecordedExperiment) -> tuple[HeldOutRow | None, HeldOutRow | None]:
    """Return the first row that the tuned model alone has right, and the first that the base alone has right."""
    rule = experiment.primary
    rows = {row.id: row for row in experiment.held_out if not rule.suite}
    before, after = (rule.scores.get(arm, ()) for arm in ("baseline", "tuned"))
    fixed = broken = None
    for name, base, tuned in zip(rule.rows, before, after, strict=False):
        if name in rows and base is not None and tuned is not None:
            fixed = fixed or (rows[name] if base < 1 <= tuned else None)
            broken = broken or (rows[name] if tuned < 1 <= base else None)
    return fixed, broken


def _answer(given: Sequence[Json], row: HeldOutRow) -> str | None:
    found = next((one for one in given if one.get("id") == row.id), None)
    return None if found is None else str(found.get("response", ""))
