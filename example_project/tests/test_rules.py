"""The evaluation: each rule is written once and runs on every held-out ticket and every arm."""

import json

import pytest


@pytest.mark.eval_rule(min_rate=0.95)
def test_strict_json(response):
    assert set(json.loads(response.text)) == {"priority", "reason"}


@pytest.mark.eval_rule(primary=True, min_gain=0.10, min_rate=0.5)
def test_priority(response, example):
    assert response.json()["priority"] == example.expected_json()["priority"]


@pytest.mark.eval_rule
def test_stops_by_itself(response):
    assert response.stopped
