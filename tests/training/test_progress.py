from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.training.request import Meter


def test_the_time_left_is_the_mean_pace_times_the_steps_left() -> None:
    progress = Meter(started_s=100.0, first_step=0).read(
        now_s=110.0, step=5, steps=20, tokens=1000, loss=0.5, epoch=0.25
    )
    assert progress.seconds == 10
    assert progress.eta_s == 30
    assert progress.tokens_per_s == 100


def test_a_resumed_run_reckons_with_its_own_steps_only() -> None:
    progress = Meter(started_s=0.0, first_step=90).read(
        now_s=10.0, step=92, steps=100, tokens=1, loss=None, epoch=1
    )
    assert progress.eta_s == 40


@given(
    first=st.integers(0, 100),
    done=st.integers(0, 100),
    left=st.integers(0, 100),
    seconds=st.floats(0, 1e6),
)
def test_time_left_is_never_negative_and_none_is_left_at_the_end(
    first: int, done: int, left: int, seconds: float
) -> None:
    step = first + done
    progress = Meter(0.0, first).read(
        now_s=seconds, step=step, steps=step + left, tokens=0, loss=None, epoch=0
    )
    assert progress.eta_s >= 0
    assert left or progress.eta_s == 0
    assert progress.tokens_per_s is None
