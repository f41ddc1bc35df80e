"""What the trace needs of the libraries is looked at first, and a library that changed is named with its version."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pytest
import torch

from pytest_finetune.memory.plan.figures import NotPlannedError, PlanError
from pytest_finetune.memory.plan.planner import WORKSPACES, _read
from pytest_finetune.memory.plan.workload import PLAIN_STEP, Adapter, Workload
from pytest_finetune.memory.tracer import ladders, premises, trace
from pytest_finetune.memory.tracer.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def asked_anew() -> Any:
    premises._broken.cache_clear()
    yield
    premises._broken.cache_clear()


def workloads(config: Mapping[str, Any]) -> list[Workload]:
    plain = Workload(config=config, tokens=16)
    narrow = Adapter(rank=4, dtype="bfloat16")
    return [
        plain,
        plain.changed(adapter=Adapter(rank=4, dora=True)),
        plain.changed(quantization="nf4", adapter=narrow),
        plain.changed(quantization="int8", adapter=narrow),
    ]


def test_every_premise_holds_with_the_installed_libraries(tiny_config: Mapping[str, Any]) -> None:
    for workload in workloads(tiny_config):
        premises.check(workload)
    asked = {premise.library for one in workloads(tiny_config) for premise in premises.premises_of(one)}
    assert asked == set(premises.LIBRARIES)


def test_a_step_of_ones_own_needs_nothing_of_trl(tiny_config: Mapping[str, Any]) -> None:
    own = Workload(config=tiny_config, tokens=16, step=PLAIN_STEP)
    assert {premise.library for premise in premises.premises_of(own)} == {"torch", "transformers"}


def test_a_library_that_changed_is_named_with_its_version(
    tiny_config: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    import trl.kernels.chunked_logprob as kernels

    monkeypatch.delattr(kernels, "_forward_tile")
    with pytest.raises(NotPlannedError, match=f"^trl {version('trl')} does not do .* in tiles") as told:
        premises.check(Workload(config=tiny_config, tokens=16))
    assert isinstance(told.value, PlanError)


def test_storages_that_die_out_of_sight_are_noticed(
    tiny_config: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    monkeypatch.setattr(Recorder, "_died", lambda recorder, key, number: None)
    with pytest.raises(NotPlannedError, match=r"^torch .* does not do .* is born and dies in sight"):
        premises.check(Workload(config=tiny_config, tokens=16))


def test_what_a_library_raises_while_it_is_traced_is_no_plan_and_tells_the_versions(
    tiny_config: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(trace, "make_optimizer", broken)
    (tree,) = ladders.climb([Workload(config=tiny_config, tokens=16)], WORKSPACES, None)
    answer = _read(tree)
    assert isinstance(answer, NotPlannedError)
    assert "RuntimeError: Tensor.item() cannot be called on meta tensors" in str(answer)
    assert f"torch {torch.__version__}" in str(answer)


def test_a_users_mistake_stays_one(tiny_config: Mapping[str, Any]) -> None:
    mistaken = Workload(config=tiny_config, tokens=16, optimizer="adamw_touch")
    (tree,) = ladders.climb([mistaken], WORKSPACES, None)
    answer = _read(tree)
    assert isinstance(answer, PlanError)
    assert not isinstance(answer, NotPlannedError)
