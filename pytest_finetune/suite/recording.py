"""From the evidence of a session to its record, and the record into its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_finetune.suite.answering import ANSWERS_FILE
from pytest_finetune.suite.deciding import decided, look_of

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row
    from pytest_finetune.session import FinetuneSession

Answers = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def build_record(
    state: FinetuneSession, exitstatus: int, command: str, notes: Sequence[str]
) -> tuple[dict[str, Any], Answers]:
    """Return the record of everything that the reports brought, and the raw answers that it refers to."""
    from pytest_finetune import __version__
    from pytest_finetune.record.assemble import RunHeader, assemble, experiment_record
    from pytest_finetune.suite.closing import now

    trees = {name: state.evidence.tree(name) for name in state.evidence.experiments()}
    answers = {name: _answers(state, tree) for name, tree in trees.items()}
    experiments = [
        experiment_record(
            name,
            tree,
            _held_out(state, tree) if answers[name] else (),
            decided(state, tree) if state.settings.finetune else None,
            several=len(trees) > 1,
        )
        for name, tree in trees.items()
    ]
    header = RunHeader(now(), command, exitstatus, state.config.rootpath.name, __version__, notes)
    return assemble(header, experiments, (test.as_json() for test in state.evidence.tests.values())), answers


def keep(state: FinetuneSession, record: Mapping[str, Any], answers: Answers) -> None:
    """Write the record's folder, count the looks, and hand the record to whoever asked for it."""
    from pytest_finetune.record.validate import validate
    from pytest_finetune.record.write import write_record

    validate(record)
    write_record(state.settings.record, record, answers)
    for name in state.evidence.experiments():
        tree = state.evidence.tree(name)
        if "looks" in tree:
            rules = {rule: facts["sha256"] for rule, facts in tree["rules"].items()}
            state.store.looks.register(look_of(tree, _held_out(state, tree)), rules)
    _remember_rule_files(state)
    state.config.hook.pytest_finetune_record(record=record, directory=state.settings.record)


def _answers(state: FinetuneSession, tree: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    from pytest_finetune.evaluation.answers import read_answers

    found = {}
    for arm, facts in tree.get("arms", {}).items():
        entry = state.store.read("outputs", facts["outputs_key"]) if "outputs_key" in facts else None
        if entry is not None:
            found[arm] = [asdict(answer) for answer in read_answers(entry.path / ANSWERS_FILE)]
    return found


def _held_out(state: FinetuneSession, tree: Mapping[str, Any]) -> list[Row]:
    """Read the held-out rows again; the record holds them as data beside the answers."""
    from pytest_finetune.data.rows import read_rows

    paths = tree["config"]["paths"]
    root = state.config.rootpath
    files = {"eval": paths["eval_file"], **paths["suites"]}
    asked = {facts.get("suite") or "eval" for facts in tree.get("arms", {}).values()}
    return [row for split, relative in files.items() if split in asked for row in read_rows(root, relative, split)]


def _remember_rule_files(state: FinetuneSession) -> None:
    rules = (facts for name in state.evidence.experiments() for facts in state.evidence.tree(name).get("rules", {}).values())
    files = sorted({facts["nodeid"].split("::")[0] for facts in rules})
    if files:
        state.store.remember("rule-files", {"files": files})

