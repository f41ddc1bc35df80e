"""The terminal summary: at most 24 lines and a heading, the decision last."""

from pytest_finetune.record.views.terminal.layout import Line, cells
from pytest_finetune.record.views.terminal.summary import MAX_LINES, summary_lines

__all__ = ["MAX_LINES", "Line", "cells", "summary_lines"]
