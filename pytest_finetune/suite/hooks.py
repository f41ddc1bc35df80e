"""The hooks of a session that is about fine-tunes, from its beginning on; each is a call into the room that knows."""

from __future__ import annotations

from collections.abc import Generator
from typing import cast

import pytest

from pytest_finetune import huggingface, wording
from pytest_finetune.errors import FinetuneError
from pytest_finetune.judging.rule import RuleBroken
from pytest_finetune.suite import collection, explain, xdist
from pytest_finetune.suite.closing.ending import Closing
from pytest_finetune.suite.closing.junit import properties
from pytest_finetune.suite.device import reason_to_skip
from pytest_finetune.suite.evidence import first_line
from pytest_finetune.suite.markers import ExperimentRef, MarkerMistake, Stage
from pytest_finetune.suite.options import read_settings
from pytest_finetune.suite.rules.rule_items import run_rule_item
from pytest_finetune.suite.rules.rule_marks import (
    bad_primaries,
    bad_rules,
    duplicate,
    not_set_up,
    rule_of,
    unclustered,
)
from pytest_finetune.suite.session import SESSION, FinetuneSession
from pytest_finetune.suite.steps.planning import plan_lines
from pytest_finetune.suite.steps.premises import lacking, to_fetch

NO_FLAG = "needs a model: run pytest --finetune"


def begin(config: pytest.Config) -> FinetuneSession:
    """Return the session of this config, begun if it was not; pytest.UsageError for invalid or contradictory flags."""
    if SESSION in config.stash:
        return config.stash[SESSION]
    config.stash[SESSION] = session = FinetuneSession(config, read_settings(config))
    register = config.pluginmanager.register
    register(Hooks(session), "finetune-session")
    register(session.whole, "finetune-whole")
    register(huggingface, "finetune-huggingface")
    config.add_cleanup(session.release)
    if not xdist.is_worker(config):
        closing = Closing(session)
        register(closing, "finetune-closing")
        register(closing.page, "finetune-page")
        if xdist.is_distributed(config):
            register(xdist.Grouping(), "finetune-grouping")
    return session


