"""What a promotion wants to see: positive evidence in the record, of every stage and every rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_finetune.yamlfile import Json

_JUDGING: Final = frozenset({"comparison", "decision"})
_STAGES: Final = {"data": "data contract", "fit": "memory fit", "decision": "decision"}


def unmet(experiment: Json, tests: Sequence[Json]) -> Iterator[str]:
    """Yield what an experiment lacks for a promotion, each a sentence that names it."""
    name, decision = experiment["name"], experiment["decision"]
    if decision is None or not decision["keep"]:
        verdict = "nothing was decided" if decision is None else f"the decision is {decision['verdict']}"
        yield f"{name}: {verdict}, not keep"
    own = [test for test in tests if test.get("experiment") == name]
    for stage, words in _STAGES.items():
        if not any(test["stage"] == stage and test["outcome"] == "passed" for test in own):
            yield f"{name}: no {words} test passed in this run; a promotion needs at least one"
    for test in own:
        if test["stage"] in _JUDGING and test["outcome"] in ("skipped", "xfailed"):
            yield f"{name}: {test['nodeid']} was {test['outcome']}, so what it asks for was not judged: let it run"
    rules = experiment.get("rules") or {}
    for rule, facts in rules.items():
        if facts["outcome"] != "passed":
            yield f"{name}: rule {rule!r} did not pass ({facts['outcome']})"
