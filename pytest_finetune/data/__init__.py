"""Training data as a contract: rows that know their place, checks with ids, findings that explain.

Everything here reads files and gives values back. No model, no pytest, no clock.
"""
