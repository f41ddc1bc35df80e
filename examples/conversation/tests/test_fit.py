"""Will it fit? No GPU is needed to know, and no weights are loaded."""

import pytest


@pytest.mark.oom_fit
def test_training_fits_the_card(memory_plan, gpu_budget):
    assert memory_plan <= gpu_budget
