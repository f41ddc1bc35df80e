"""The verdict: better than the base, better than a good prompt, and every rule held."""

import pytest


@pytest.mark.decision_rule
def test_adapter_earns_its_place(decision):
    assert decision.keep, decision


def test_beats_a_good_prompt(tuned, prompted):
    assert tuned["priority"].beats(prompted["priority"], by=0.05)
