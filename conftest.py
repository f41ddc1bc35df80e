"""Tests of a pytest plugin run pytest inside pytest."""

pytest_plugins = ["pytester"]
