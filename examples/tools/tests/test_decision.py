"""The verdict: better than the base, and every rule held."""

import pytest


@pytest.mark.decision_rule
def test_adapter_earns_its_place(decision):
    assert decision.keep, decision