class Hooks:
    """What pytest asks while our tests are collected and run."""

    def __init__(self, session: FinetuneSession) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Read the experiment files before anything is collected, so that a mistake is a usage error."""
        if not xdist.is_worker(self._session.config):
            self._session.check_early()
        self._session.bring_rule_files()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the xdist controller which tests belong together."""
        xdist.write_map(session.config, session.items)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell the xdist controller what the store had to say, and what was collected here."""
        if xdist.is_worker(session.config):
            xdist.tell(session.config, self._session.warnings(), self._session.whole.told())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip, block or refuse an item of ours before its fixtures are set up."""
        self._session.enter(item)
        self._skip_without_gpu(item)
        place = collection.place_of(item)
        if place is None:
            return
        if place.mistake is not None:
            pytest.fail(place.mistake, pytrace=False)
        self._refuse_bad_rule(item, place)
        misuse = collection.per_row_misuse(item)
        if misuse is not None:
            pytest.fail(f"{item.name}: {misuse}", pytrace=False)
        if place.experiment is not None and self._session.first_look(place.experiment):
            self._look_ahead(place.experiment)
        if place.stage.needs_model and not self._session.settings.finetune:
            pytest.skip(f"{NO_FLAG}{self._without_a_model(item, place)}")
        if place.stage is Stage.DECISION and self._session.settings.executor_dry_run:
            pytest.skip("--finetune-executor-dry-run: nothing was sent, so there is nothing to decide")
        if place.experiment is None:
            return
        run = self._session.run(place.experiment)
        if (
            place.stage is Stage.FIT
            and not self._session.settings.finetune
            and (fetch := to_fetch(run.experiment))
        ):
            pytest.skip(fetch)
        run.begin()
        closed = self._session.gate.blocks(place.experiment, place.stage)
        if closed is not None:
            pytest.fail(closed.message, pytrace=False)

    def _without_a_model(self, item: pytest.Item, place: collection.Place) -> str:
        """Test a rule on the expected answers, which needs no model; fail it where it fails one."""
        if place.experiment is None or item.get_closest_marker("eval_rule") is None:
            return ""
        try:
            found = self._session.run(place.experiment).gold.test(cast("pytest.Function", item))
        except RuleBroken as fault:
            raise pytest.fail.Exception(f"rule {rule_of(item).name!r} {fault}", pytrace=False) from None
        except (pytest.fail.Exception, FinetuneError, OSError):
            return ""  # what is amiss with the experiment is said by other tests
        return f" (passes on its {wording.counted(found.gold.total, 'gold answer')})" if found else ""

    def _skip_without_gpu(self, item: pytest.Item) -> None:
        mark = item.get_closest_marker("gpu")
        if mark is None:
            return
        wanted = mark.kwargs.get("min_gib", mark.args[0] if mark.args else 0)
        reason = reason_to_skip(self._session.chosen, wanted, self._session.config.rootpath)
        if reason is not None:
            pytest.skip(reason)

    def _look_ahead(self, ref: ExperimentRef) -> None:
        """Let the first test of an experiment say what cannot be trained, with the flag and without.

        Rules that can judge nothing close the gate before anything is trained, and fail on their own.
        """
        run = self._session.run(ref)
        run.begin()
        said = lacking(run.context)
        if said:
            run.close_gate(Stage.DATA, "what the training needs", said[0].splitlines()[0])
            pytest.fail("\n".join(said), pytrace=False)
        rules = self._session.rules_of(ref)
        bad = bad_rules(rules, run.experiment.prompt.turns, decided=self._session.selection.decides(ref))
        if bad and self._session.settings.finetune:
            run.close_gate(Stage.DATA, "the rules of the experiment", bad[0])

    def _refuse_bad_rule(self, item: pytest.Item, place: collection.Place) -> None:
        rules = self._session.rules_of(place.experiment) if place.experiment else ()
        if place.stage is Stage.DECISION and place.experiment:
            primary = bad_primaries(rules, decided=self._session.selection.decides(place.experiment))
            if primary is not None:
                pytest.fail(primary, pytrace=False)
        if item.get_closest_marker("eval_rule") is None:
            return
        try:
            rule = rule_of(item)
        except MarkerMistake as mistake:
            raise pytest.fail.Exception(str(mistake), pytrace=False) from None
        wrong = duplicate(item, rules) or (bad_primaries(rules, decided=False) if rule.primary else None)
        if wrong is None and place.experiment:
            wrong = unclustered(item, self._session.run(place.experiment).experiment.prompt.turns)
        if wrong is not None:
            pytest.fail(wrong, pytrace=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        """Run an `eval_rule` on every held-out row and arm."""
        if pyfuncitem.get_closest_marker("eval_rule") is None:
            return None
        place = collection.place_of(pyfuncitem)
        assert place is not None
        assert place.experiment is not None
        run = self._session.run(place.experiment)
        with run.context.clock.spent_on("rules"):
            run_rule_item(run, pyfuncitem)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Close the gate behind a failed data or fit test, and send the evidence with the report."""
        if call.excinfo is not None and isinstance(call.excinfo.value, FinetuneError):
            _say_alone(call.excinfo.value)
        report = yield
        place = collection.place_of(item)
        if place is not None:
            self._take(item, report, place)
        return report

    def _take(self, item: pytest.Item, report: pytest.TestReport, place: collection.Place) -> None:
        session, experiment = self._session, place.experiment
        if report.failed and experiment and not place.stage.needs_model:
            session.close_gate(experiment, place.stage, item.nodeid, first_line(report))
        run = session.known_run(experiment)
        if run is not None and place.stage is Stage.RULES and session.settings.finetune:
            dropped = not_set_up(item, report)
            closed = session.gate.blocks(run.ref, place.stage)
            if dropped is not None:
                run.not_judged(dropped[0], f"the {closed.stage.word} stage failed" if closed else dropped[1])
        if run is not None and report.when == "call":
            item.user_properties += properties(run.context.facts, place.stage, item)
            run.context.record(("timings",), run.context.clock.facts())
        session.outbox.send(report, place.stage.word, experiment.name if experiment else None)

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> list[str] | None:
        """Explain a failed assertion about findings, memory plans or drift; the whole text goes into a section."""
        found = explain.compare(
            op, left, right, lambda plan, budget: plan_lines(plan, budget, self._session.store)
        )
        if found is None:
            return None
        explain.section(self._session.item, found.title, found.whole)
        return list(found.brief)


def _say_alone(error: FinetuneError) -> None:
    """Keep what an error of ours came from out of the report: its message says all that a user can act on."""
    error.__cause__, error.__suppress_context__ = None, True
