"""The pytest side: how tests of an experiment are found, ordered, gated, run and closed."""
