"""The verdict: better than the base, than a good prompt, than the base under a grammar, and than chance."""

import pytest


@pytest.mark.decision_rule
def test_adapter_earns_its_place(decision):
    assert decision.keep, decision
