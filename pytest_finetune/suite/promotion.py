"""Promotion: a bundle exists only on positive evidence, and a refusal says what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.suite.html_page import REPORT

if TYPE_CHECKING:
    from pytest_finetune.session import FinetuneSession

_STAGES: Final = {"data": "data contract", "fit": "memory fit", "decision": "decision"}


def promote(state: FinetuneSession, record: Mapping[str, Any], exitstatus: int) -> str | None:
    """Write a bundle for each experiment, or return why none is written."""
    from pytest_finetune.record.bundle import BundleError, write_bundle

    refusal = next(_refusals(state, record, exitstatus), None)
    if refusal is not None:
        return refusal
    for experiment in record["experiments"]:
        target = _target(state, experiment, several=len(record["experiments"]) > 1)
        try:
            write_bundle(target, _source(state, experiment))
        except (BundleError, OSError) as error:
            return str(error)
        state.promoted.append(str(target))
    return None


def _refusals(state: FinetuneSession, record: Mapping[str, Any], exitstatus: int) -> Iterator[str]:
    if exitstatus != 0:
        yield f"the run is not green (exit status {exitstatus})"
    narrowed = state.narrowed()
    if narrowed:
        yield f"the run was narrowed ({', '.join(narrowed)}): promote from a bare pytest --finetune --finetune-promote"
    if not record["experiments"]:
        yield "no experiment ran"
    for experiment in record["experiments"]:
        yield from _lacking(experiment, record["tests"])
    if not (state.settings.record / REPORT).is_file():
        yield "there is no report.html: install pytest-html"


def _lacking(experiment: Mapping[str, Any], tests: list[Mapping[str, Any]]) -> Iterator[str]:
    name, decision = experiment["name"], experiment["decision"]
    if decision is None or not decision["keep"]:
        verdict = "nothing was decided" if decision is None else f"the decision is {decision['verdict']}"
        yield f"{name}: {verdict}, not keep"
    own = [test for test in tests if test["experiment"] == name]
    for stage, words in _STAGES.items():
        if not any(test["stage"] == stage and test["outcome"] == "passed" for test in own):
            yield f"{name}: no {words} test passed in this run; a promotion needs at least one"
    idle = [rule for rule, facts in experiment["rules"].items() if facts["outcome"] != "passed"]
    if idle:
        yield f"{name}: rule {idle[0]!r} did not pass ({experiment['rules'][idle[0]]['outcome']})"


def _target(state: FinetuneSession, experiment: Mapping[str, Any], *, several: bool) -> Path:
    root = state.config.rootpath
    if not state.settings.promote:
        return root / str(experiment["config"]["paths"]["output_dir"])
    folder = state.config.invocation_params.dir / state.settings.promote
    return folder / str(experiment["name"]).replace("/", "-") if several else folder


def _source(state: FinetuneSession, experiment: Mapping[str, Any]) -> Any:
    from pytest_finetune.fingerprint import base_folder
    from pytest_finetune.record.bundle import BundleError, BundleSource

    run = state.run_named(experiment["name"], experiment)
    entry = state.store.read("adapters", experiment["key"])
    if entry is None:
        raise BundleError(f"the adapter {experiment['key'][:12]} is no longer in the store")
    state.store.notes.pin("adapters", entry.key, "promoted")
    files = [run.experiment.path(run.experiment.file)]
    if run.experiment.paths.contract_file:
        files.append(run.experiment.path(run.experiment.paths.contract_file))
    return BundleSource(entry.path, base_folder(run.experiment), state.settings.record, files, experiment)
