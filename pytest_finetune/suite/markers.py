"""Markers and stages: what a test is about, and when its turn comes."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Final, NamedTuple

import pytest

from pytest_finetune.errors import FinetuneError
from pytest_finetune.experiment import ExperimentError


class Stage(enum.IntEnum):
    """The order in which tests of an experiment run; `DATA` and `FIT` need no model."""

    DATA = 0
    FIT = 1
    BASELINE = 2
    TRAINING = 3
    RULES = 4
    COMPARISON = 5
    DECISION = 6

    @property
    def word(self) -> str:
        """Return the stage's name as it stands in messages and in the record."""
        return self.name.lower()

    @property
    def needs_model(self) -> bool:
        """Tell whether tests of this stage load, train or ask a model."""
        return self >= Stage.BASELINE


MARKER_STAGES: Final = {
    "decision_rule": Stage.DECISION,
    "eval_rule": Stage.RULES,
    "oom_fit": Stage.FIT,
    "data_contract": Stage.DATA,
}
# The latest stage among the fixtures that a test asks for is its stage.
FIXTURE_STAGES: Final[Mapping[str, Stage]] = {
    "experiment": Stage.DATA,
    "charter": Stage.DATA,
    "contract": Stage.DATA,
    "train_rows": Stage.DATA,
    "eval_rows": Stage.DATA,
    "gpu_budget": Stage.FIT,
    "memory_plan": Stage.FIT,
    "disk_budget": Stage.FIT,
    "base_model": Stage.BASELINE,
    "trained_adapter": Stage.TRAINING,
    "baseline": Stage.COMPARISON,
    "prompted": Stage.COMPARISON,
    "tuned": Stage.COMPARISON,
    "arms": Stage.COMPARISON,
    "runtime_match": Stage.COMPARISON,
    "drift": Stage.COMPARISON,
    "decision": Stage.DECISION,
}
PER_ROW: Final = frozenset({"response", "example", "score", "confusion"})
WHOLE: Final = frozenset({"responses", "examples", "score"})


class MarkerMistake(FinetuneError, ValueError):
    """A marker has invalid or contradictory arguments; the item fails with this message."""


class ExperimentRef(NamedTuple):
    """Which experiment a test is about: a file and dotted overrides, as a hashable pair."""

    file: str
    overrides: tuple[tuple[str, object], ...] = ()

    @property
    def name(self) -> str:
        """Return a short name: the file without its ending, and what is overridden."""
        stem = self.file.rsplit(".", 1)[0] if self.file.endswith((".yaml", ".yml")) else self.file
        changed = ",".join(f"{key}={value}" for key, value in self.overrides)
        return f"{stem}[{changed}]" if changed else stem


def experiment_ref(mark: pytest.Mark) -> ExperimentRef:
    """Read ``finetune("file.yaml", **overrides)``; nested mappings become dotted keys."""
    if len(mark.args) != 1 or not isinstance(mark.args[0], str):
        raise MarkerMistake(f"finetune{mark.args!r}: name one experiment file, as in finetune('small.yaml')")
    flat = tuple(sorted(_flatten(mark.kwargs), key=lambda pair: pair[0]))
    return ExperimentRef(PurePath(mark.args[0]).as_posix(), flat)


def refuse_one_name(known: Iterable[ExperimentRef], ref: ExperimentRef) -> None:
    """Refuse an experiment that would be told by the name of another: each would count the other's evidence as its own.

    Raises ExperimentError.
    """
    if other := next((one.file for one in known if one.name == ref.name and one.file != ref.file), None):
        raise ExperimentError(
            f"{other} and {ref.file} would both be called {ref.name!r}: rename one of the files"
        )


def _flatten(tree: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{dotted}.")
        else:
            pairs.append((dotted, tuple(value) if isinstance(value, list) else value))
    return pairs


def stage_of(item: pytest.Item) -> Stage | None:
    """Return the item's stage, or None when it is not ours."""
    for name, stage in MARKER_STAGES.items():
        if item.get_closest_marker(name) is not None:
            return stage
    asked = [FIXTURE_STAGES[name] for name in our_fixtures(item) if name in FIXTURE_STAGES]
    if asked:
        return max(asked)
    return Stage.RULES if (PER_ROW | WHOLE) & our_fixtures(item) else None


def our_fixtures(item: pytest.Item) -> frozenset[str]:
    """Return the names in the item's fixture closure that resolve to this plugin's own definitions."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return frozenset()
    return frozenset(
        name
        for name, definitions in info.name2fixturedefs.items()
        if definitions and is_ours(definitions[-1])
    )


def is_ours(definition: pytest.FixtureDef[object]) -> bool:
    """Tell whether a fixture definition is this plugin's."""
    return getattr(definition.func, "__module__", "") == "pytest_finetune.fixtures"
