"""Trials run in a pytest session of their own, which `curve` and `search` start.

It collects the project, sets its primary rule up and runs the trials in the place of that rule; no other test runs, no
record is written, and what was found goes into one JSON file, also when it is interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from types import ModuleType
from typing import Any, Final

import pytest

from pytest_finetune.errors import FinetuneError
from pytest_finetune.judging.rule import RuleBroken
from pytest_finetune.suite.collection import place_of
from pytest_finetune.suite.evidence import first_line
from pytest_finetune.suite.markers import ExperimentRef, Stage
from pytest_finetune.suite.rules.gold_answers import tested
from pytest_finetune.suite.rules.rule_items import primary_of
from pytest_finetune.suite.rules.rule_marks import bad_rules, rule_of
from pytest_finetune.suite.session import SESSION
from pytest_finetune.suite.steps.premises import lacking
from pytest_finetune.suite.trials.bench import Bench
from pytest_finetune.suite.trials.trial import Trial

Work = Callable[[Bench], None]

_NOT_OURS: Final = ("finetune-session", "finetune-closing", "finetune-whole")


class TakeOver:
    """Puts trials in the place of what judges the held-out rows and writes the record."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Take over; registered this late, the trials have the last word on what runs."""
        for name in _NOT_OURS:
            config.pluginmanager.unregister(name=name)
        config.pluginmanager.register(self._trials)
        config.pluginmanager.register(_fixtures(self._trials.base))


class Trials:
    """Keeps the rules of one experiment and works in the place of the primary one."""

    def __init__(self, file: str, work: Work, found: dict[str, Any]) -> None:
        self._ref = ExperimentRef(file)
        self._work = work
        self._found = found
        self._rules: list[pytest.Item] = []
        self._bench: Bench | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, Any, Any]:
        """Keep the primary rule of the experiment."""
        result = yield
        self._rules = [item for item in items if self._is_rule(item)]
        items[:] = []
        try:
            context = config.stash[SESSION].context_of(self._ref)
            self._bench = Bench(context, self._rules, self._found)
            self._refuse(self._bench.base)
            items.append(primary_of(self._rules, "trials are judged"))
        except FinetuneError as error:
            self._found["error"] = str(error)
        return result

    def _is_rule(self, item: pytest.Item) -> bool:
        place = place_of(item)
        return place is not None and place.stage is Stage.RULES and place.experiment == self._ref

    def _refuse(self, base: Trial) -> None:
        """Raise for what would make every trial void, before anything is trained."""
        if base.experiment.trained is not None:
            raise FinetuneError(
                f"{base.experiment.file} judges an adapter from elsewhere: there is nothing to train"
            )
        if said := lacking(base.context):
            raise FinetuneError("\n".join(said))
        if bad := bad_rules(self._rules, base.experiment.prompt.turns, decided=True):
            raise FinetuneError("\n".join(bad))

    def base(self) -> Trial:
        """Return the trial of the experiment as it is written, of which a rule's fixtures are views."""
        assert self._bench is not None
        return self._bench.base

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        """Work, now that the rule is set up."""
        bench = self._bench
        assert bench is not None
        try:
            tested(pyfuncitem, rule_of(pyfuncitem), bench.base.dev_rows or (), {})
            self._work(bench)
        except RuleBroken as fault:
            self._found["error"] = f"rule {rule_of(pyfuncitem).name!r} {fault}"
        except (FinetuneError, pytest.fail.Exception) as error:
            self._found["error"] = str(error)
        finally:
            bench.end()
        return True

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        """Print no dot for the one test: what is told of the trials stands there."""
        return "", "", ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep why the rule could not be set up."""
        if report.failed or report.skipped:
            self._found.setdefault("error", f"the primary rule could not be set up: {_why(report)}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not be collected."""
        if report.failed:
            self._found.setdefault("collection", []).append(f"{report.nodeid}: {_why(report)}")


def _fixtures(trial: Callable[[], Trial]) -> ModuleType:
    """Return a plugin whose one fixture lets every other of ours be a view of a trial; the latest plugin wins."""

    @pytest.fixture(scope="session")
    def _finetune_experiment() -> Trial:
        return trial()

    plugin = ModuleType("finetune-trial")
    plugin.__dict__["_finetune_experiment"] = _finetune_experiment
    return plugin


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return in one line why something failed: the last that pytest marks as an error, else the first of all."""
    marked = [line[1:].strip() for line in str(report.longrepr).splitlines() if line.startswith("E ")]
    if not marked and isinstance(report, pytest.TestReport):
        return first_line(report) or "it was skipped"
    text = (marked or [str(report.longrepr).strip()])[-1]
    named, _, said = text.partition(": ")
    return (said if named.startswith("pytest_finetune.") else text)[:500]  # an error of ours says it all


def run(task: Mapping[str, Any], work: Work, found: dict[str, Any]) -> int:
    """Run the session of a task: its experiment, overrides, and the flags of the session besides."""
    words = [
        "--finetune",
        *("-o", "addopts=", "-o", f"finetune_experiments={task['experiment']}"),
        *(word for override in task["overrides"] for word in ("--finetune-set", override)),
        *task["flags"],
        *("-qq", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:html"),
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # this module came before pytest
        "--continue-on-collection-errors",
    ]
    return int(pytest.main(words, plugins=[TakeOver(Trials(task["experiment"], work, found))]))
