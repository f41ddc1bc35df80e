"""``python -m pytest_finetune.suite.trials TASK FOUND``: run the trials that a task file names."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.experiment.over import Choice, parse_over
from pytest_finetune.suite.trials import curve, shipped
from pytest_finetune.suite.trials.search import Search
from pytest_finetune.suite.trials.session import run

if TYPE_CHECKING:
    from pytest_finetune.suite.trials.session import Work


def main(words: list[str]) -> int:
    """Work off a task; what was found so far is written whatever ends the work."""
    task, file = json.loads(Path(words[0]).read_text(encoding="utf-8")), Path(words[1])
    found: dict[str, Any] = {"trials": []}
    try:
        code = run(task, work_of(task), found)
        found["interrupted"] = code == pytest.ExitCode.INTERRUPTED
    finally:
        file.write_text(json.dumps(found), encoding="utf-8")
    return code


def work_of(task: dict[str, Any]) -> Work:
    """Return what is to be done with the bench."""
    overs = parse_over(task["over"])
    if task["kind"] == "search":
        return lambda bench: Search(bench, overs, task["budget"], task["seed"]).run()
    if task["kind"] == "shipped":
        return partial(shipped.over_files, quantizations=task["quants"], server=task["server"])
    if not overs:
        return curve.over_rows
    (choice,) = overs
    assert isinstance(choice, Choice)
    return partial(curve.over_values, choice=choice)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
