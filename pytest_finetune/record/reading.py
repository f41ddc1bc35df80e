"""Read a record whose parts may be null: a run may have ended anywhere.

Every function answers with an empty value of the expected type instead of failing, so that views state what
is missing in words. Orders are fixed here, not taken from the document: a record that was read back from its
file has sorted keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from pytest_finetune.judging.rule import is_guard

Json = Mapping[str, Any]

# From the outside in: what an adapter is held against, then the adapter itself.
ARMS: Final = ("baseline", "prompted", "best_prompt", "constrained")
STAGES: Final = ("data", "fit", "baseline", "training", "rules", "comparison", "decision")


def part(of: object, *keys: str) -> Json:
    """Follow `keys` to a mapping; an empty one when the way is missing or null."""
    for key in keys:
        of = of.get(key) if isinstance(of, Mapping) else None
    return of if isinstance(of, Mapping) else {}


def listed(of: Json, key: str) -> list[Any]:
    """Return the list under `key`, or an empty one."""
    value = of.get(key)
    return list(value) if isinstance(value, list | tuple) else []


def parts(of: Json, key: str) -> list[Json]:
    """Return the mappings of the list under `key`."""
    return [item for item in listed(of, key) if isinstance(item, Mapping)]


def text(of: Json, key: str, default: str = "") -> str:
    """Return what stands under `key` as text; `default` when it is missing, null or empty."""
    value = of.get(key)
    return default if value is None or value == "" else str(value)


def number(of: Json, key: str) -> float | None:
    """Return the number under `key`, or None. NaN and infinities are numbers here; booleans are not."""
    value = of.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def whole(of: Json, key: str) -> int | None:
    """Return the finite number under `key` as an integer, or None."""
    value = number(of, key)
    return int(value) if value is not None and math.isfinite(value) else None


def span(of: Json, key: str) -> tuple[float, float] | None:
    """Return the two numbers of an interval, or None."""
    ends = [end for end in listed(of, key) if isinstance(end, int | float) and math.isfinite(end)]
    return (float(ends[0]), float(ends[1])) if len(ends) == 2 else None


def experiments(record: Json) -> list[Json]:
    """Return the experiments in the order of the record."""
    return parts(record, "experiments")


def cheap_only(record: Json) -> bool:
    """Tell whether the session ran without `--finetune`: only the stages that need no model.

    `finetune` of the record says so; without it the command does, unless a model was used all the same.
    """
    if isinstance(record.get("finetune"), bool):
        return not record["finetune"]
    used = any(arms(run) or part(run, "training") for run in experiments(record))
    return not used and bool(record) and "--finetune" not in text(record, "command").split()


def arms(experiment: Json) -> list[str]:
    """Name the arms: the base as it was asked, arms from outside by name, tuned, tuned in further runtimes."""
    names = [name for name, arm in part(experiment, "arms").items() if isinstance(arm, Mapping)]
    return sorted(names, key=place_of)


def place_of(arm: str) -> tuple[int, str]:
    """Return where an arm stands among others."""
    if arm in ARMS:
        return ARMS.index(arm), arm
    return len(ARMS) + (2 if arm.startswith("tuned@") else arm == "tuned"), arm


def rules(experiment: Json) -> list[str]:
    """Name the rules: the primary one, then those with a threshold, then guards, each by name.

    Rules that only an arm knows (the rule itself was not recorded) come last.
    """
    known = part(experiment, "rules")
    scored = {name for arm in arms(experiment) for name in part(experiment, "arms", arm, "rules")}

    def rank(name: str) -> tuple[int, str]:
        rule = part(known, name)
        return (3 if not rule else 0 if rule.get("primary") else 2 if is_guard(rule) else 1, name)

    return sorted({*known, *scored}, key=rank)


def primary(experiment: Json) -> str | None:
    """Name the primary rule, when one was recorded."""
    known = part(experiment, "rules")
    return next((name for name in rules(experiment) if part(known, name).get("primary")), None)


def comparisons(experiment: Json) -> list[Json]:
    """Return the comparisons, those of the primary rule first, each rule's in the order of the arms."""
    order = {name: place for place, name in enumerate(rules(experiment))}

    def rank(pair: Json) -> tuple[int, tuple[int, str]]:
        return order.get(text(pair, "rule"), len(order)), place_of(text(pair, "against"))

    return sorted(parts(experiment, "comparisons"), key=rank)


def is_opponent(experiment: Json, arm: str) -> bool:
    """Tell whether an adapter is kept only when it beats this arm; without a plan on record, base and prompt are."""
    plan = part(experiment, "planned_arms", arm)
    return bool(plan.get("opponent")) if plan else arm in ("baseline", "prompted")


def confidence(experiment: Json, rule: Json) -> float | None:
    """Return the confidence of a rule's intervals: its own, else the experiment's."""
    own = number(rule, "confidence")
    return own if own is not None else number(part(experiment, "config", "decision"), "confidence")


def findings(experiment: Json) -> list[Json]:
    """Return the findings of data and charter, errors first."""
    found = [*parts(part(experiment, "data"), "findings"), *parts(part(experiment, "charter"), "findings")]
    return sorted(found, key=lambda finding: finding.get("severity") != "error")


def failed_tests(record: Json, experiment: Json) -> list[Json]:
    """Return the failed or broken tests of one experiment, earliest stage first.

    A test that names no experiment counts when the record has only one.
    """
    alone = len(experiments(record)) == 1
    name = text(experiment, "name")

    def is_meant(test: Json) -> bool:
        about = text(test, "experiment")
        return test.get("outcome") in ("failed", "error") and (about == name or (alone and not about))

    def rank(test: Json) -> int:
        stage = text(test, "stage")
        return STAGES.index(stage) if stage in STAGES else len(STAGES)

    return sorted((test for test in parts(record, "tests") if is_meant(test)), key=rank)
