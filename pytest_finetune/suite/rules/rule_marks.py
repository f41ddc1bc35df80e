"""The rules of an experiment, as they were collected: names, arguments, and a digest of what they say."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import pytest

from pytest_finetune.fingerprint import digest
from pytest_finetune.judging.rule import ARGUMENTS, Rule, mistakes
from pytest_finetune.suite.collection import PARAM, per_row_misuse
from pytest_finetune.suite.evidence import first_line, skip_reason
from pytest_finetune.suite.markers import MarkerMistake

if TYPE_CHECKING:
    from types import CodeType, FunctionType

_DEPTH = 4


def rule_of(item: pytest.Item) -> Rule:
    """Return the item's rule; MarkerMistake names the argument of its marker that is wrong, and what is allowed."""
    mark = item.get_closest_marker("eval_rule")
    if mark is None:
        raise MarkerMistake(
            f"{item.name}: it takes an answer, but it is not marked with @pytest.mark.eval_rule"
        )
    if mark.args:
        known = ", ".join(ARGUMENTS)
        raise MarkerMistake(f"eval_rule takes keyword arguments only, found {mark.args[0]!r}; known: {known}")
    for mistake in mistakes(mark.kwargs):
        raise MarkerMistake(mistake)
    given = mark.kwargs.get("name")
    return Rule.of_json(f"{given}{_parameters(item)}" if given else _default_name(item), mark.kwargs)


def _default_name(item: pytest.Item) -> str:
    name = getattr(item, "originalname", None) or item.name
    return f"{name.removeprefix('test_')}{_parameters(item)}"


def _parameters(item: pytest.Item) -> str:
    """Return ``[id]`` of the user's own parameters, ours left out."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return ""
    ids = list(callspec._idlist)
    experiment = getattr(callspec.params.get(PARAM), "name", None)
    if experiment in ids:
        del ids[len(ids) - 1 - ids[::-1].index(experiment)]
    return f"[{'-'.join(ids)}]" if ids else ""


def rules_of(items: Iterable[pytest.Item]) -> dict[str, tuple[Rule, pytest.Item]]:
    """Map rule names to rules; what has a mistake or a taken name is left out and fails on its own."""
    found: dict[str, tuple[Rule, pytest.Item]] = {}
    for item in items:
        try:
            rule = rule_of(item)
        except MarkerMistake:
            continue
        found.setdefault(rule.name, (rule, item))
    return found


def duplicate(item: pytest.Item, items: Iterable[pytest.Item]) -> str | None:
    """Return what to say when another rule of the experiment has this item's name."""
    names: Counter[str] = Counter()
    for other in items:
        try:
            names[rule_of(other).name] += 1
        except MarkerMistake:
            continue
    name = rule_of(item).name
    if names[name] < 2:
        return None
    return f"{names[name]} rules have the name {name!r}: rename a function, or give eval_rule(name=...)"


def facts_of(items: Sequence[pytest.Item]) -> dict[str, dict[str, object]]:
    """Return the record's form of all rules before they run, with the reason of those that never will."""
    found = {}
    for name, (rule, item) in rules_of(items).items():
        why = duplicate(item, items) or per_row_misuse(item)
        found[name] = {**rule_facts(rule, item), "reasons": [why] if why else []}
    for item in items:
        try:
            rule_of(item)
        except MarkerMistake as mistake:
            mark = item.get_closest_marker("eval_rule")
            meant = Rule(_default_name(item), primary=mark is not None and mark.kwargs.get("primary") is True)
            why = per_row_misuse(item) if mark is None else f"its marker is wrong: {mistake}"
            found.setdefault(meant.name, {**rule_facts(meant, item), "reasons": [why]})
    return found


def bad_rules(items: Sequence[pytest.Item], turns: str = "last", *, decided: bool) -> list[str]:
    """Return, a sentence each, why the rules of an experiment cannot judge, as far as their text tells.

    `turns` says which answers of a held-out conversation are asked for.
    """
    told = facts_of(items)
    said = [
        f"rule {name!r} was not run: {why}"
        for name, facts in told.items()
        for why in cast("list[str]", facts["reasons"])
    ]
    said += [wrong for _, item in rules_of(items).values() if (wrong := unclustered(item, turns))]
    primary = bad_primaries(items, decided=decided)
    return [*said, *([primary] if primary else [])]


def unclustered(item: pytest.Item, turns: str) -> str | None:
    """Return what is wrong with a rule that would count the answers of one conversation as independent."""
    rule = rule_of(item)
    if turns == "last" or rule.cluster is not None or rule.corpus:
        return None
    return (
        f"rule {rule.name!r} would count every answer of a conversation as a row of its own, which they are not: with "
        "prompt.turns: each write cluster='group' in its eval_rule"
    )


