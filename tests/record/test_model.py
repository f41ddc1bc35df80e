"""A record is read once into types: what is missing is empty, and orders are those of a reader, not of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from pytest_finetune.record import drift, inputs, outcomes
from pytest_finetune.record.lenient import Facts
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.validate import schema
from pytest_finetune.store import Store
from pytest_finetune.suite.closing.remembering import remember_runs
from tests.record.conftest import structural_keys


def missing_from_the_schema() -> Iterator[str]:
    known = structural_keys(schema()) | {"raw", "recorded"}
    modules = {drift.__name__, inputs.__name__, outcomes.__name__, RecordedRun.__module__}
    for kind in (kind for kind in Facts.__subclasses__() if kind.__module__ in modules):
        yield from (f"{kind.__name__}.{name}" for name in get_type_hints(kind) if name not in known)


def test_the_schema_describes_what_readers_look_at_or_leaves_it_to_its_writer() -> None:
    free = {
        "ConfigFacts",
        "DecisionSettings",
        "Paths",
        "Charter",
        "Process",
        "Hardware",
        "Split",
        "DataFacts",
        "Gate",
    }
    left = [place for place in missing_from_the_schema() if place.partition(".")[0] not in free]
    assert sorted(left) == [
        "ArmFacts.answers_sha256",
        "RecordedExperiment.gate",
        "RuleFacts.groups",
    ]


def test_what_is_missing_null_or_of_another_kind_is_empty() -> None:
    one = RecordedExperiment.of(
        {"name": "e", "training": None, "arms": {"tuned": None}, "notes": 3, "memory": []}
    )
    assert (one.name, one.task, bool(one.training), dict(one.arms)) == ("e", "", False, {})
    assert one.training.steps is None
    assert one.arms["tuned"].rules["any"].rate is None
    assert not one.primary
    assert not RecordedRun.of({}).experiments


@pytest.mark.parametrize(("value", "read"), [(3, 3), (3.5, 3.5), (True, None), ("3", None), (None, None)])
def test_a_number_is_a_number(value: object, read: float | None) -> None:
    assert RecordedExperiment.of({"training": {"seconds": value}}).training.seconds == read


def test_orders_are_a_readers(make: Callable[[str], Any]) -> None:
    one = RecordedRun.of(make("rich").record).experiments[0]
    assert list(one.arms) == ["baseline", "prompted", "best_prompt", "champion", "tuned", "tuned@merged"]
    assert list(one.rules) == ["priority", "strict_json", "short_reason"]
    pairs = [(pair.rule, pair.against) for pair in one.comparisons]
    order = [(rule, arm) for rule in one.rules for arm in one.arms if arm != "tuned"]
    assert pairs == order


def test_a_run_is_remembered_from_one_reading_of_its_record(
    make: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make("several").record
    experiments = [RecordedExperiment.of(one) for one in record["experiments"]]
    assert all(RecordedExperiment.of(one) is one for one in experiments)
    read: list[object] = []
    monkeypatch.setattr(outcomes.HeldOutRow, "of", read.append)
    store = Store(tmp_path)
    state: Any = SimpleNamespace(store=store)
    remember_runs(state, record, experiments)
    assert [store.warnings, read] == [[], []]
    assert len(list((tmp_path / "records").iterdir())) == len(experiments) > 1
