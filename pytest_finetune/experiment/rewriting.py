"""Write values into the text of an experiment file: comments and everything else stay as their author left them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pytest_finetune.experiment.records import ExperimentError
from pytest_finetune.yamlfile import parse_yaml

_STEP: Final = "  "


class _Edit(NamedTuple):
    """Replace the text between two places."""

    start: int
    end: int
    text: str


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """Return an experiment's text with dotted keys set to values; ExperimentError where a value finds no place.

    >>> with_values("lora: {r: 8}  # small", {"lora.r": 4, "lora.alpha": 16})
    'lora: {alpha: 16, r: 4}  # small'
    """
    for key, value in values.items():
        text = _with_value(text, key, value)
        at: Any = parse_yaml(text, "the experiment").tree
        for name in key.split("."):
            at = at.get(name) if isinstance(at, Mapping) else None
        if at != value:
            raise ExperimentError(
                f"{key}: {value!r} cannot be written into the experiment's file: write it by hand"
            )
    return text


def _with_value(text: str, key: str, value: object) -> str:
    import yaml

    edit = _edit(text, yaml.compose(text, yaml.SafeLoader), key.split("."), _written(value))
    return text[: edit.start] + edit.text + text[edit.end :]


def _edit(text: str, node: Any, path: list[str], written: str) -> _Edit:
    """Find the place of a value: its own, or the beginning of the nearest section that is there."""
    name, *rest = path
    for known, child in node.value:
        if known.value == name:
            if rest and isinstance(child.value, list) and child.id == "mapping" and child.value:
                return _edit(text, child, rest, written)
            new = _nested(rest, written)
            return _Edit(child.start_mark.index, child.end_mark.index, new)
    line = f"{name}: {_nested(rest, written)}"
    first = node.value[0][0].start_mark
    if node.flow_style:
        return _Edit(first.index, first.index, f"{line}, ")
    return _Edit(first.index, first.index, f"{line}\n{' ' * first.column}")


def _nested(path: list[str], written: str) -> str:
    for name in reversed(path):
        written = f"{{{name}: {written}}}"
    return written


def _written(value: object) -> str:
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
