"""Are the rows what the contract says? No model is needed; `pytest` runs this in a second."""

import pytest


@pytest.mark.data_contract
def test_rows_keep_the_contract(contract, train_rows, eval_rows):
    assert contract.findings(train_rows, eval_rows) == []
