"""What a learning curve says of twice the rows, and when it says that it cannot tell."""

from __future__ import annotations

import pytest

from pytest_finetune.judging.development import DevScore
from pytest_finetune.judging.learning import ALPHA, RowsCurve, Trained, ValuesCurve
from pytest_finetune.judging.statistics.learning_curve import Point, chance_of_rows, forecast


def trained(rows: int, right: int, of: int = 400, **overrides: object) -> Trained:
    """A training that is right on the first rows, so that trainings differ only where one knows more."""
    scores = tuple(float(at < right) for at in range(of))
    score = DevScore("label", tuple(map(str, range(of))), scores, None, "a" * 64, "b" * 64)
    return Trained(overrides, rows, 20, 1.0, False, score)


def curve(*right: int, of: int = 400) -> RowsCurve:
    points = tuple(trained(50 * 2**at, passed, of) for at, passed in enumerate(right))
    return RowsCurve(points)


def test_a_curve_that_rises_asks_for_rows() -> None:
    rising = curve(120, 160, 200, 240)
    found = rising.forecast
    assert found is not None
    assert found.low < 0.1 < found.high or found.low < found.gain <= 0.1
    assert rising.advice.sentence.startswith("twice as many rows of this kind would bring +")
    assert rising.advice.change == "write more rows like these: about 400 more, trained for as many steps"


def test_a_curve_that_is_flat_asks_for_no_rows() -> None:
    flat = curve(1200, 1204, 1201, 1203, of=2000)
    assert flat.advice.sentence.startswith(
        "twice as many rows of this kind would bring nothing that can be shown: at"
    )
    assert "write no more rows of this kind" in flat.advice.change


def test_few_development_rows_cannot_tell() -> None:
    advice = curve(10, 13, 11, 14, of=30).advice
    assert advice.sentence.startswith(
        "4 points on 30 development rows cannot tell what twice as many rows would bring"
    )
    assert advice.change == "set more rows aside to choose on before you write rows to train on"


def test_two_points_are_no_curve() -> None:
    assert curve(100, 200).forecast is None
    assert "make 2 parts only, too few for a curve" in curve(100, 200).advice.sentence


def test_a_gain_never_leads_beyond_all_rows() -> None:
    found = curve(250, 300, 350, 398).forecast
    assert found is not None
    assert found.high < 0.05  # the last step was 12 points
    assert found.score_high <= 1


def test_a_steeper_curve_promises_more_and_a_noisier_one_less_surely() -> None:
    def points(step: float) -> list[Point]:
        return [Point(100 * 2**at, 0.4 + step * at) for at in range(4)]

    steep, gentle = forecast(points(0.1), 1e-4), forecast(points(0.03), 1e-4)
    noisy = forecast(points(0.1), 4e-3)
    assert steep is not None
    assert gentle is not None
    assert noisy is not None
    assert steep.gain > gentle.gain
    assert noisy.score_high - noisy.score_low > steep.score_high - steep.score_low


def test_rows_of_one_group_change_together_and_count_so() -> None:
    first, second = [0.0] * 40, [1.0] * 20 + [0.0] * 20
    alone = chance_of_rows([first, second])
    together = chance_of_rows([first, second], [f"g{at // 10}" for at in range(40)])
    assert together == pytest.approx(10 * alone)


def test_the_first_value_is_kept_unless_another_is_demonstrably_better() -> None:
    alike = ValuesCurve("lora.r", (trained(64, 200, **{"lora.r": 2}), trained(64, 203, **{"lora.r": 8})))
    assert alike.advice.sentence == "no value of lora.r is demonstrably better than 2 on 400 development rows"
    better = ValuesCurve("lora.r", (*alike.points, trained(64, 260, **{"lora.r": 32})))
    assert better.advice.sentence.startswith(
        "lora.r 32 is demonstrably better than 2 on 400 development rows: +15.0"
    )


def test_a_value_whose_interval_lies_above_zero_is_no_contradiction_where_many_were_tried() -> None:
    values = [trained(64, right, **{"lora.r": r}) for r, right in ((2, 200), (4, 200), (8, 206), (16, 199))]
    nearly = ValuesCurve("lora.r", tuple(values))
    assert nearly.gains()[2].interval(ALPHA).low > 0
    assert nearly.advice.sentence == (
        "no value of lora.r is demonstrably better than 2 on 400 development rows: 8 taken alone has an interval above "
        "zero (p 0.0156), but with 3 values tried a claim takes p 0.00833 or less (Holm)"
    )
    alone = ValuesCurve("lora.r", (values[0], values[2]))
    assert alone.advice.sentence.startswith("lora.r 8 is demonstrably better than 2 on 400 development rows")
