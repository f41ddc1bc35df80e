from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.memory.hardware.cards import CARDS, HOPPER, TURING, UNKNOWN, UnknownCardError, family_of
from pytest_finetune.memory.hardware.detect import Budget, Process, detect, device_class, parse_budget
from pytest_finetune.memory.hardware.sizes import GiB, SizeError, parse_share, parse_size
from pytest_finetune.wording import size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * GiB),
        ("24GB", 24 * 10**9),
        (" 1.5 gib ", GiB + GiB // 2),
        ("512 MiB", GiB // 2),
        ("7b", 7),
    ],
)
def test_a_size_has_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8", "has no unit"),
        ("8 GiG", "is not a unit"),
        ("0GiB", "larger than zero"),
        ("-1GiB", "is not a size"),
        ("8,5GiB", "'8,5GiB' is not a size: write 8.5GiB, with a point"),
        ("9" * 400 + "GiB", "nothing is that large"),
    ],
)
def test_a_size_that_cannot_be_read_says_what_can(text: str, says: str) -> None:
    with pytest.raises(SizeError, match=says):
        parse_size(text)


@pytest.mark.parametrize(("text", "share"), [("8%", 0.08), ("0.08", 0.08), (" 12.5 % ", 0.125), ("0", 0.0)])
def test_a_share_is_a_percentage_or_a_fraction(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


def test_a_share_with_a_decimal_comma_is_told_with_its_point() -> None:
    with pytest.raises(SizeError, match=r"'8,5%' is not a share: write 8\.5%, with a point"):
        parse_share("8,5%")


@pytest.mark.parametrize("text", ["8", "100%", "1.0", "-1%", "much", ""])
def test_what_is_no_share_of_the_card_says_how_to_write_one(text: str) -> None:
    with pytest.raises(SizeError, match=r"is not a share: write 8% or 0\.08"):
        parse_share(text)


@given(st.integers(min_value=1, max_value=10**15))
def test_bytes_survive_their_own_spelling(count: int) -> None:
    assert parse_size(f"{count}B") == count


def test_small_sizes_are_written_in_mib() -> None:
    assert size(700 * 1024**2) == "700 MiB"


@pytest.mark.parametrize("name", ["rtx-4090", "RTX 4090", "NVIDIA GeForce RTX 4090", "rtx_4090"])
def test_a_card_is_found_however_it_is_written(name: str) -> None:
    assert parse_budget(name).name == "NVIDIA RTX 4090"


def test_an_unknown_card_names_the_nearest_and_all() -> None:
    with pytest.raises(UnknownCardError, match="did you mean 'rtx-4090'") as raised:
        parse_budget("rtx-4091")
    assert all(key in str(raised.value) for key in CARDS)


def test_cards_hold_less_than_the_box_says() -> None:
    assert CARDS["rtx-4090"].total_bytes < 24 * GiB
    assert CARDS["t4"].total_bytes < 16 * 10**9


def test_headroom_is_kept_from_the_whole_card() -> None:
    budget = parse_budget("100GiB", headroom=0.1)
    assert budget.usable_bytes == 90 * GiB


def test_what_others_hold_is_not_usable_and_the_headroom_stays_free_all_the_same() -> None:
    budget = Budget(
        "card", "cuda", 10 * GiB, 4 * GiB, headroom=0.1, processes=(Process(7, "python", 6 * GiB),)
    )
    assert budget.usable_bytes == 3 * GiB
    assert Budget("card", "cuda", 10 * GiB, 0).usable_bytes == 0
    crowd = budget.crowded()
    assert crowd is not None
    assert "python (pid 7) 6.0 GiB" in crowd


def test_an_empty_card_is_not_crowded() -> None:
    assert Budget("card", "cuda", 10 * GiB, 10 * GiB - 1).crowded() is None


@pytest.mark.parametrize("headroom", [-0.1, 1.0])
def test_headroom_is_a_share(headroom: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        parse_budget("8GiB").with_headroom(headroom)


def test_a_cpu_is_no_answer_to_the_question_about_a_card(tmp_path: Path) -> None:
    budget = detect("cpu", tmp_path / "not" / "yet")
    assert not budget.comparable
    assert "--finetune-budget" in str(budget.incomparable_because)
    assert 0 < budget.free_bytes <= budget.total_bytes
    assert budget.disk_free_bytes


def test_a_budget_is_json() -> None:
    tree = parse_budget("t4").as_json()
    assert tree["name"] == "NVIDIA Tesla T4"
    assert tree["usable_bytes"] < tree["total_bytes"]


def test_the_device_class_drops_the_index() -> None:
    assert device_class("cuda:3") == "cuda"


def test_families_follow_the_compute_capability() -> None:
    assert family_of((7, 5)) is TURING
    assert family_of((9, 0)) is HOPPER
    assert family_of((99, 0)) is UNKNOWN
    assert family_of(None) is UNKNOWN
    assert family_of((8, 7)).capability[0] == 8


def test_hardware_is_looked_at_without_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from pytest_finetune.memory.hardware import detect as h; "
        "h.accelerator(); h.detect('auto', Path('.')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