def bad_primaries(items: Sequence[pytest.Item], *, decided: bool) -> str | None:
    """Return what is wrong with the marks of the primary rule; where something is `decided` there is one."""
    marks = [(item, item.get_closest_marker("eval_rule")) for item in items]
    primary = [item for item, mark in marks if mark is not None and mark.kwargs.get("primary") is True]
    if len(primary) > 1:
        places = ", ".join(f"{_default_name(item)} ({_place(item)})" for item in primary)
        return f"{len(primary)} rules are primary: {places}; a decision is about one: keep one of the marks"
    if items and decided and not primary:
        places = ", ".join(f"{_default_name(item)} ({_place(item)})" for item in items[:5])
        return f"no rule is primary: mark the one that the decision is about with eval_rule(primary=True), of {places}"
    return None


def _place(item: pytest.Item) -> str:
    file, line, _ = item.location
    return file if line is None else f"{file}:{line + 1}"


def not_set_up(item: pytest.Item, report: pytest.TestReport) -> tuple[str, str] | None:
    """Return the name of a rule whose set-up did not end well, and why; None where it did or was never meant."""
    if report.when != "setup" or report.passed:
        return None
    try:
        name = rule_of(item).name
    except MarkerMistake:
        return None
    if report.skipped:
        return name, f"it was skipped: {skip_reason(report)}"
    return name, first_line(report).removeprefix("Failed: ")


def rule_facts(rule: Rule, item: pytest.Item) -> dict[str, object]:
    """Return the record's form of a rule that has not run yet."""
    told = replace(rule, sha256=rule_digest(item)).as_json()
    return {"nodeid": item.nodeid, **told, "outcome": "not run", "reasons": []}


def rule_digest(item: pytest.Item, *, asked: bool = True) -> str:
    """Digest what the rule says: its arguments, its parameters, its code and that of the helpers it calls.

    Comments, formatting and docstrings do not count, nor where people's labels lie: only what can change a judgement.
    What is `asked` of the rule's rates changes no single verdict, so that those can be known without it.
    """
    mark = item.get_closest_marker("eval_rule")
    function = inspect.unwrap(cast("pytest.Function", item).function)
    parameters = {
        key: repr(value)
        for key, value in getattr(getattr(item, "callspec", None), "params", {}).items()
        if key != PARAM
    }
    said = {
        "arguments": {
            key: repr(value)
            for key, value in (mark.kwargs if mark and asked else {}).items()
            if key != "labels"
        },
        "parameters": parameters,
        "code": sorted(_codes(function, _DEPTH)),
    }
    return digest(said)


def _codes(function: FunctionType, depth: int, seen: set[int] | None = None) -> list[str]:
    """Return the normalised source of a function and of the project's functions that it names."""
    seen = set() if seen is None else seen
    if id(function) in seen:
        return []
    seen.add(id(function))
    codes = [_normalised(function), *_closed_over(function, depth, seen)]
    if depth:
        for name in sorted(_names(function.__code__)):
            value = function.__globals__.get(name)
            if inspect.isfunction(value) and _followed(value):
                codes += _codes(value, depth - 1, seen)
            elif (
                isinstance(value, (str, int, float, bool, tuple, frozenset, list, dict, set))
                and name.isupper()
            ):
                codes.append(f"{name}={_stable(value)}")
    return codes


def _followed(function: FunctionType) -> bool:
    """Tell whether a helper's text is part of a rule: the project's own and that of ready rules, no other library's."""
    if function.__module__.startswith("pytest_finetune."):
        return function.__module__.startswith("pytest_finetune.rules")
    return "site-packages" not in function.__code__.co_filename


def _closed_over(function: FunctionType, depth: int, seen: set[int]) -> list[str]:
    """Return what a function made by another one holds: the parameters of a ready rule, or of a factory of yours."""
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        value = cell.cell_contents
        if inspect.isfunction(value):
            found += _codes(value, depth - 1, seen) if depth and _followed(value) else []
        elif isinstance(value, re.Pattern):
            found.append(f"{name}={value.pattern!r}, {value.flags}")
        elif value is None or isinstance(value, (str, int, float, bool, tuple, frozenset, list, dict, set)):
            found.append(f"{name}={_stable(value)}")
    return found


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= _names(constant)
    return names


# Looks know a ready rule by its digest, so the helper that many of them call is digested as it was written first, with
# the name that the module of its error had then.
_AT_FIRST: Final = {
    "pytest_finetune.rules.making.broken": """
def broken(message: str) -> Exception:
    from pytest_finetune.suite.items.broken_rules import RuleBroken

    return RuleBroken(message)
"""
}


def _stable(value: object) -> str:
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(repr, value)))}}}"
    if isinstance(value, Mapping):
        return repr(sorted(value.items(), key=repr))
    return repr(value)


def _normalised(function: FunctionType) -> str:
    try:
        source = _AT_FIRST.get(f"{function.__module__}.{function.__name__}") or inspect.getsource(function)
        tree = ast.parse(textwrap.dedent(source))
    except (OSError, TypeError, SyntaxError):
        return function.__code__.co_code.hex() + repr(function.__code__.co_consts)
    node = tree.body[0]
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = []
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(node)
