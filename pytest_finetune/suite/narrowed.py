"""Runs of single tests: a decision asked for alone brings the rules that it needs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pytest

from pytest_finetune.suite import collection
from pytest_finetune.suite.markers import ExperimentRef, Stage

_LAST_RULES: Final = "rule-files"


class Selection:
    """Which of the collected tests run, and in which order; `rules` are all rule items, selected or not."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.given: Sequence[str] = tuple(map(str, config.args))
        self._asked: Callable[[pytest.Item], bool] | None = None
        self.rules: Mapping[ExperimentRef, Sequence[pytest.Item]] = {}
        self._decided: set[ExperimentRef] = set()

    def bring_rule_files(self, last: Callable[[str], Mapping[str, Any] | None]) -> None:
        """Add the files that hold rules to the arguments of a run that names paths.

        `last` recalls what the store knows of the run before. What was not asked for and is not needed is dropped
        again after collection (`settle`).
        """
        config = self._config
        if (
            config.args_source is not pytest.Config.ArgsSource.ARGS
            or config.option.pyargs
            or _stateful(config)
        ):
            return
        self._asked = collection.asked_for(config.args, config.invocation_params.dir)
        config.args = [*config.args, *self._rule_files(last(_LAST_RULES) or {})]

    def _rule_files(self, last: Mapping[str, Any]) -> list[str]:
        root = self._config.rootpath
        files = [root / name for name in last.get("files", ())]
        known = [str(file) for file in files if file.is_file()]
        if known:
            return known
        whole = [root / path for path in self._config.getini("testpaths")]
        return [str(path) for path in whole if path.exists()] or [str(root)]

    def settle(
        self, items: list[pytest.Item], collected: Sequence[pytest.Item], refs: Sequence[ExperimentRef]
    ) -> None:
        """Drop what was only brought along and is not needed, restore needed rules, and put the stages in order."""
        config = self._config
        self.rules = _rules(collected)
        self._decided = set() if _stateful(config) else _decided(collected)
        kept = list(items)
        if self._asked is not None:
            kept = [item for item in items if self._asked(item)]
            collected = [item for item in collected if item in set(kept) or _is_rule(item)]
        if not _stateful(config):
            restored = collection.missing_rules(kept, collected)
            restored = [item for item in restored if not _named(item, config.option.deselect)]
            _undeselect(config, restored)
            kept += restored
        dropped = [item for item in items if item not in set(kept)]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
        items[:] = collection.ordered(kept, refs)

    def decides(self, ref: ExperimentRef) -> bool:
        """Tell whether a decision was collected for an experiment, and with it all of its rules."""
        return ref in self._decided


def _decided(collected: Sequence[pytest.Item]) -> set[ExperimentRef]:
    places = filter(None, map(collection.place_of, collected))
    return {place.experiment for place in places if place.stage is Stage.DECISION and place.experiment}


def _is_rule(item: pytest.Item) -> bool:
    place = collection.place_of(item)
    return place is not None and place.stage is Stage.RULES


def _named(item: pytest.Item, deselected: Any) -> bool:
    return any(item.nodeid.startswith(prefix) for prefix in deselected or ())


def _rules(collected: Sequence[pytest.Item]) -> Mapping[ExperimentRef, Sequence[pytest.Item]]:
    rules: dict[ExperimentRef, list[pytest.Item]] = {}
    for item in collected:
        place = collection.place_of(item)
        if place is not None and place.stage is Stage.RULES and place.experiment is not None:
            rules.setdefault(place.experiment, []).append(item)
    return rules


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
