"""Run the rules of a folder again over the answers of a bundle: a pytest session of its own, started by `verify`.

It collects the folder as pytest does, runs its `eval_rule` tests and no other, loads no model and writes one JSON file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune.bundle.reading import open_bundle
from pytest_finetune.suite.collection import place_of
from pytest_finetune.suite.evidence import first_line
from pytest_finetune.suite.markers import ExperimentRef, Stage
from pytest_finetune.suite.rules.bundled_run import BundledRun, NotInBundle
from pytest_finetune.suite.rules.rule_items import scored
from pytest_finetune.suite.rules.rule_marks import rule_digest, rule_of
from pytest_finetune.suite.session import SESSION, FinetuneSession

if TYPE_CHECKING:
    from pytest_finetune.bundle.reading import Bundle

_CHARS: Final = 500


class Rejudging:
    """Puts the bundle in the place of the project's experiment, and keeps the session's own record away."""

    def __init__(self, bundle: Bundle, found: dict[str, Any]) -> None:
        self.bundle = bundle
        self.found = found

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Take over; registered this late, the judge is asked before the plugin that runs rules with a model."""
        config.pluginmanager.unregister(name="finetune-closing")
        judge = Judge(config.stash[SESSION], self.bundle, self.found)
        config.pluginmanager.register(judge)
        config.pluginmanager.register(_fixtures(judge.run))


class Judge:
    """Runs each rule over the stored answers and keeps what it gave."""

    def __init__(self, state: FinetuneSession, bundle: Bundle, found: dict[str, Any]) -> None:
        self.state = state
        self.bundle = bundle
        self.found = found
        self.names: dict[str, str] = {}
        self.run = BundledRun(bundle, state.config.rootpath)
        ref = ExperimentRef(bundle.experiment["config_file"])
        state.replace_experiments(ref, self.run.experiment)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, Any, Any]:
        """Keep the rules of the bundle's experiment."""
        result = yield
        kept = []
        for item in items:
            place = place_of(item)
            ref = place.experiment if place is not None and place.stage is Stage.RULES else None
            if isinstance(ref, ExperimentRef) and ref.name == self.bundle.experiment["name"]:
                self.state.adopt(ref, self.run.experiment)
                kept.append(item)
        items[:] = kept
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Name a rule before anything can fail in it."""
        rule = rule_of(item)
        self.names[item.nodeid] = rule.name
        self.found["rules"][rule.name] = {"nodeid": item.nodeid, "sha256": rule_digest(item)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        """Run a rule over the stored answers, and judge nothing by it."""
        rule = rule_of(pyfuncitem)
        told = self.found["rules"][rule.name]
        if rule.judge:
            told["unchecked"] = "a judge is not asked again: what it said stands in the record"
            return True
        try:
            facts = scored(self.run, pyfuncitem, rule, self.run.rows_of(rule.suite)).as_json()
        except NotInBundle as missing:
            told["unchecked"] = str(missing)
        else:
            told |= {name: facts.get(name) for name in ("rows", "groups", "slice_rows", "scores")}
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep why a rule gave nothing."""
        if report.failed or report.skipped:
            told = self.found["rules"].get(self.names.get(report.nodeid))
            if told is not None and "error" not in told:
                why, absent = _why(report) or report.outcome, f"{NotInBundle.__name__}: "
                told["unchecked" if absent in why else "error"] = why.rpartition(absent)[2]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not be collected."""
        if report.failed:
            self.found["errors"].append({"nodeid": report.nodeid, "error": _why(report)})


def _fixtures(run: BundledRun) -> ModuleType:
    """Return a plugin whose one fixture lets every other of ours be a view of the bundle; the latest plugin wins."""

    @pytest.fixture(scope="session")
    def _finetune_experiment() -> BundledRun:
        return run

    plugin = ModuleType("finetune-bundle")
    plugin.__dict__["_finetune_experiment"] = _finetune_experiment
    return plugin


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return in one line why something failed: the last that pytest marks as an error, else the first of all."""
    marked = [line[1:].strip() for line in str(report.longrepr).splitlines() if line.startswith("E ")]
    if marked or isinstance(report, pytest.CollectReport):
        return (marked or [str(report.longrepr).strip()])[-1][:_CHARS]
    return first_line(report)[:_CHARS]


def main(words: list[str]) -> int:
    """Run the rules: ``BUNDLE RULES SCRATCH``; what they gave goes into ``SCRATCH/found.json``."""
    bundle, rules, scratch = (Path(word) for word in words)
    found: dict[str, Any] = {"rules": {}, "errors": []}
    asked = [
        "--finetune",
        "--finetune-device=cpu",
        f"--finetune-store={scratch / 'store'}",
        f"--finetune-record={scratch / 'record'}",
        *("-p", "no:cacheprovider", "-o", "addopts=", "-o", "finetune_store_readonly=false", "-q"),
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # this module came before pytest
        "--continue-on-collection-errors",
        str(rules),
    ]
    try:
        return int(pytest.main(asked, plugins=[Rejudging(open_bundle(bundle), found)]))
    finally:
        (scratch / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
