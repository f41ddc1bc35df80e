"""The headline is one sentence in plain words, and the exact sentence stands below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_finetune.record.headline import Headline, headline
from pytest_finetune.record.model import RecordedRun


def of(record: Any) -> Headline:
    run = RecordedRun.of(record)
    return headline(run.experiments[0], run)


def plain(record: Any) -> str:
    return of(record).reason


@pytest.fixture
def kept(make: Callable[[str], Any]) -> Any:
    """A record whose first reason is the sentence of the comparison with the base, as a decision writes it."""
    record = make("keep").record
    run = record["experiments"][0]
    base = next(
        one for one in run["comparisons"] if (one["rule"], one["against"]) == ("priority", "baseline")
    )
    run["decision"]["reasons"][0] = base["sentence"] = (
        "priority: a gain is demonstrated: 152 of 160 rows pass"
    )
    return record


def told(record: Any, **comparison: Any) -> str:
    """Return the headline of a run that was not kept, whose comparison with the base came out so."""
    run = record["experiments"][0]
    base = next(
        one for one in run["comparisons"] if (one["rule"], one["against"]) == ("priority", "baseline")
    )
    base.update(comparison)
    run["decision"] |= {"verdict": "iterate", "keep": False, "alpha": 0.025}
    return plain(record)


def test_a_keep_says_rates_gain_and_what_was_asked_for(kept: Any) -> None:
    assert plain(kept) == (
        "Right on 95% of 160 rows (priority); the base model on 1%, the prompt alone on 58%. "
        "Gain over the base model 94 points (79 to 100), 10 were asked."
    )
    said = of(kept)
    assert said.exact == "priority: a gain is demonstrated: 152 of 160 rows pass"


@pytest.mark.parametrize(
    ("comparison", "end"),
    [
        ({"verdict": "worse", "gain": -0.1, "interval": [-0.2, -0.02]}, "It is worse than the base model."),
        (
            {"verdict": "excluded", "gain": 0.01, "interval": [-0.02, 0.04]},
            "A gain of 10 points is ruled out.",
        ),
        (
            {"verdict": "not demonstrated", "gain": 0.06, "interval": [0.01, 0.11], "p_value": 0.01},
            "A gain is proven, but a smaller one than was asked.",
        ),
        (
            {"verdict": "not demonstrated", "gain": 0.15, "interval": [-0.02, 0.3], "p_value": 0.06},
            "Gain over the base model 15 points (-2 to 30), 10 were asked. These rows do not prove it.",
        ),
        (
            {"verdict": "not demonstrated", "gain": 0.05, "interval": [-0.1, 0.2], "p_value": 0.4},
            "These rows neither prove such a gain nor rule it out.",
        ),
    ],
)
def test_what_was_not_kept_says_what_the_comparison_came_to(
    kept: Any, comparison: dict[str, Any], end: str
) -> None:
    assert told(kept, **comparison).endswith(end)


def test_another_reason_than_the_comparison_is_named_by_its_first_words(kept: Any) -> None:
    kept["experiments"][0]["decision"]["reasons"] = ["rule strict_json fails: min_rate: 5 of 160 rows pass"]
    assert told(kept).endswith("10 were asked. But: rule strict_json fails.")


def test_a_gain_that_rounds_to_what_was_asked_is_told_with_its_decimal(kept: Any) -> None:
    said = told(kept, verdict="not demonstrated", gain=0.097, interval=[0.02, 0.17], p_value=0.01)
    assert "Gain over the base model 9.7 points (2 to 17), 10 were asked." in said


@pytest.mark.parametrize(
    ("change", "following"),
    [
        ({"exit_status": 1}, "mend the failed tests, then promote with --finetune-promote"),
        (
            {"notes": ["narrowed run: -k x"]},
            "run the whole suite and promote with --finetune-promote",
        ),
        ({"command": "pytest --finetune --finetune-promote"}, "check the bundle where it will be served: *"),
        ({}, "weigh the risks, then promote with --finetune-promote"),
    ],
)
def test_a_keep_says_what_to_do_now(kept: Any, change: dict[str, Any], following: str) -> None:
    kept |= {"exit_status": 0, "notes": []} | change
    said = of(kept)
    assert said.label == "next"
    assert said.next.startswith(following.removesuffix("*"))


def test_an_undecided_run_keeps_its_reason(kept: Any) -> None:
    kept["experiments"][0]["decision"] |= {"undecided": True, "reasons": ["no rule is primary"]}
    assert plain(kept) == "no rule is primary"
