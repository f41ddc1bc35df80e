from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.memory.hardware.detect import Budget, parse_budget
from pytest_finetune.memory.hardware.disk import DiskPlan, plan_disk
from pytest_finetune.memory.hardware.sizes import GiB, MiB
from pytest_finetune.memory.plan.workload import Adapter, Workload


def test_checkpoints_hold_adapter_optimizer_and_tokenizer(
    tiny_config: Mapping[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 1000)
    workload = Workload(config=tiny_config, tokens=64)
    plan = plan_disk(workload, 1_000_000, 2, tmp_path)
    assert plan.adapter_bytes == 4_000_000
    assert plan.checkpoint_bytes == 4_000_000 + 8_000_000 + 1000 + MiB
    assert plan.checkpoints_bytes == 3 * plan.checkpoint_bytes


def test_a_narrow_adapter_and_8_bit_states_write_less(tiny_config: Mapping[str, Any]) -> None:
    workload = Workload(
        config=tiny_config, tokens=64, adapter=Adapter(dtype="bfloat16"), optimizer="paged_adamw_8bit"
    )
    plan = plan_disk(workload, 1_000_000, 2, None)
    assert plan.adapter_bytes == 2_000_000
    assert plan.checkpoint_bytes == 2_000_000 + 2_040_000 + MiB


def test_a_full_disk_is_explained_with_the_change_that_helps() -> None:
    plan = DiskPlan(adapter_bytes=GiB, checkpoint_bytes=3 * GiB, kept=2, tokenizer_bytes=0)
    budget = Budget("card", "cuda", GiB, GiB, disk_free_bytes=5 * GiB)
    assert not plan <= budget
    lines = plan.explain(budget)
    assert lines[0] == "training does not fit on the disk: writes 11.0 GiB, 5.0 GiB are free"
    assert "training.save_total_limit 1 -> 8.0 GiB" in lines[2]


def test_room_enough_is_said() -> None:
    plan = DiskPlan(adapter_bytes=MiB, checkpoint_bytes=MiB, kept=1, tokenizer_bytes=0)
    assert plan <= GiB
    assert plan.explain(GiB)[0].startswith("training fits on the disk")


def test_a_named_card_has_no_disk() -> None:
    with pytest.raises(ValueError, match="no disk is known"):
        _ = DiskPlan(1, 1, 1, 1) <= parse_budget("rtx-4090")


@given(st.integers(0, 10**12), st.integers(0, 10), st.integers(1, 10))
def test_more_checkpoints_and_parameters_never_need_less(trainable: int, kept: int, more: int) -> None:
    workload = Workload(config={}, tokens=8)
    small, large = (plan_disk(workload, trainable, number, None) for number in (kept, kept + more))
    assert small.peak_bytes <= large.peak_bytes
    assert plan_disk(workload, trainable + more, kept, None).peak_bytes >= small.peak_bytes
