"""The data stage of a run: its contract, its rows, and what is checked before anything is trained or asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune.data.contract import Contract
from pytest_finetune.data.profile import overlap, profile
from pytest_finetune.data.rows import read_rows
from pytest_finetune.suite.markers import Stage
from pytest_finetune.suite.steps import drifting, external_arms, judged_rows, tokens
from pytest_finetune.suite.steps.contract import SessionContract

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.findings import Findings
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.suite.run import ExperimentRun

MALFORMED_SHOWN: Final = 20
OVERLAP_ROWS: Final = 100_000


def contract_of(run: ExperimentRun) -> Contract:
    """Return the data contract, with the checks that plugins and the store's looks add."""
    file = run.experiment.paths.contract_file
    contract = Contract.load(run.experiment.root, file) if file else Contract.default()
    tokenization = tokens.tokenization_of(run.experiment)
    if tokenization is not None:
        contract = contract.with_tokens(tokenization)
    checks = (
        partial(_plugin_checks, run),
        partial(judged_rows.trained_after_a_look, run.session.store.looks),
    )
    return SessionContract.of(contract.with_checks(*checks), partial(_note_findings, run))


def _note_findings(run: ExperimentRun, findings: Findings) -> None:
    run.note(("data", "findings"), [finding.as_json() for finding in findings])
    run.note(("data", "waived"), [{**f.as_json(), "waiver": w.as_json()} for f, w in findings.waived])


def _plugin_checks(run: ExperimentRun, train: Rows, held_out: Rows) -> list[Any]:
    found = run.session.config.hook.pytest_finetune_data_checks(
        experiment=run.experiment, train_rows=train, eval_rows=held_out
    )
    return [finding for findings in found for finding in findings or ()]


def read(run: ExperimentRun, relative: str, split: str) -> Rows:
    """Read the rows of a file and put down their profile."""
    rows = read_rows(run.experiment.root, relative, split, max_line_bytes=run.contract.max_line_bytes)
    counted = run.contract.tokenization.table(rows) if run.contract.tokenization else None
    run.note(("data", split), profile(rows, run.contract, counted))
    return rows


def suite_of(run: ExperimentRun, suite: str) -> Rows:
    """Return the rows of a further held-out file, or of a suite that rules derive; once each."""
    if suite in run.derived:
        return run.once(f"suite {suite}", run.derived[suite])
    suites = run.experiment.paths.suites
    if suite not in suites:
        known = ", ".join(suites) or "none"
        pytest.fail(
            f"eval_rule(suite={suite!r}): no such suite under paths.suites; known: {known}", pytrace=False
        )
    return run.once(f"suite {suite}", lambda: run.read(suites[suite], suite))


def check(run: ExperimentRun) -> None:
    """Hold the rows to the contract and look for what the run will need; what is wrong closes the gate."""
    findings = run.contract.findings(run.train_rows, run.eval_rows)
    _note_overlap(run)
    if findings.errors:
        run.close_gate(Stage.DATA, "the built-in contract check", findings.headline())
        lines = findings.explain(limit=MALFORMED_SHOWN)
        pytest.fail("nothing is trained: the rows break the contract\n" + "\n".join(lines), pytrace=False)
    _check_first(run, "the arms of the experiment", external_arms.check)
    _check_first(run, "the neutral prompts", drifting.check)


def _check_first(run: ExperimentRun, name: str, look: Callable[[ExperimentRun], None]) -> None:
    """Look at what would cost a night to find missing afterwards."""
    try:
        look(run)
    except BaseException as error:
        run.close_gate(Stage.DATA, name, str(error).splitlines()[0])
        raise


def _note_overlap(run: ExperimentRun) -> None:
    if len(run.train_rows) <= OVERLAP_ROWS:  # it holds every n-gram of the training rows
        run.note(("data", "overlap"), overlap(run.train_rows, run.eval_rows))
