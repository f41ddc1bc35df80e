"""The planner: what is stored is not traced again, and a ladder is climbed only as far as it must be."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.fingerprint import Key
from pytest_finetune.memory.plan import planner as planning
from pytest_finetune.memory.plan.figures import Figures, Held, PlanError
from pytest_finetune.memory.plan.planner import Answer, Limit, Planner, plan_key, trace_elsewhere
from pytest_finetune.memory.plan.weights import Files
from pytest_finetune.memory.plan.workload import Adapter, Workload
from pytest_finetune.store import Store
from tests.tracing import trace_here


def figures(size: int) -> Figures:
    return Figures(
        held={8320 * 1024: Held(size, size, size)},
        parts={},
        phase="forward",
        layer=None,
        phases={},
        parameters=1,
        trainable=1,
        resident=1,
        traced_layers=1,
        layers=1,
    )


class Tracing:
    """A stand-in for the tracing process: a workload needs as many bytes as it has tokens."""

    def __init__(self) -> None:
        self.traced: list[int] = []
        self.checked: list[Path] = []

    def __call__(
        self, ladders: Sequence[Sequence[Workload]], limit: Limit | None, base: Path | None = None
    ) -> list[list[Answer]]:
        self.checked += [] if base is None else [base]
        self.traced += [workload.tokens for ladder in ladders for workload in ladder]
        return [[figures(workload.tokens) for workload in ladder] for ladder in ladders]


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> Tracing:
    tracing = Tracing()
    monkeypatch.setattr(planning, "trace_elsewhere", tracing)
    return tracing


def test_a_workload_is_traced_once_whoever_asks(tracing: Tracing, tmp_path: Path) -> None:
    workload = Workload(config={}, tokens=64)
    for _ in range(2):
        assert Planner(Store(tmp_path)).each([workload]) == [figures(64)]
    assert tracing.traced == [64]


def test_the_files_of_a_base_are_looked_at_once_also_where_its_step_was_traced_before(
    tracing: Tracing, tmp_path: Path
) -> None:
    files = Files("model", tmp_path / "model", Key.of({"files": 1}))
    Planner(Store(tmp_path)).each([Workload(config={}, tokens=64)])
    for tokens in (64, 64, 32):
        Planner(Store(tmp_path)).each([Workload(config={}, tokens=tokens)], files)
    assert (tracing.traced, tracing.checked) == ([64, 32], [files.folder])


def test_without_a_store_figures_live_as_long_as_the_planner(tracing: Tracing) -> None:
    planner = Planner(None)
    planner.each([Workload(config={}, tokens=64)])
    planner.each([Workload(config={}, tokens=64)])
    assert tracing.traced == [64]


def test_a_known_rung_that_is_enough_ends_the_climb(tracing: Tracing) -> None:
    planner = Planner(None)
    ladder = [Workload(config={}, tokens=tokens) for tokens in (512, 256, 128)]
    for tokens in (512, 128):
        planner.each([Workload(config={}, tokens=tokens)])
    planner.climb([ladder], Limit(8320 * 1024, 600))
    assert tracing.traced == [512, 128]
    planner.climb([ladder], Limit(8320 * 1024, 300))
    assert 256 in tracing.traced


def test_a_known_strongest_rung_that_is_not_enough_ends_the_climb(tracing: Tracing) -> None:
    planner = Planner(None)
    ladder = [Workload(config={}, tokens=tokens) for tokens in (512, 256, 128)]
    planner.each([ladder[-1]])
    planner.climb([ladder], Limit(8320 * 1024, 100))
    assert tracing.traced == [128]


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": 65},
        {"batch": 2},
        {"adapter": Adapter(rank=9)},
        {"config": {"vocab_size": 7}},
        {"optimizer": "sgd"},
    ],
)
def test_every_field_of_a_workload_is_in_its_key(changes: Mapping[str, Any]) -> None:
    workload = Workload(config={}, tokens=64)
    assert plan_key(workload) != plan_key(workload.changed(**changes))


def test_a_workload_survives_its_journey_through_json() -> None:
    workload = Workload(config={"vocab_size": 7}, tokens=64, adapter=Adapter(targets=("q_proj", "v_proj")))
    assert Workload.from_json(workload.as_json()) == workload
    assert Figures.from_json(figures(3).as_json()) == figures(3)


def test_the_tracing_process_climbs_from_both_ends(shallow_config: Mapping[str, Any]) -> None:
    ladder = [Workload(config=shallow_config, tokens=tokens, batch=4) for tokens in (256, 64, 16)]
    bad = Workload(config={"model_type": "llama9"}, tokens=8)
    narrow = Workload(config=shallow_config, tokens=64, quantization="nf4", checkpointing=True)
    workspace = planning.WORKSPACES[0]
    ladders = [ladder, [bad], [narrow]]
    ((mild, middle, strong), (error,), leaner) = trace_elsewhere(ladders, Limit(workspace, 10**12))
    assert isinstance(mild, Figures)
    assert middle is None
    assert isinstance(strong, Figures)
    assert strong.with_workspace(workspace).smallest < mild.with_workspace(workspace).smallest
    assert isinstance(error, PlanError)
    # Here the libraries are whole: what that process leaves out of them changes no byte.
    assert [[mild], leaner] == trace_here([[ladder[0]], [narrow]], None)


def test_a_step_that_breaks_in_a_library_gives_the_librarys_words() -> None:
    broken = {"model_type": "llama", "hidden_size": "wide", "num_hidden_layers": 2}
    with pytest.raises(PlanError, match=r"the step could not be traced: \w+: .*wide"):
        Planner(None).each([Workload(config=broken, tokens=8)])


def test_a_tracing_process_that_fails_as_a_whole_is_a_plan_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(PlanError, match="the memory trace failed: it ended without a word"):
        trace_elsewhere([[Workload(config={}, tokens=8)]], None)
