"""The one base of every error that is the user's to mend."""

from __future__ import annotations


class FinetuneError(Exception):
    """The message is complete and for the user: a failed test or a command shows it without a traceback."""
