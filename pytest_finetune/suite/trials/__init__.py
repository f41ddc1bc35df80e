"""Trials: an experiment with some settings overridden, trained, and judged on the development rows alone."""
