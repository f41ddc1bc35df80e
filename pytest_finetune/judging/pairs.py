"""Every other pair of arms under every rule, in short: what the record knows beside the tuned arm's own comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pytest_finetune.judging.comparison import TUNED, Contest
from pytest_finetune.judging.scores import missing, tabulate

if TYPE_CHECKING:
    from pytest_finetune.judging.decision import Case


def pairs_of(case: Case) -> Iterator[dict[str, Any]]:
    """Yield each pair without the tuned arm: the first's gain over the second; rules that do not pair rows have none.

    Nothing here decides: no alpha is spent on it and no verdict follows.
    """
    for rule in case.rules:
        scores = case.scores.get(rule.name)
        if scores is None or not rule.paired or any(missing(rule, scores, tuple(scores.arms))):
            continue
        table = tabulate(rule, scores)
        levels = rule.levels(case.defaults, case.looks)
        others = [arm for arm in sorted(table.arms) if arm != TUNED]
        for against, arm in combinations(others, 2):
            met = Contest(table, against, 0.0, levels, ours=arm).comparison
            yield {
                "rule": rule.name,
                "arm": arm,
                "against": against,
                "gain": met.gain,
                "interval": list(met.interval),
                "p_value": met.p_value,
                "fixed": len(met.fixed),
                "broken": len(met.broken),
            }
