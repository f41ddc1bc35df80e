"""The CUDA context: measured once a card, driver and torch, kept, and only believed where it is likely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_finetune.memory.hardware import context_probe, nvidia
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.cards import ADA
from pytest_finetune.memory.hardware.context import with_context
from pytest_finetune.memory.hardware.detect import parse_budget
from pytest_finetune.memory.hardware.sizes import GiB, MiB
from pytest_finetune.store import Store

CARD = Budget("NVIDIA L4", "cuda", 22 * GiB, 21 * GiB, driver="580.65", family=ADA)


def counting(says: int | None, asked: list[int]) -> Callable[[int], int | None]:
    def measure(index: int) -> int | None:
        asked.append(index)
        return says

    return measure


def test_a_context_is_measured_once_for_a_card_and_its_driver(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), list[int]()
    measure = counting(512 * MiB, asked)
    assert with_context(CARD, 1, store, measure).family.context_bytes == 512 * MiB
    again = with_context(replace(CARD, free_bytes=GiB), 1, store, measure)
    assert (again.family.context_bytes, again.family.name, asked) == (512 * MiB, "Ada", [1])
    with_context(replace(CARD, driver="590.1"), 1, store, measure)
    assert asked == [1, 1]


@pytest.mark.parametrize("says", [None, 0, -3 * GiB, 9 * GiB])
def test_what_is_no_context_is_not_believed_and_not_kept(tmp_path: Path, says: int | None) -> None:
    store, asked = Store(tmp_path), list[int]()
    for _ in range(2):
        assert with_context(CARD, 0, store, counting(says, asked)) == CARD
    assert asked == [0, 0]


def test_a_card_that_is_not_here_is_not_measured(tmp_path: Path) -> None:
    asked: list[int] = []
    named = parse_budget("h100")
    assert with_context(named, 0, Store(tmp_path), counting(GiB, asked)) == named
    assert (asked, named.family.context_bytes) == ([], 760 * MiB)


def test_the_context_is_what_the_card_lost_beside_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([CARD, replace(CARD, free_bytes=CARD.free_bytes - 700 * MiB)])
    monkeypatch.setattr(nvidia, "card", lambda index: next(readings))
    monkeypatch.setattr(context_probe, "_step", lambda device: 20 * MiB)
    assert context_probe.taken(0) == 680 * MiB
    monkeypatch.setattr(nvidia, "card", lambda index: None)
    assert context_probe.taken(0) is None
