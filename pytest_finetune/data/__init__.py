"""Training data as a contract: rows that know their place, checks with stable ids, findings that explain themselves.

Everything here reads files and gives values back. No model, no pytest, no clock.
"""
