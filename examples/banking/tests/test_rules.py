"""What is a right answer? Each rule runs on every held-out question and every arm."""

import json

import pytest


@pytest.mark.eval_rule(min_rate=0.95)
def test_strict_json(response):
    assert set(json.loads(response.text)) == {"intent", "team"}


@pytest.mark.eval_rule(primary=True, min_gain=0.10, min_rate=0.6)
def test_intent(response, example):
    assert response.json()["intent"] == example.expected_json()["intent"]


@pytest.mark.eval_rule(min_rate=0.6)
def test_team(response, example):
    assert response.json()["team"] == example.expected_json()["team"]
