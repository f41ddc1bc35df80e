"""Promotion: a bundle exists only on positive evidence, and a refusal says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_finetune.answering.runtimes.protocol import AnsweringError, ShippingRuntime
from pytest_finetune.bundle.format import BundleError
from pytest_finetune.bundle.requirements import unmet
from pytest_finetune.bundle.shipped import judged_file
from pytest_finetune.bundle.signing import SIGSTORE, sign
from pytest_finetune.bundle.write import BundleSource, refuse_other, write_bundle
from pytest_finetune.fingerprint import base_folder
from pytest_finetune.suite.closing.dropped_rules import dropped_rules
from pytest_finetune.suite.closing.page import NO_PYTEST_HTML
from pytest_finetune.suite.steps.reuse import answered_elsewhere

if TYPE_CHECKING:
    from pytest_finetune.bundle.write import BundleSource
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.suite.run import ExperimentRun
    from pytest_finetune.suite.session import FinetuneSession


def promote(state: FinetuneSession, record: Mapping[str, Any], exitstatus: int) -> list[str]:
    """Write a bundle for each experiment, or return every reason why none is written."""
    refusals = list(dict.fromkeys(_refusals(state, record, exitstatus)))
    if refusals:
        return refusals
    try:
        planned = [
            (_target(state, one, several=len(record["experiments"]) > 1), _source(state, record, one))
            for one in record["experiments"]
        ]
        for target, source in planned:  # all of them before the first is written
            refuse_other(target, source.adapter_sha256)
        for target, source in planned:
            write_bundle(target, source)
            state.store.notes.pin("adapters", source.experiment["training"]["adapter_key"], "promoted")
            state.promoted.append(str(target))
    except (BundleError, OSError) as error:
        return [str(error)]
    return []


def _refusals(state: FinetuneSession, record: Mapping[str, Any], exitstatus: int) -> Iterator[str]:
    if exitstatus != 0:
        yield f"the run is not green (exit status {exitstatus})"
    narrowed = state.narrowed()
    if narrowed:
        yield f"the run was narrowed ({', '.join(narrowed)}): promote from a bare pytest --finetune --finetune-promote"
    yield from state.left_out()
    if not record["experiments"]:
        yield "no experiment ran"
    for experiment in record["experiments"]:
        yield from unmet(experiment, record["tests"])
        here = state.run_named(experiment["name"], experiment).engine.the_environment
        yield from answered_elsewhere(state.store, experiment, here)
        yield from dropped_rules(state, experiment)
    if NO_PYTEST_HTML in record["notes"]:
        yield "there is no report.html: install pytest-html"


def _target(state: FinetuneSession, experiment: Mapping[str, Any], *, several: bool) -> Path:
    root = state.config.rootpath
    if not state.settings.promote:
        return root / str(experiment["config"]["paths"]["output_dir"])
    folder = state.config.invocation_params.dir / state.settings.promote
    return folder / str(experiment["name"]).replace("/", "-") if several else folder


def _source(state: FinetuneSession, record: Mapping[str, Any], experiment: Mapping[str, Any]) -> BundleSource:
    run = state.run_named(experiment["name"], experiment)
    key = experiment["training"]["adapter_key"]
    entry = state.store.read("adapters", key)
    if entry is None:
        raise BundleError(f"the adapter {key[:12]} is no longer in the store")
    base = base_folder(run.experiment)
    return BundleSource(
        adapter=entry.path,
        base=base,
        revision=base.name
        if run.experiment.local_base() is None
        else None,  # a hub snapshot's name is its commit
        folder=state.settings.record,
        record=record,
        experiment=experiment,
        files=_inputs(run.experiment, experiment["checksums"], rows=state.settings.promote_data),
        gguf=_shipped(run, experiment, entry.path),
        sign=_signer(state),
    )


def _shipped(run: ExperimentRun, experiment: Mapping[str, Any], adapter: Path) -> Mapping[str, Path]:
    """Return the GGUF files that gave the answers of the decision; none where another runtime did."""
    if judged_file(experiment) is None:
        return {}
    name = run.experiment.runtimes[0]
    runtime = run.engine.runtime(name)
    if not isinstance(runtime, ShippingRuntime):
        raise BundleError(f"the runtime {name!r} does not say where the GGUF file lies that was judged")
    try:
        return runtime.files(adapter)
    except AnsweringError as error:
        raise BundleError(str(error)) from None


def _inputs(
    experiment: Experiment, checksums: Mapping[str, Any], *, rows: bool
) -> dict[str, tuple[Path, str]]:
    """Return the files that go into the bundle, with the digests that they had when the run read them."""
    wanted = ["experiment", "contract", *(["train", "dev", "eval", "neutral"] if rows else [])]
    chosen = [checksums[name] for name in wanted if name in checksums]
    if rows:
        chosen += list((checksums.get("suites") or {}).values())
    for facts in chosen:
        if facts.get("data_set"):
            raise BundleError(
                f"--finetune-promote-data copies files, and {facts['path']} is a data set: leave the flag out, or "
                f"write its rows as files with `pytest-finetune import {facts['path']}`"
            )
    return {
        Path(facts["path"]).as_posix(): (experiment.path(facts["path"]), facts["sha256"]) for facts in chosen
    }


def _signer(state: FinetuneSession) -> Callable[[Path], None] | None:
    key = state.settings.sign
    if key is None:
        return None
    named = key if key == SIGSTORE else str(state.config.invocation_params.dir / key)
    return lambda folder: sign(folder, named)
