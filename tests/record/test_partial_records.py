"""A view never fails on a record that the schema allows, whatever is missing from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_finetune.record.validate import problems
from pytest_finetune.record.views.github import error_annotations, outputs, step_summary
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.record.views.page.document import page_title, summary_html
from pytest_finetune.record.views.terminal import MAX_LINES, summary_lines

NAMES = ("keep", "iterate", "gate_closed", "crash", "too_large", "several", "rich")
Path = tuple[Any, ...]


def places(value: object, at: Path = ()) -> Iterator[Path]:
    """Every place of a record that holds something; long lists by their first two entries."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:2]))
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def change(record: Any, path: Path, action: str) -> None:
    part = record
    for step in path[:-1]:
        part = part[step] if isinstance(part, dict | list) and _has(part, step) else None
        if part is None:
            return
    if not isinstance(part, dict | list) or not _has(part, path[-1]):
        return
    if action == "drop" and isinstance(part, dict):
        del part[path[-1]]
    else:
        part[path[-1]] = {"null": None, "list": [], "mapping": {}}.get(action)


def _has(part: Any, step: Any) -> bool:
    return step in part if isinstance(part, dict) else isinstance(step, int) and step < len(part)


def views(record: Any, answers: Any) -> None:
    assert summary_html(record, answers).startswith('<div class="ft"')
    assert 2 <= len(summary_lines(record, "r")) <= MAX_LINES
    assert decision_note(record).startswith("# ")
    assert page_title(record)
    assert step_summary(record)
    assert len(error_annotations(record)) <= 10
    assert len(outputs(record, "r")) == 3


PLACES: dict[str, list[Path]] = {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_views_survive_whatever_is_missing_null_or_empty(
    make: Callable[[str], Any], data: st.DataObject, name: str
) -> None:
    sample = make(name)
    known = PLACES.setdefault(name, list(places(sample.record)))
    changes = st.lists(
        st.tuples(st.sampled_from(known), st.sampled_from(["null", "drop", "list", "mapping"])), max_size=12
    )
    for path, action in data.draw(changes):
        change(sample.record, path, action)
    views(sample.record, sample.answers)


def test_every_part_alone_may_be_null_where_the_schema_allows_it(make: Callable[[str], Any]) -> None:
    whole = make("keep")
    for rows in (whole.record["experiments"][0]["held_out"], *whole.answers["finetune"].values()):
        del rows[3:]
    allowed = 0
    for path in places(whole.record):
        if len(path) > 4:
            continue
        record = copy.deepcopy(whole.record)
        change(record, path, "null")
        if not problems(record):
            allowed += 1
            views(record, whole.answers)
    assert allowed > 30


def test_answers_of_unknown_experiments_arms_and_rows_do_no_harm(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    stray = [{"id": "nobody", "line": None, "prompt": None, "response": None}, {}]
    views(
        sample.record,
        {"other": {"tuned": stray}, "finetune": {"tuned": stray, "unheard-of": stray, "empty": []}},
    )
