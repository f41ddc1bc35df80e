"""The promotion bundle, how it is signed, and every check of it."""
