"""Tests of a pytest plugin run pytest inside pytest."""

# An in-process pytest forgets what it imported; what tests replace in our modules has to be there before. What every
# session of ours loads stays loaded for the next one, and extension modules refuse to be loaded twice.
import hypothesis.strategies  # noqa: F401
import jsonschema  # noqa: F401
import jsonschema_rs  # noqa: F401
import numpy.ma  # noqa: F401
import yaml  # noqa: F401

from pytest_finetune.suite import hooks  # noqa: F401

pytest_plugins = ["pytester"]
