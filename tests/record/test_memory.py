"""The memory of a run in the record and in its views: planned, measured, both on one card, or on two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_finetune.record.build import _memory
from pytest_finetune.record.inputs import MemoryFacts
from pytest_finetune.record.tables import fits_word, peaks
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.yamlfile import JsonTree

GiB = 2**30
PLAN = {
    "predicted_peak_bytes": 10 * GiB,
    "breakdown": {},
    "budget_bytes": 22 * GiB,
    "budget_name": "NVIDIA L4",
    "budget_source": "measured",
    "fits": "fits",
    "measured_peak_bytes": None,
}
MEASURED = {"measured_peak_bytes": 11 * GiB, "measured_card": "NVIDIA L4"}


def facts(planned: JsonTree | None, measured: JsonTree) -> MemoryFacts:
    return MemoryFacts.of(_memory(planned, measured))


def test_a_measurement_stands_where_no_plan_does() -> None:
    assert _memory(None, {}) is None
    found = facts(None, MEASURED)
    assert peaks(found) == "not planned (no test asked for the plan), 11.0 GiB measured"
    assert fits_word(found) == "not judged"


def test_a_plan_that_could_not_be_made_is_told_with_its_reason_and_the_measured_batch_judges() -> None:
    failed = {**PLAN, "predicted_peak_bytes": None, "fits": None, "not_planned": "torch 9.9 traces nothing"}
    found = facts(failed, MEASURED)
    assert peaks(found) == "not planned (torch 9.9 traces nothing), 11.0 GiB measured"
    assert fits_word(found) == "fits"
    assert fits_word(facts(failed, {})) == "not judged"


def test_both_are_compared_on_one_card_only() -> None:
    here = facts(PLAN, MEASURED)
    assert not here.not_compared
    assert peaks(here) == "10.0 GiB predicted, 11.0 GiB measured"
    elsewhere = facts({**PLAN, "budget_name": "a card with 24GiB", "budget_source": "size"}, MEASURED)
    assert elsewhere.not_compared == "predicted for a card with 24GiB, measured on NVIDIA L4"
    assert peaks(elsewhere) == "10.0 GiB predicted, 11.0 GiB measured on NVIDIA L4, another card"


def test_records_of_before_are_read_as_they_were() -> None:
    before = {name: value for name, value in PLAN.items() if name != "budget_source"}
    assert not facts(before, {"measured_peak_bytes": 11 * GiB}).not_compared


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (_memory(None, MEASURED), "not planned: no test asked for the plan"),
        (
            _memory({**PLAN, "budget_source": "size"}, MEASURED),
            "predicted for NVIDIA L4, measured on NVIDIA L4: not compared",
        ),
    ],
)
def test_the_page_tells_it(make: Callable[[str], Any], memory: JsonTree, said: str) -> None:
    sample = make("keep")
    sample.record["experiments"][0]["memory"] = memory
    source = summary_html(*sample)
    assert said in source
    assert "11.0 GiB measured" in source
    assert "off by" not in source
