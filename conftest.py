"""Tests of a pytest plugin run pytest inside pytest."""

# An in-process pytest forgets what it imported; what tests replace in our modules has to be there before.
from pytest_finetune.suite import hooks  # noqa: F401

pytest_plugins = ["pytester"]
