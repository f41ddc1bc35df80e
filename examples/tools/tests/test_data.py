"""Cheap checks that need no training; they run under plain `pytest`."""

import pytest


@pytest.mark.data_contract
def test_rows_keep_the_contract(contract, train_rows, eval_rows):
    assert contract.findings(train_rows, eval_rows) == []


@pytest.mark.data_contract
def test_this_is_a_fine_tuning_problem(charter):
    assert charter.findings() == []
