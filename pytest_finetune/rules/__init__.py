"""Ready rules, a line each in a test file of yours.

::

    from pytest_finetune import rules

    test_strict_json = rules.strict_json(min_rate=0.95)
    test_priority = rules.label_agreement("priority", primary=True, min_gain=0.10)
    test_stops = rules.stops_by_itself()

Each one makes an ordinary test function with the `eval_rule` marker on it: keyword arguments that a rule does not take
itself are the marker's (`min_rate`, `primary`, `suite`, ...), and with none of them it is a guard. Its name is that of
the variable, without `test_`. Another parameter is another rule text, so changing one after a look is marked.
"""

from __future__ import annotations

from pytest_finetune.rules.copying import no_training_text
from pytest_finetune.rules.fields import field_f1
from pytest_finetune.rules.judge import judge
from pytest_finetune.rules.labels import allowed_label, exact_match, field_equals, label_agreement
from pytest_finetune.rules.running import latency, length, stops_by_itself
from pytest_finetune.rules.shape import matches_pattern, no_prose_around_json, output_schema, strict_json
from pytest_finetune.rules.style import chrf, reading_grade, rouge, similar
from pytest_finetune.rules.tools import tool_arguments, tool_called
from pytest_finetune.rules.whole import calibration, macro_f1, no_label_collapse

__all__ = [
    "allowed_label",
    "calibration",
    "chrf",
    "exact_match",
    "field_equals",
    "field_f1",
    "judge",
    "label_agreement",
    "latency",
    "length",
    "macro_f1",
    "matches_pattern",
    "no_label_collapse",
    "no_prose_around_json",
    "no_training_text",
    "output_schema",
    "reading_grade",
    "rouge",
    "similar",
    "stops_by_itself",
    "strict_json",
    "tool_arguments",
    "tool_called",
]
