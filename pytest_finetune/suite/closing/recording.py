"""From the evidence of a session to its record, and the record into its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pytest_finetune import __version__
from pytest_finetune.answering.answers import answer_json
from pytest_finetune.clock import Clock
from pytest_finetune.judging.decision import pairs_of
from pytest_finetune.record import changes
from pytest_finetune.record.build import RunHeader, assemble, experiment_record
from pytest_finetune.record.case import case_of, recipe_of
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.validate import RecordError, validate
from pytest_finetune.store import StoreError
from pytest_finetune.suite.closing.remembering import remember_runs
from pytest_finetune.suite.steps.deciding import look_of, matches, stored_answers
from pytest_finetune.suite.steps.reuse import with_changed_answers

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row
    from pytest_finetune.suite.run import ExperimentRun
    from pytest_finetune.suite.session import FinetuneSession

Answers = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def build_record(
    state: FinetuneSession, exitstatus: int, command: str, notes: Sequence[str]
) -> tuple[dict[str, Any], Answers]:
    """Return the record of everything that the reports brought, and the raw answers that it refers to."""
    names = state.evidence.experiments()
    answers: dict[str, Mapping[str, Any]] = {}
    experiments = []
    for name in names:
        tree = state.evidence.tree(name)
        arms = {arm: stored_answers(state.store, tree, arm) for arm in tree.get("arms", {})}
        answers[name] = {
            arm: [answer_json(answer) for answer in found.values()] for arm, found in arms.items()
        }
        clock = Clock()
        with clock.spent_on("record"):
            experiment = _experiment(state, name, tree, several=len(names) > 1)
        experiments.append({**experiment, "timings": {**experiment["timings"], **clock.facts()}})
    finetune, project = state.settings.finetune, state.config.rootpath.name
    header = RunHeader(_now(), command, exitstatus, project, __version__, finetune, notes)
    tests = (test.as_json() for test in state.evidence.tests.values())
    return assemble(header, experiments, tests), answers


def _experiment(
    state: FinetuneSession, name: str, tree: Mapping[str, Any], *, several: bool
) -> dict[str, Any]:
    run = state.run_named(name, tree)
    tree = {**tree, "power": run.power(tree.get("rules", {}))}
    if not state.settings.finetune:
        return experiment_record(name, tree, (), None, several=several)
    tree = {**tree, "runtime_match": [match.as_json() for match in matches(state.store, tree)]}
    tree = with_changed_answers(state.store, tree)
    tree = {**tree, "pairs": list(pairs_of(case_of(tree)))}
    if found := recipe_of(tree):
        tree = {**tree, "recipe": {**tree["recipe"], **found.as_json()}}
    return experiment_record(name, tree, _held_out(run, tree), run.decision(tree), several=several)


def _held_out(run: ExperimentRun, tree: Mapping[str, Any]) -> list[Row]:
    asked = {facts.get("suite") for facts in tree.get("arms", {}).values()}
    suites = asked & {None, *run.experiment.paths.suites}  # derived rows stand in no file of the experiment
    return [
        row
        for suite in sorted(suites, key=lambda name: (name is not None, name))
        for row in run.rows_of(suite)
    ]


def keep(state: FinetuneSession, record: dict[str, Any]) -> None:
    """Count the looks, complete the record, and remember the run in the store.

    The looks come first, so that the record can say what the store had to say about them.
    """
    _count_looks(state)
    experiments = [RecordedExperiment.of(one) for one in record["experiments"]]
    remember_runs(state, record, experiments)
    record["notes"] += [warning for warning in state.warnings() if warning not in record["notes"]]
    outlines = {one.name: changes.outline(one) for one in experiments}
    _compare_with_the_last_run(state, record, outlines)
    try:
        validate(record)
    except RecordError as error:  # a fault of ours must not cost the user the record of a long run
        record["notes"].append(f"this record breaks its own schema, please report it: {error}")
    _remember_for_the_next_run(state, record["created"], outlines)


def _count_looks(state: FinetuneSession) -> None:
    """Write down every look and which files hold rules; what cannot be written is a warning of the store's."""
    try:
        _write_looks(state)
    except StoreError as error:
        state.store.warnings.append(
            f"{error}; this look is not counted, and the next decision on these rows would be too easy"
        )


def _write_looks(state: FinetuneSession) -> None:
    files: set[str] = set()
    for name in state.evidence.experiments():
        tree = state.evidence.tree(name)
        rules = tree.get("rules", {})
        files |= {facts["nodeid"].split("::")[0] for facts in rules.values()}
        if "looks" in tree:
            texts = {rule: facts["sha256"] for rule, facts in rules.items()}
            look = look_of(state.store, tree, state.run_named(name, tree).rows_of(None))
            state.store.looks.register(look, texts, name)
    if files:
        state.store.remember("rule-files", {"files": sorted(files)})


def _compare_with_the_last_run(
    state: FinetuneSession, record: dict[str, Any], outlines: Mapping[str, Mapping[str, object]]
) -> None:
    """Record what changed since each experiment's last run."""
    for experiment in record["experiments"]:
        last = state.store.last(f"run-{experiment['name']}")
        if last is not None:
            fields = changes.between(last["fields"], outlines[experiment["name"]])
            experiment["changes"] = {"created": last["created"], "fields": fields}


def _remember_for_the_next_run(
    state: FinetuneSession, created: str, outlines: Mapping[str, Mapping[str, object]]
) -> None:
    """Keep what the next run is compared with; a store that takes no note costs that comparison and nothing else."""
    with contextlib.suppress(StoreError):
        for name, fields in outlines.items():
            state.store.remember(f"run-{name}", {"created": created, "fields": fields})
        state.remember_whole()


def _now() -> str:
    """Return the time as the record writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
