"""Where the adapter comes from: another environment, or a training that replaced a stored one."""

from __future__ import annotations

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page.html import Child, Html, element, facts, join, table
from pytest_finetune.record.views.page.sections.facts import literal
from pytest_finetune.wording import counted, figure


def elsewhere(training: Json) -> Html | None:
    """Say that an adapter was trained in another environment, what differs, and what that means for a promotion."""
    if training.get("reuse") != "semantic":
        return None
    said = (
        "The adapter comes from another environment (--finetune-reuse=semantic). It is promoted only when every "
        "answer was produced in this one."
    )
    alert = element("p", element("strong", "! "), said, class_="ft-alert")
    differs = reading.part(training, "reused_from")
    rows: list[list[Child]] = [
        [str(name), element("code", literal(pair[0])), element("code", literal(pair[1]))]
        for name, pair in sorted(differs.items())
        if isinstance(pair, list | tuple) and len(pair) == 2
    ]
    return join([alert, table(["key", "there", "here"], rows, "What differs") if rows else None])


def retrained(training: Json) -> Html | None:
    """Say what a retraining changed against the stored adapter that it replaced."""
    found = reading.part(training, "retrained")
    if not found:
        return None
    largest, changed = reading.number(found, "largest_difference"), reading.whole(found, "answers_changed")
    apart = f"{figure(largest)} at most" if largest is not None else "tensors have other names or shapes"
    of = counted(reading.number(found, "answers"), "answer")
    digest = reading.text(found, "before_sha256")
    known = facts(
        [
            ("weights", "✓ equal, byte for byte" if found.get("same_weights") else "! not equal"),
            ("largest difference of a weight", None if found.get("same_weights") else apart),
            (
                "answers changed",
                "not known, the old ones are not stored" if changed is None else f"{changed} of {of}",
            ),
            ("adapter before, sha256", element("code", digest) if digest else None),
        ]
    )
    return join([element("h4", "Against the stored adapter that it replaced"), known])
