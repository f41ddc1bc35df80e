"""Runs of single tests: a decision asked for alone brings the rules that it needs, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.suite import collection
from pytest_finetune.suite.markers import ExperimentRef, Stage

if TYPE_CHECKING:
    from pytest_finetune.suite.session import FinetuneSession

_LAST_RULES = "rule-files"


def bring_rule_files(state: FinetuneSession) -> None:
    """Add the files that hold rules to the arguments of a run that names paths.

    What was not asked for and is not needed is dropped again after collection (`settle`).
    """
    config = state.config
    if (
        not (state.settings.finetune and state.brings_rules)
        or config.args_source is not pytest.Config.ArgsSource.ARGS
    ):
        return
    if config.option.pyargs or _stateful(config):
        return
    asked = collection.asked_for(config.args, config.invocation_params.dir)
    state.asked_for = asked
    config.args = [*config.args, *_rule_files(state)]


def _rule_files(state: FinetuneSession) -> list[str]:
    root = state.config.rootpath
    last = state.store.last(_LAST_RULES) or {}
    files = [root / name for name in last.get("files", ())]
    known = [str(file) for file in files if file.is_file()]
    if known:
        return known
    whole = [root / path for path in state.config.getini("testpaths")]
    return [str(path) for path in whole if path.exists()] or [str(root)]


def settle(state: FinetuneSession, items: list[pytest.Item], collected: list[pytest.Item]) -> None:
    """Drop what was only brought along and is not needed, restore needed rules, and put the stages in order."""
    config = state.config
    _remember_rules(state, collected)
    kept = list(items)
    if state.asked_for is not None:
        kept = [item for item in items if state.asked_for(item)]
        collected = [item for item in collected if item in set(kept) or _is_rule(item)]
    if not _stateful(config):
        restored = collection.missing_rules(kept, collected)
        restored = [item for item in restored if not _named(item, config.option.deselect)]
        state.brought |= {item.nodeid for item in restored}
        _undeselect(config, restored)
        kept += restored
    dropped = [item for item in items if item not in set(kept)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    items[:] = collection.ordered(kept, state.refs)


def _is_rule(item: pytest.Item) -> bool:
    place = collection.place_of(item)
    return place is not None and place.stage is Stage.RULES


def _named(item: pytest.Item, deselected: Any) -> bool:
    return any(item.nodeid.startswith(prefix) for prefix in deselected or ())


def _remember_rules(state: FinetuneSession, collected: list[pytest.Item]) -> None:
    rules: dict[ExperimentRef, list[pytest.Item]] = {}
    for item in collected:
        place = collection.place_of(item)
        if place is not None and place.stage is Stage.RULES and place.experiment is not None:
            rules.setdefault(place.experiment, []).append(item)
    state.rule_items = rules


def _undeselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not items:
        return
    back = set(items)
    reporter.stats["deselected"] = [item for item in reporter.stats.get("deselected", []) if item not in back]
    if not reporter.stats["deselected"]:
        del reporter.stats["deselected"]


def _stateful(config: pytest.Config) -> bool:
    """Tell whether ``--lf`` or ``--sw`` chooses the tests: what they leave out is not ours to bring back."""
    return bool(getattr(config.option, "lf", False) or getattr(config.option, "stepwise", False))
