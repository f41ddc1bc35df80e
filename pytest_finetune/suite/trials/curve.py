"""The trials of a learning curve: nested parts of the training rows, or one setting at a few values."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.subsets import nested_part
from pytest_finetune.experiment.over import Choice
from pytest_finetune.wording import counted, percent

if TYPE_CHECKING:
    from pytest_finetune.suite.trials.bench import Bench, Tried

SHARES: Final = (0.5, 0.25, 0.125)
"""Besides all rows."""


def over_rows(bench: Bench) -> None:
    """Train on all rows, then on smaller parts of them for as many steps.

    With as many passes instead a part would be trained for fewer steps, and the curve would tell what longer training
    brings, not what more rows do.
    """
    base = bench.base
    first = bench.judge({})
    keep(bench, first, f"all {counted(first.rows, 'training row')}")
    seen = {first.rows}
    for share in SHARES:
        part = partial(
            nested_part, share=share, label_of=base.contract.label_of, seed=base.experiment.training.seed
        )
        rows = len(part(base.taught.train))
        if rows in seen:
            continue
        seen.add(rows)
        keep(bench, bench.judge({"training.max_steps": first.steps}, part), counted(rows, "training row"))


def over_values(bench: Bench, choice: Choice) -> None:
    """Train once with each value of one setting."""
    for value in choice.values:
        keep(bench, bench.judge({choice.key: value}), f"{choice.key} {value}")


def keep(bench: Bench, tried: Tried, what: str) -> None:
    """Keep what came of a trial, and tell it."""
    bench.found["trials"].append(tried.as_json())
    passed, total = tried.score.tally
    said = "from the store" if tried.reused else "trained now"
    bench.context.line.say(
        f"{what}: {percent(tried.score.rate)} of {counted(total, 'development row')} ({passed:g}), {said}"
    )
